package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

// Savepoint takes one and returns its manifest once all of it is at the URI. The job goes on; so
// does the savepoint where ctx ends before.
// Where it takes no checkpoints, or there is a savepoint already, that is a fault.Invalid; where
// the job has failed and is about to start again a fault.Retryable.
func (j *Job) Savepoint(ctx context.Context, uri string) (*protocol.Manifest, error) {
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
	j.mu.Lock()
	g := j.current
	j.mu.Unlock()
	return g.loop.savepoint(ctx, uri, to)
}

func (c *Coordinator) savepointStore(ctx context.Context, uri string) (SavepointStore, error) {
	if c.cfg.Checkpoints.Savepoints == nil {
		return nil, fault.New(fault.Invalid, "savepoint %s: this server has no folder for savepoints", uri)
	}
	return c.cfg.Checkpoints.Savepoints(ctx, uri)
}

// savepoint is a request for one. It is answered once, by whoever has it then.
type savepoint struct {
	id    string
	uri   string
	to    SavepointStore
	reply chan result // buffered
}

// answer tells what has come of it, to whoever still waits.
func (s *savepoint) answer(r result) {
	r.err = errors.Join(r.err, s.to.Close())
	s.reply <- r
}

// errGone answers requests for savepoints of a run that has ended.
var errGone = fault.New(fault.Retryable, "the job ended, or failed and starts again, before the savepoint was complete")

// savepoint asks for one and waits until it is there. It closes the store once that is done with. It
// is safe for concurrent use.
func (l *loop) savepoint(ctx context.Context, uri string, to SavepointStore) (*protocol.Manifest, error) {
	s := &savepoint{id: rand.Text(), uri: uri, to: to, reply: make(chan result, 1)}
	select {
	case l.asked <- s:
	case <-l.ended:
		s.answer(result{err: errGone})
	case <-ctx.Done():
		s.answer(result{err: ctx.Err()})
	}
	select {
	case r := <-s.reply:
		if errors.Is(r.err, context.Canceled) && ctx.Err() == nil {
			return nil, errGone // it is the run that was cancelled
		}
		return r.manifest, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// export copies a checkpoint to where its savepoint was asked for.
func (l *loop) export(ctx context.Context, s *savepoint, m *protocol.Manifest) {
	made, err := l.repo.Export(ctx, m, s.to, l.job.c.cfg.Checkpoints.Dir)
	l.mu.Lock()
	delete(l.exports, m.Epoch)
	l.mu.Unlock()
	s.answer(result{m.Epoch, made, err})
}
