package jobservice

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"
	"weak"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
)

const (
	// whyInterrupted is the reason of a failure that a restart has found.
	whyInterrupted = "the server stopped while the job ran, and the job had no checkpoint to go on from"
	whyNeverRun    = "the server stopped before the job was run: submit it again"
)

// restore brings back the jobs of earlier processes. Those that had not ended
// have now, or go on.
func (s *Service) restore() error {
	if s.cfg.Records == nil {
		return nil
	}
	var interrupted []*job
	err := s.cfg.Records.Load(func(r Record, err error) {
		if err != nil {
			s.cfg.Logger.Warn("job record left alone: it can't be read", "job", r.ID, "error", err)
			return
		}
		j := &job{
			id: r.ID, name: r.Name, options: r.Options, size: r.Bytes, prepared: r.Prepared, records: s.cfg.Records,
			ending: true, checkpointing: true,
		}
		if r.Ended {
			j.adopt(r.Events)
			j.archived = true
		} else {
			interrupted = append(interrupted, j)
		}
		s.enlist(j)
	})
	if err != nil {
		return fmt.Errorf("job records: %w", err)
	}
	for _, j := range interrupted {
		s.interrupt(j)
	}
	slices.SortStableFunc(s.order, func(a, b *job) int { return a.prepared.Compare(b.prepared) })
	return nil
}

// interrupt ends a job that had not ended when its process did, or has it go on.
func (s *Service) interrupt(j *job) {
	w, events, err := s.cfg.Records.Resume(j.id)
	why, whyNot := whyInterrupted, whyNeverRun
	if err != nil {
		s.cfg.Logger.Warn("job record damaged", "job", j.id, "error", err)
		why = "how the job ended is unknown: " + err.Error()
		whyNot = why
	}
	j.journal = newJournal(s.cfg)
	j.adopt(events)
	if len(j.states) == 0 { // it has not been run
		events = append([]Event{{Seq: 1, Time: j.prepared, State: jobpb.JobState_STOPPED}}, events...)
		j.adopt(events)
	}
	for _, e := range events {
		j.journal.keep(e)
	}
	if w != nil {
		j.recorder = newRecorder(j.journal, s.cfg.Logger.With("job", j.id))
		j.recorder.after = j.journal.last
		j.recorder.begin <- true
		go j.recorder.run(func() (RecordWriter, error) { return w, nil })
	}
	if err == nil && s.comeBack(j) {
		return
	}
	var last []Event
	switch j.state {
	case jobpb.JobState_STOPPED:
		last = []Event{{Level: slog.LevelWarn, Text: whyNot}, {State: jobpb.JobState_CANCELLED}}
	case jobpb.JobState_CANCELLING:
		last = []Event{{State: jobpb.JobState_CANCELLED}}
	default:
		last = failed(why)
	}
	j.settle(j.seal(last...))
}

// record begins the record of a new job, beside which the client stages its files. Without one the job goes
// on. The caller holds mu.
func (s *Service) record(j *job) {
	if s.cfg.Records == nil {
		return
	}
	rec, pipeline := Record{ID: j.id, Name: j.name, Prepared: j.prepared, Options: j.options, Bytes: j.size}, j.pipeline
	r := newRecorder(j.journal, s.cfg.Logger.With("job", j.id))
	j.recorder, j.recording = r, r.opened
	s.background.Go(func() {
		r.run(func() (RecordWriter, error) { return s.cfg.Records.Create(rec, pipeline) })
	})
}

// unrecord drops what is recorded of jobs that are forgotten.
func (s *Service) unrecord(jobs []*job) {
	for _, j := range jobs {
		s.artifacts.Release(j.token)
		s.forgetCheckpoints(j)
		if s.cfg.Records == nil {
			continue
		}
		if j.recording != nil {
			<-j.recording // else it would come after it has been removed
		}
		if err := s.cfg.Records.Remove(j.id); err != nil {
			s.cfg.Logger.Warn("job record not removed", "job", j.id, "error", err)
		}
	}
}

// pipelineOf returns a job's pipeline from memory or its record.
func (s *Service) pipelineOf(j *job) (*pipepb.Pipeline, error) {
	j.mu.Lock()
	p := j.pipeline
	j.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := s.cfg.Records.Pipeline(j.id)
	return p, archived(j, err)
}

// metricsOf returns those of the running job or the final ones.
func (s *Service) metricsOf(j *job) (*jobpb.MetricResults, error) {
	j.mu.Lock()
	run, metrics, live := j.run, j.metrics, j.journal != nil
	j.mu.Unlock()
	switch {
	case run != nil:
		metrics = &jobpb.MetricResults{}
		metrics.Attempted, metrics.Committed = run.Metrics()
	case metrics != nil:
	case live:
		metrics = &jobpb.MetricResults{}
	default:
		var err error
		if metrics, err = s.cfg.Records.Metrics(j.id); err != nil {
			return nil, archived(j, err)
		}
	}
	return metrics, nil
}

// journalOf returns a job's journal, which for most ended jobs is read from the
// record and forgotten when nobody uses it any more.
func (s *Service) journalOf(j *job) (*journal, error) {
	j.mu.Lock()
	live := j.journal
	j.mu.Unlock()
	if live != nil {
		return live, nil
	}
	j.reading.Lock()
	defer j.reading.Unlock()
	if restored := j.restored.Value(); restored != nil {
		return restored, nil
	}
	events, err := s.cfg.Records.Events(j.id)
	if fault.ClassOf(err) == fault.Corruption {
		events = withNotice(events, err)
	} else if err != nil {
		return nil, archived(j, err)
	}
	restored := restoreJournal(s.cfg, events)
	j.restored = weak.Make(restored)
	return restored, nil
}

// withNotice tells of a damaged log where it breaks off: before the end.
func withNotice(events []Event, err error) []Event {
	at := len(events)
	for at > 0 && (events[at-1].Failure || events[at-1].State != jobpb.JobState_UNSPECIFIED) {
		at--
	}
	notice := Event{Seq: 1, Level: slog.LevelWarn, Text: "messages are missing here: " + err.Error()}
	if at > 0 {
		notice.Seq, notice.Time = events[at-1].Seq+1, events[at-1].Time
	}
	return slices.Insert(events, at, notice)
}

// archived explains why a record could not be read.
func archived(j *job, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return rpcstatus.Errorf(codes.NotFound, "the record of job %s is gone", j.id)
	default:
		return rpcstatus.Of(fmt.Errorf("record of job %s: %w", j.id, err))
	}
}

// sweep forgets, every now and then, what is older than it need be.
func (s *Service) sweep() {
	defer s.background.Done()
	every := min(max(min(s.cfg.JobRetention, s.cfg.PreparedRetention)/10, 50*time.Millisecond), time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.unrecord(s.forgetOld(now))
		case <-s.stop:
			return
		}
	}
}

// forgetOld takes jobs past their time off the list and returns them.
func (s *Service) forgetOld(now time.Time) (old []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range slices.Clone(s.order) {
		sum := j.summary()
		switch {
		case Terminal(sum.State) && now.Sub(sum.Ended) >= s.cfg.JobRetention:
		case sum.State == jobpb.JobState_STOPPED && now.Sub(sum.Prepared) >= s.cfg.PreparedRetention &&
			now.Sub(s.artifacts.LastStaged(j.token)) >= s.cfg.PreparedRetention &&
			j.expire(fmt.Sprintf("the job was not run within %v after it was prepared: submit it again", s.cfg.PreparedRetention)):
		default:
			continue
		}
		s.strike(j)
		old = append(old, j)
	}
	if len(old) > 0 {
		s.cfg.Logger.Debug("old jobs forgotten", "jobs", len(old))
	}
	return old
}
