package jobservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// A job with checkpoints outlives the process. Its record then has what it staged (Records.Keep), which
// is how a later process knows it, and its checkpoints. That process starts it again, with the same id.

// forgetTimeout bounds the removal of an ended job's checkpoints. What is left goes with the record.
const forgetTimeout = 30 * time.Second

// keep makes the job one that survives. If that can't be recorded it does not.
func (s *Service) keep(j *job) {
	j.mu.Lock()
	j.checkpointing = true
	j.mu.Unlock()
	if !j.awaitRecord(context.Background()) {
		return
	}
	staged, err := s.artifacts.Staged(j.token)
	if err == nil {
		err = s.cfg.Records.Keep(j.id, Kept{staged, j.replaces, j.restoreFrom})
	}
	if err != nil {
		s.cfg.Logger.Warn("the job won't survive a restart of the server: its record can't be written", "job", j.id, "error", err)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.survives = true
}

// goesOn tells whether another process can go on with the job: from a checkpoint or, with unbounded
// input, from the beginning. The caller holds mu.
func (j *job) goesOn() bool {
	return j.survives && (newestComplete(j.checkpoints) > 0 || j.restoreFrom != "" || j.plan == nil || !j.plan.Bounded())
}

// suspend stops a job for another process to go on with it, from the newest of its checkpoints; false if
// none can.
func (j *job) suspend() (newest uint64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ending || j.cancel == nil || j.state == jobpb.JobState_CANCELLING || !j.goesOn() {
		return 0, false
	}
	j.suspended = true
	j.cancel()
	return newestComplete(j.checkpoints), true
}

// leave closes the record of a suspended job whose run has ended with err, for another process to go on
// with; false if this process has to end the job.
func (j *job) leave(err error) bool {
	j.mu.Lock()
	r := j.recorder
	left := j.suspended && err != nil && !errors.Is(err, ErrStopped) && j.state != jobpb.JobState_CANCELLING
	if left {
		j.ending = true // though not by us
		j.hand(nil)
		j.cancel, j.recorder = nil, nil
	}
	j.mu.Unlock()
	if left && r != nil {
		r.leave()
	}
	return left
}

// comeBack takes up a job that an earlier process ran; false if it isn't one that survives. It is
// called before the service takes jobs.
func (s *Service) comeBack(j *job) bool {
	switch j.state {
	case jobpb.JobState_STOPPED: // the process may have been killed before it had noted the start
	case jobpb.JobState_STARTING, jobpb.JobState_RUNNING, jobpb.JobState_DRAINING:
	default:
		return false
	}
	kept, err := s.cfg.Records.Kept(j.id)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = s.artifacts.Restore(kept.Staged)
	}
	if err == nil {
		err = s.mayReplace(kept.Replaces)
	}
	list, damaged := s.cfg.Records.Checkpoints(j.id)
	if damaged != nil { // the store knows them too
		s.cfg.Logger.Warn("list of checkpoints damaged", "job", j.id, "error", damaged)
	}
	ctx, cancel := context.WithCancel(context.Background())
	j.token, j.ending, j.survives, j.cancel, j.checkpoints = kept.Token, false, true, cancel, list
	j.replaces, j.restoreFrom, j.handed = kept.Replaces, kept.RestoreFrom, make(chan struct{})
	s.running.Add(1)
	go s.resume(ctx, cancel, j, err)
	return true
}

// resume runs a job of an earlier process to its end, unless something stands in the way.
func (s *Service) resume(ctx context.Context, cancel context.CancelFunc, j *job, problem error) {
	defer s.running.Done()
	defer cancel()
	if err := s.planAgain(ctx, j, problem); err != nil {
		if !j.leave(ctx.Err()) {
			s.end(j, nil, fmt.Errorf("the server stopped while the job ran, and the job can't go on: %w", err))
		}
		return
	}
	spec := s.spec(j)
	j.mu.Lock()
	goesOn := j.goesOn()
	spec.Resumed, spec.AtLeast = true, newestComplete(j.checkpoints)
	j.mu.Unlock()
	if !goesOn {
		s.end(j, nil, errors.New(whyInterrupted))
		return
	}
	sink{j}.Message(slog.LevelInfo, "the server was started again, and the job goes on")
	s.cfg.Logger.Info("job goes on", "job", j.id, "checkpoint", spec.AtLeast)
	s.lead(ctx, j, spec)
}

// planAgain gives a job of an earlier process its pipeline and plan.
func (s *Service) planAgain(ctx context.Context, j *job, problem error) error {
	if problem != nil {
		return problem
	}
	p, err := s.cfg.Records.Pipeline(j.id)
	if err != nil {
		return err
	}
	made, err := s.planPipeline(ctx, p, j.options)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pipeline, j.plan = p, made
	return nil
}

// forgetCheckpoints removes what an ended job could have gone on with.
func (s *Service) forgetCheckpoints(j *job) {
	j.mu.Lock()
	may := j.checkpointing
	j.mu.Unlock()
	if !may {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	if err := s.executor.Forget(ctx, j.id); err != nil {
		s.cfg.Logger.Warn("checkpoints of an ended job not removed", "job", j.id, "error", err)
	}
}

// Checkpoint implements Sink. Who sees it in a job's list may count on it to be in the record.
func (s sink) Checkpoint(c Checkpoint) {
	j := s.job
	c.Failure = clipText(c.Failure, 10_000)
	j.mu.Lock()
	r := j.recorder
	j.mu.Unlock()
	if r != nil && r.exists(context.Background()) {
		if err := j.records.AddCheckpoint(j.id, c); err != nil {
			r.log.Warn("checkpoint not recorded; the job goes on", "epoch", c.Epoch, "error", err)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.checkpoints = TrimCheckpoints(append(j.checkpoints, c))
}

// CheckpointAges returns how old the newest checkpoint is of each job that runs and takes some; of one that has none, how
// long it has run.
func (s *Service) CheckpointAges() map[string]time.Duration {
	s.mu.Lock()
	jobs := slices.Clone(s.order)
	s.mu.Unlock()
	ages := map[string]time.Duration{}
	for _, j := range jobs {
		j.mu.Lock()
		if j.checkpointing && !j.ending && !j.started.IsZero() {
			since := j.started
			for _, c := range j.checkpoints {
				if c.Failure == "" && c.Began.After(since) {
					since = c.Began
				}
			}
			ages[j.id] = time.Since(since)
		}
		j.mu.Unlock()
	}
	return ages
}
