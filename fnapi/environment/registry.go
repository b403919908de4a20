package environment

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
)

// Registry is a Launcher that remembers the workers another one has started, so that whoever
// shuts down can stop them all. Its methods may be called concurrently.
type Registry struct {
	launcher Launcher
	// closing is cancelled by StopAll, and with it the launches under way.
	closing context.Context
	close   context.CancelFunc

	mu       sync.Mutex
	live     map[*tracked]struct{}
	launches sync.WaitGroup // added to under mu and only before closing
}

var _ Launcher = (*Registry)(nil)

// NewRegistry returns a registry of what is started through it by l.
func NewRegistry(l Launcher) *Registry {
	r := &Registry{launcher: l, live: map[*tracked]struct{}{}}
	r.closing, r.close = context.WithCancel(context.Background())
	return r
}

// tracked is a worker that leaves the registry once it has been stopped.
type tracked struct {
	Worker
	id       string
	registry *Registry
}

func (w *tracked) Stop(ctx context.Context) error {
	err := w.Worker.Stop(ctx)
	if err == nil {
		w.registry.mu.Lock()
		delete(w.registry.live, w)
		w.registry.mu.Unlock()
	}
	return err
}

// Launch implements Launcher. After StopAll it fails with class Retryable.
func (r *Registry) Launch(ctx context.Context, req Request) (Worker, error) {
	r.mu.Lock()
	if r.closing.Err() != nil {
		r.mu.Unlock()
		return nil, errClosed(req.WorkerID)
	}
	r.launches.Add(1)
	r.mu.Unlock()
	defer r.launches.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.closing, cancel)()
	w, err := r.launcher.Launch(ctx, req)
	if err != nil {
		if r.closing.Err() != nil {
			return nil, errClosed(req.WorkerID)
		}
		return nil, err
	}
	// StopAll waits for launches, so it finds this one even if it began in between.
	t := &tracked{w, req.WorkerID, r}
	r.mu.Lock()
	r.live[t] = struct{}{}
	r.mu.Unlock()
	return t, nil
}

func errClosed(id string) error {
	return fault.New(fault.Retryable, "worker %s is not started: this server is shutting down", id)
}

// Live returns the ids of the workers that have been started and not stopped, sorted. Those that
// ended by themselves stay in the list until they are stopped.
func (r *Registry) Live() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for w := range r.live {
		ids = append(ids, w.id)
	}
	slices.Sort(ids)
	return ids
}

// StopAll refuses further launches, ends those under way and stops all workers at once, waiting
// for each as Worker.Stop does. It may be called again, for example with more time.
func (r *Registry) StopAll(ctx context.Context) error {
	r.mu.Lock()
	r.close()
	r.mu.Unlock()
	r.launches.Wait()

	r.mu.Lock()
	var workers []*tracked
	for w := range r.live {
		workers = append(workers, w)
	}
	r.mu.Unlock()
	errs := make([]error, len(workers))
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() { errs[i] = w.Stop(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
