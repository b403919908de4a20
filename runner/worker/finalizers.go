package worker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lintelrun/lintel/fnapi"
)

// finalizers are the bundles of a job with checkpoints that ask to be told when their results are durable: once a
// checkpoint is complete that has them. Their tasks don't end before that. Safe for concurrent use.
type finalizers struct {
	mu      sync.Mutex
	waiting []finalizer
	ctx     context.Context // of the execution, while its tasks run; nil before and after
	running sync.WaitGroup
}

// finalizer is a bundle whose commit is in the checkpoint of epoch and in later ones: its task had not yet taken the
// snapshot of that.
type finalizer struct {
	epoch  uint64
	task   *execTask
	bundle *fnapi.Bundle
}

// finalizeAtOnce is how many bundles are finalised at once.
const finalizeAtOnce = 8

// start begins the time in which bundles are finalised.
func (f *finalizers) start(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx = ctx
}

// add notes a bundle that has committed. The first checkpoint that may have it is that of epoch.
func (f *finalizers) add(epoch uint64, task *execTask, bundle *fnapi.Bundle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, finalizer{epoch, task, bundle})
	task.unfinalized.Add(1)
}

// durable notes that the checkpoint of an epoch is complete. It doesn't wait.
func (f *finalizers) durable(epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil {
		return
	}
	var due []finalizer
	f.waiting = slices.DeleteFunc(f.waiting, func(w finalizer) bool {
		if w.epoch <= epoch {
			due = append(due, w)
			w.task.unfinalized.Add(-1)
		}
		return w.epoch <= epoch
	})
	ctx := f.ctx
	f.running.Go(func() { finalizeAll(ctx, due) })
}

// end waits for what is being finalised, when all tasks have ended. If they have failed, others have not been durable.
func (f *finalizers) end() {
	f.mu.Lock()
	f.waiting, f.ctx = nil, nil
	f.mu.Unlock()
	f.running.Wait()
}

// finalizeAll is best effort, as the Fn API has it: the SDK's callbacks expire, and are lost with their harness.
func finalizeAll(ctx context.Context, due []finalizer) {
	var running sync.WaitGroup
	slots := make(chan struct{}, finalizeAtOnce)
	var failed atomic.Int64
	for _, w := range due {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if err := finalize(ctx, w.bundle); err != nil && failed.Add(1) == 1 { // of many that expire one says it
				w.task.log.Warn("bundle not finalised", "bundle", w.bundle.ID(), "error", err)
			}
		})
	}
	running.Wait()
	if n := failed.Load(); n > 1 {
		due[0].task.e.log.Warn("bundles not finalised", "failed", n, "of", len(due))
	}
}

func finalize(ctx context.Context, b *fnapi.Bundle) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return b.Finalize(ctx)
}

// Finalized is part of rpc.Execution.
func (e *execution) Finalized(ctx context.Context) error {
	if e.checkpoints == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.checkpoints.final.running.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
