package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/rpc"
)

const (
	// maxLosses is how many harnesses of a pool are lost in a row, with no bundle done well in between,
	// before they are not replaced any more. A bundle that kills its harness has used up its attempts before.
	maxLosses = 6
	// lastWords is how long a process may take to be seen dead after its streams
	// broke: how it ended says more than that they did.
	lastWords = 500 * time.Millisecond
	stopTime  = 8 * time.Second
)

// keep has one harness of the pool at a time until ctx ends. One that does not come up
// is an error before any of the pool has. Later they are replaced: at once, then ever
// later, and not without end, as long as none of them is of use.
func (e *execution) keep(ctx context.Context, p *pool) error {
	defer p.change(func() { p.keepers-- })
	for first := true; ; first = false {
		started := e.spans.harness(p.name, first)
		h, err := e.start(ctx, p)
		started(h, err)
		switch {
		case err == nil:
			err = e.attend(ctx, p, h)
		case !p.came() && ctx.Err() == nil:
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		losses := p.noteLoss(err)
		what := "a harness was lost and is replaced"
		if losses >= maxLosses {
			what = fmt.Sprintf("a harness was lost and is not replaced: %d were in a row, and no bundle was done in between", losses)
		}
		e.log.Warn(what, "environment", p.name, "error", err)
		e.d.Log(rpc.Message{Severity: rpc.Warn, Source: "environment " + p.name, Text: fmt.Sprintf("%s: %v", what, err)})
		if losses >= maxLosses {
			return nil
		}
		select {
		case <-time.After(restartDelay(e.cfg.RestartDelay, losses)):
		case <-ctx.Done():
			return nil
		}
	}
}

// restartDelay is how long to wait before a harness is replaced, when so many were lost in a row.
func restartDelay(least time.Duration, losses int) time.Duration {
	if losses == 1 {
		return 0
	}
	return least << (losses - 2)
}

// came reports whether any harness has ever come up.
func (p *pool) came() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected
}

// noteLoss notes why a harness was lost, and returns how many were since a bundle was done well.
func (p *pool) noteLoss(cause error) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = cause
	p.losses++
	return p.losses
}

// start launches a harness and waits until it has connected.
func (e *execution) start(ctx context.Context, p *pool) (*harness, error) {
	h, err := e.launch(ctx, p)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- h.Ready(wait) }()
	select {
	case err = <-ready:
		if err != nil && wait.Err() != nil && ctx.Err() == nil {
			err = fault.New(fault.Retryable, "environment %s: harness %s did not connect to %s within %v", p.name, h.ID(), e.cfg.Server.BundleEndpoint(), e.cfg.ConnectTimeout)
		}
	case <-h.worker.Done():
		err = fmt.Errorf("environment %s: harness %s ended before it connected: %w", p.name, h.ID(), h.end())
	}
	if err != nil {
		e.stop(p, h)
		return nil, err
	}
	return h, nil
}

// attend lets the pool use a harness until it is lost or ctx ends, and returns why.
func (e *execution) attend(ctx context.Context, p *pool, h *harness) error {
	p.change(func() { p.harnesses, p.connected = append(p.harnesses, h), true })
	select {
	case <-h.Done():
		select {
		case <-h.worker.Done():
		case <-time.After(lastWords):
		case <-ctx.Done():
		}
	case <-h.worker.Done():
	case <-ctx.Done():
	}
	h.cause = h.end()
	if ctx.Err() != nil {
		h.cause = ctx.Err()
	}
	p.change(func() { p.harnesses = slices.DeleteFunc(p.harnesses, func(o *harness) bool { return o == h }) })
	close(h.gone) // retries find the next one
	e.stop(p, h)
	return h.cause
}

// end says how a harness ended, as far as that is known.
func (h *harness) end() error {
	if err := h.worker.Err(); err != nil {
		return err
	}
	if err := h.Err(); err != nil {
		return fault.New(fault.Retryable, "harness %s lost: %w", h.ID(), err)
	}
	return fault.New(fault.Retryable, "harness %s has been stopped", h.ID())
}

// stop ends a harness and waits for its process, even if the job was cancelled. Where somebody else runs it
// nobody can say when it is gone: that it is to go is told beside, and whoever shuts down waits for that.
func (e *execution) stop(p *pool, h *harness) {
	h.Close()
	if p.env.GetUrn() == urns.EnvironmentExternal {
		go e.stopWorker(h)
		return
	}
	e.stopWorker(h)
}

func (e *execution) stopWorker(h *harness) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := h.worker.Stop(ctx); err != nil {
		e.log.Warn("harness not stopped", "harness", h.ID(), "error", err)
	}
}
