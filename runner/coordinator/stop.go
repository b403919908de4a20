package coordinator

import (
	"context"
	"errors"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

// ErrStopped is what Wait returns for a job that was stopped with a savepoint.
var ErrStopped = errors.New("the job was stopped with a savepoint")

// Stop ends the job with a savepoint, and returns its manifest once all of it is at the URI. Nothing that is not in it
// leaves the job: its sources hold back from then on, its bundles are finalised, and Wait returns ErrStopped. If it comes to
// nothing, as Savepoint says, the job goes on.
// With drain the job comes to its end first, as by Drain: the savepoint is of a job whose sources and windows have
// closed, and Wait returns nil. If that savepoint comes to nothing the job has ended all the same.
// If ctx ends before, the job stops nevertheless.
func (j *Job) Stop(ctx context.Context, uri string, drain bool) (*protocol.Manifest, error) {
	if !drain {
		return j.take(ctx, uri, true)
	}
	s, err := j.newSavepoint(ctx, uri)
	if err != nil {
		return nil, err
	}
	s.last = true
	if err := j.expectLast(s); err != nil {
		s.answer(result{err: err})
		return s.wait(ctx)
	}
	j.Drain()
	return s.wait(ctx)
}

// expectLast has a savepoint taken when the job has come to its end.
func (j *Job) expectLast(s *savepoint) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.over:
		return errGone
	case j.last != nil:
		return fault.New(fault.Invalid, "job %s is being stopped with the savepoint %s", j.spec.ID, j.last.uri)
	}
	j.last = s
	return nil
}

// takeLast takes the savepoint with which the job ends, if that was asked for: l is the loop of a run whose tasks have come
// to their end, nil if they haven't. Nobody asks for one afterwards.
func (j *Job) takeLast(ctx context.Context, l *loop) {
	j.mu.Lock()
	s := j.last
	j.last, j.over = nil, true
	j.mu.Unlock()
	switch {
	case s == nil:
	case l == nil:
		s.answer(result{err: errGone})
	default:
		l.ask(ctx, s)
		<-s.answered
	}
}
