package jobservice

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
)

// stopping is how a job is being stopped with a savepoint.
type stopping struct {
	uri   string
	drain bool
	next  string        // id of the job that takes its place, "" if none does
	taken chan struct{} // closed once the savepoint is complete, or has come to nothing
	ended chan struct{} // closed once the job has ended, however
}

func newStopping(uri string, drain bool, next string) *stopping {
	return &stopping{uri: uri, drain: drain, next: next, taken: make(chan struct{}), ended: make(chan struct{})}
}

// outcome returns the events that end a job which was stopped in some state.
func (s *stopping) outcome(state State) []Event {
	text := "stopped with the savepoint " + s.uri
	switch {
	case s.next != "":
		text, state = text+", with which job "+s.next+" goes on", jobpb.JobState_UPDATED
	case state == jobpb.JobState_DRAINING:
		state = jobpb.JobState_DRAINED
	default:
		state = jobpb.JobState_CANCELLED
	}
	return []Event{{Level: slog.LevelInfo, Text: text}, {State: state}}
}

// Savepoint takes a savepoint of a running job, which goes on, and returns when it is complete. Without a URI it goes
// where the executor says. It is taken to its end where ctx ends before.
func (s *Service) Savepoint(ctx context.Context, id, uri string) (Savepoint, error) {
	j, err := s.job(id)
	if err != nil {
		return Savepoint{}, err
	}
	if uri, err = s.executor.SavepointURI(id, uri); err != nil {
		return Savepoint{}, rpcstatus.Of(err)
	}
	run, state := j.runs(ctx)
	if run == nil {
		return Savepoint{}, rpcstatus.Errorf(codes.FailedPrecondition, "job %s is %v: savepoints are of running jobs", id, state)
	}
	made, err := s.unhurried(ctx, j, uri, func(ctx context.Context) (Savepoint, error) { return run.Savepoint(ctx, uri) })
	return made, rpcstatus.Of(err)
}

// Stop ends a running job with a savepoint, which is as that of Savepoint, and returns it and the state that the job has ended in:
// DRAINED if it was to be drained first, else CANCELLED. After an error the job goes on, unless it
// has ended otherwise.
func (s *Service) Stop(ctx context.Context, id, uri string, drain bool) (Savepoint, State, error) {
	j, err := s.job(id)
	if err != nil {
		return Savepoint{}, jobpb.JobState_UNSPECIFIED, err
	}
	uri, err = s.executor.SavepointURI(id, uri)
	var made Savepoint
	if err == nil {
		made, err = s.stopJob(ctx, j, newStopping(uri, drain, ""))
	}
	return made, j.summary().State, rpcstatus.Of(err)
}

// stopJob returns once the job has ended with its savepoint, or goes on.
func (s *Service) stopJob(ctx context.Context, j *job, how *stopping) (Savepoint, error) {
	j.runs(ctx)
	run, err := j.beginStop(how)
	if err != nil {
		return Savepoint{}, err
	}
	return s.unhurried(ctx, j, how.uri, func(ctx context.Context) (Savepoint, error) {
		made, err := run.Stop(ctx, how.uri, how.drain)
		if err != nil {
			j.giveUpStop()
		}
		close(how.taken)
		if err == nil {
			<-how.ended // Wait returns
		}
		return made, err
	})
}

// beginStop notes how a running job is being stopped, if it can be.
func (j *job) beginStop(how *stopping) (Run, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.stopping != nil:
		return nil, rpcstatus.Errorf(codes.FailedPrecondition, "job %s is being stopped already, with the savepoint %s", j.id, j.stopping.uri)
	case j.run == nil || j.over || j.state != jobpb.JobState_RUNNING && (!how.drain || j.state != jobpb.JobState_DRAINING):
		return nil, rpcstatus.Errorf(codes.FailedPrecondition, "job %s is %v: only a running job can be stopped with a savepoint", j.id, j.state)
	}
	if how.drain {
		j.enter(jobpb.JobState_DRAINING)
	}
	j.stopping = how
	return j.run, nil
}

// giveUpStop is for a job that could not be stopped.
func (j *job) giveUpStop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stopping = nil
}

// awaitStop is for a job whose run has ended. If it is being stopped it waits for the savepoint.
func (j *job) awaitStop() {
	j.mu.Lock()
	j.over = true
	how := j.stopping
	j.mu.Unlock()
	if how != nil {
		<-how.taken
	}
}

// unhurried waits for a savepoint, which is taken to its end where ctx ends before, and has the job's log tell of it.
func (s *Service) unhurried(ctx context.Context, j *job, uri string, take func(context.Context) (Savepoint, error)) (Savepoint, error) {
	if !s.begin() {
		return Savepoint{}, errStopped
	}
	type result struct {
		made Savepoint
		err  error
	}
	taken := make(chan result, 1)
	go func() {
		defer s.running.Done()
		began := time.Now()
		sink{j}.Message(slog.LevelInfo, "taking the savepoint "+uri)
		made, err := take(context.WithoutCancel(ctx))
		if err != nil {
			sink{j}.Message(slog.LevelWarn, fmt.Sprintf("the savepoint %s came to nothing: %v", uri, err))
		} else {
			sink{j}.Message(slog.LevelInfo, fmt.Sprintf("the savepoint %s is complete: %d bytes, in %v", uri, made.Bytes, time.Since(began).Round(time.Millisecond)))
		}
		taken <- result{made, err}
	}()
	select {
	case r := <-taken:
		return r.made, r.err
	case <-ctx.Done():
		return Savepoint{}, ctx.Err()
	}
}
