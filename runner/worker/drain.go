package worker

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
)

// draining tells all tasks that the job is to come to an end: sources stop, the
// rest of it flows out, and the final watermark closes what is open.
type draining struct {
	once  sync.Once
	asked chan struct{} // closed once the job is drained
}

func newDraining() *draining { return &draining{asked: make(chan struct{})} }

// Drain is part of rpc.Execution.
func (e *execution) Drain() { e.draining.once.Do(func() { close(e.draining.asked) }) }

// drained reports whether Drain was called.
func (e *execution) drained() bool {
	select {
	case <-e.draining.asked:
		return true
	default:
		return false
	}
}

// untilDrained returns a context that ends with ctx, or when the job is drained.
func (e *execution) untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-e.draining.asked:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// checkpoints is how a task's bundles are interrupted.
func (x *execTask) checkpoints() engine.Checkpoints {
	spec := x.stage.Exec
	return engine.Checkpoints{
		Unbounded: spec.Unbounded,
		Least:     x.e.cfg.Checkpoints.Least,
		Most:      x.e.cfg.Checkpoints.Most,
		Truncates: spec.Draining != nil,
	}
}

// lookout is beside an attempt of unbounded work and tells the task when it has put
// out something that is worth a commit.
type lookout struct {
	x     *execTask
	id    engine.BundleID
	hints chan struct{}
	ended chan struct{} // closed when the attempt ends

	mu      sync.Mutex
	over    bool
	started bool
	running sync.WaitGroup
}

// watch begins a lookout. Where time stands still while bundles run, it asks for
// the bundle to be interrupted once its time is over by the machine's clock.
func (x *execTask) watch(id engine.BundleID) *lookout {
	l := &lookout{x: x, id: id, hints: make(chan struct{}, 1), ended: make(chan struct{})}
	if x.e.clock.virtual {
		l.start()
	}
	return l
}

// start makes it run, unless it does or has ended.
func (l *lookout) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.over {
		return
	}
	l.started = true
	l.running.Go(l.run)
}

func (l *lookout) run() {
	var over <-chan time.Time
	if l.x.e.clock.virtual {
		ticker := time.NewTicker(l.x.e.cfg.Checkpoints.Most)
		defer ticker.Stop()
		over = ticker.C // again, as the harness may not have begun the bundle
	}
	for {
		select {
		case <-l.hints:
		case <-over:
		case <-l.ended:
			return
		}
		l.x.e.clock.begin(1)
		select {
		case l.x.results <- outcome{bundle: l.id, produced: true}:
		case <-l.ended:
			l.x.e.clock.end(1)
			return
		}
	}
}

// hint that there is output; never waits.
func (l *lookout) hint() {
	l.start()
	select {
	case l.hints <- struct{}{}:
	default:
	}
}

// end ends the lookout and returns when nothing of it is left.
func (l *lookout) end() {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	close(l.ended)
	l.running.Wait()
}

// hasElements reports whether a bundle's metrics have any elements.
func hasElements(infos []*pipepb.MonitoringInfo) bool {
	for _, info := range infos {
		if info.GetUrn() != urns.MetricElementCount {
			continue
		}
		if n, k := protowire.ConsumeVarint(info.GetPayload()); k > 0 && n > 0 {
			return true
		}
	}
	return false
}
