package coordinator

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

// Savepoint takes one and returns its manifest once all of it is at the URI. The job goes on; so
// does the savepoint where ctx ends before. The job's sources hold back until nothing is under way, for as long as the
// time-out of its checkpoints: then the savepoint comes to nothing.
// Where it takes no checkpoints, or there is a savepoint already, that is a fault.Invalid; where
// the job has failed and is about to start again a fault.Retryable.
func (j *Job) Savepoint(ctx context.Context, uri string) (*protocol.Manifest, error) {
	return j.take(ctx, uri, false)
}

// take takes a savepoint, and stops the job with it.
func (j *Job) take(ctx context.Context, uri string, stop bool) (*protocol.Manifest, error) {
	s, err := j.newSavepoint(ctx, uri)
	if err != nil {
		return nil, err
	}
	s.stop = stop
	j.mu.Lock()
	g := j.current
	j.mu.Unlock()
	g.loop.ask(ctx, s)
	return s.wait(ctx)
}

// newSavepoint returns a request for one at a URI where there is none yet.
func (j *Job) newSavepoint(ctx context.Context, uri string) (*savepoint, error) {
	if j.checkpoints == nil {
		return nil, fault.New(fault.Invalid, "job %s takes no checkpoints, so it can have no savepoint: submit it with checkpoint_interval", j.spec.ID)
	}
	to, err := j.c.savepointStore(ctx, uri)
	if err != nil {
		return nil, err
	}
	switch _, err := checkpointing.ReadSavepoint(ctx, to); {
	case err == nil:
		to.Close()
		return nil, fault.New(fault.Invalid, "there is a savepoint at %s already", uri)
	case !errors.Is(err, checkpointing.ErrAbsent):
		to.Close()
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	return &savepoint{id: rand.Text(), uri: uri, to: to, answered: make(chan struct{})}, nil
}

func (c *Coordinator) savepointStore(ctx context.Context, uri string) (SavepointStore, error) {
	if c.cfg.Checkpoints.Savepoints == nil {
		return nil, fault.New(fault.Invalid, "savepoint %s: this server has no folder for savepoints", uri)
	}
	return c.cfg.Checkpoints.Savepoints(ctx, uri)
}

// savepoint is a request for one. It is answered once, by whoever has it then.
type savepoint struct {
	id  string
	uri string
	to  SavepointStore
	// stop tells that the job ends with it, and last that all tasks have ended.
	stop, last bool

	answered chan struct{}
	result   // set before answered is closed
}

// answer tells what has come of it, to whoever still waits.
func (s *savepoint) answer(r result) {
	s.result = r
	s.err = errors.Join(r.err, s.to.Close())
	close(s.answered)
}

// wait returns the answer.
func (s *savepoint) wait(ctx context.Context) (*protocol.Manifest, error) {
	select {
	case <-s.answered:
		if errors.Is(s.err, context.Canceled) && ctx.Err() == nil {
			return nil, errGone // it is the run that was cancelled
		}
		return s.manifest, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// errGone answers requests for savepoints of a run that has ended.
var errGone = fault.New(fault.Retryable, "the job ended, or failed and starts again, before the savepoint was complete")

// ask asks for a savepoint, which is answered in any case. It is safe for concurrent use.
func (l *loop) ask(ctx context.Context, s *savepoint) {
	select {
	case l.asked <- s:
	case <-l.ended:
		s.answer(result{err: errGone})
	case <-ctx.Done():
		s.answer(result{err: ctx.Err()})
	}
}

// request notes what was asked for.
func (l *loop) request(s *savepoint) {
	l.requests[s.id] = s
	if s.last {
		for i := range l.tasks {
			l.co.TaskEnded(i) // the answers may not have come
		}
	}
	l.co.Savepoint(s.id)
}

// taken takes a savepoint's request, nil if nobody has asked.
func (l *loop) taken(id string) *savepoint {
	s := l.requests[id]
	delete(l.requests, id)
	return s
}

// quiet waits until nothing is under way but what a savepoint has.
func (l *loop) quiet(ctx context.Context, stay bool) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.job.checkpoints.schedule.Timeout, protocol.DefaultTimeout))
	defer cancel()
	return l.exec.Quiet(ctx, stay)
}

// export copies a checkpoint to where its savepoint was asked for. Then the job stops, if it is to.
func (l *loop) export(ctx context.Context, s *savepoint, m *protocol.Manifest) {
	made, err := l.repo.Export(ctx, m, s.to, l.job.c.cfg.Checkpoints.Dir)
	l.mu.Lock()
	delete(l.exports, m.Epoch)
	l.mu.Unlock()
	switch {
	case !s.stop:
	case err == nil:
		if failed := l.exec.Finalized(ctx); failed != nil {
			l.job.c.cfg.Logger.Warn("job stops before its bundles are finalised", "job", l.job.spec.ID, "error", failed)
		}
		l.stopped <- struct{}{}
	default:
		l.exec.Resume()
	}
	s.answer(result{m.Epoch, made, err})
}
