package coordinator

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/rpc"
)

// hooked is a store whose manifests are looked at on their way.
type hooked struct {
	checkpointing.Store
	mu            sync.Mutex // protects what follows
	before, after func()     // nil: nothing
}

func (h *hooked) set(before, after func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.after = before, after
}

func (h *hooked) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	if !strings.Contains(name, "/manifest-") {
		return h.Store.Create(ctx, name, content)
	}
	h.mu.Lock()
	before, after := h.before, h.after
	h.mu.Unlock()
	if before != nil {
		before()
	}
	err := h.Store.Create(ctx, name, content)
	if after != nil {
		after()
	}
	return err
}

// history is a job that meets one failure after the other.
type history struct {
	*rig
	t     *testing.T
	ctx   context.Context
	store *hooked
	job   *Job
	kill  context.CancelFunc // of the process
	// damaged are epochs that can't be restored.
	damaged map[uint64]bool
	runs    int // deployments looked at
}

var errLost = fault.New(fault.Retryable, "a harness is lost")

// last returns the newest deployment.
func (h *history) last() *execution { return h.run(h.deployed()) }

func (h *history) deployed() int {
	h.worker.mu.Lock()
	defer h.worker.mu.Unlock()
	return len(h.worker.runs)
}

// process starts a process, which takes the job up where it is.
func (h *history) process() {
	var life context.Context
	life, h.kill = context.WithCancel(h.ctx)
	h.spec.Resumed = h.job != nil
	h.spec.AtLeast = slices.Max(append(h.complete(), 0))
	h.job = h.start(life, h.t)
}

func (h *history) killed() {
	h.kill()
	wantWait(h.t, h.job, context.Canceled)
	h.process()
}

// once has a hook say how the next call ends, and that those after it end well.
func (h *history) once(hook *func(*execution) error, ends func(*execution) error) {
	h.set(func() {
		*hook = func(e *execution) error {
			h.set(func() { *hook = nil })
			return ends(e)
		}
	})
}

func lost(*execution) error { return errLost }

// at has barriers answered in another way for a while.
func (h *history) at(barrier func(*execution, protocol.Begun)) {
	h.set(func() { h.onBarrier = barrier })
	sleep(10 * time.Second)
	h.set(func() { h.onBarrier = nil })
}

// failures are all that may happen to a job that goes on all the same.
var failures = map[string]func(*history){
	"the run fails": func(h *history) { h.last().result <- errLost },
	"and so does the next deployment": func(h *history) {
		h.once(&h.onDeploy, lost)
		h.last().result <- errLost
	},
	"and the next does not come to its state": func(h *history) {
		h.once(&h.onRestored, lost)
		h.last().result <- errLost
	},
	"and the newest checkpoint is damaged": func(h *history) {
		h.once(&h.onRestored, func(e *execution) error {
			if len(h.complete()) < len(h.damaged)+2 {
				return nil // it would be the end: TestDamagedCheckpointsAreSkipped
			}
			h.damaged[e.d.Restore.Manifest.Epoch] = true
			return fault.New(fault.Corruption, "damaged")
		})
		h.last().result <- errLost
	},
	"the run fails in the middle of a checkpoint": func(h *history) {
		h.at(func(e *execution, b protocol.Begun) {
			e.answers <- e.snapshot(b.Epoch, 1)
			e.result <- errLost
		})
	},
	"a task declines, and one does not answer": func(h *history) {
		h.at(func(e *execution, b protocol.Begun) {
			e.answers <- e.snapshot(b.Epoch, 0)
			e.answers <- rpc.Answer{Epoch: b.Epoch, Task: 1, Err: errors.New("disk full")}
		})
		h.at(func(*execution, protocol.Begun) {})
	},
	"the process is killed": (*history).killed,
	"the process is killed before a manifest is there": func(h *history) {
		h.store.set(h.kill, nil)
		sleep(10 * time.Second)
		h.store.set(nil, nil)
		h.killed()
	},
	"the process is killed before it tells of a manifest": func(h *history) {
		h.store.set(nil, h.kill)
		sleep(10 * time.Second)
		h.store.set(nil, nil)
		h.killed()
	},
}

// Whatever happens in whatever order, a run begins with a checkpoint that was complete, none older than one that
// was known to be, with exactly the state that its tasks had answered with; generations and
// epochs rise; and tasks are told once of each epoch how it has ended. Of the orders of three those are
// tried that have every two failures in every two places.
func TestEveryOrderOfFailures(t *testing.T) {
	names := slices.Sorted(maps.Keys(failures))
	for i, first := range names {
		for j, second := range names {
			order := []string{first, second, names[(i+2*j)%len(names)]} // len(names) is odd
			bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) { meet(ctx, t, order) })
			if t.Failed() {
				return // the others would say the same
			}
		}
	}
}

func meet(ctx context.Context, t *testing.T, order []string) {
	r := newRig(t, map[string]any{"checkpoint_interval": "10s", "checkpoint_timeout": "5s", "checkpoint_retain": 5.0, "restart_attempts": -1.0, "restart_max_delay": "1s"})
	h := &history{rig: r, t: t, ctx: ctx, store: &hooked{Store: r.store}, damaged: map[uint64]bool{}}
	r.under = h.store
	h.process()
	for i, name := range order {
		if i > 0 { // the first may come before any checkpoint
			sleep(10 * time.Second)
		}
		failures[name](h)
		sleep(5 * time.Second)
		h.check(order[:i+1])
	}
	sleep(20 * time.Second)
	if n := len(h.last().said()); n == 0 {
		t.Errorf("%q: no more checkpoints are taken", order)
	}
	h.last().result <- nil
	wantWait(t, h.job, nil)
	h.check(order)
}

// check looks at all deployments since the last time.
func (h *history) check(order []string) {
	h.t.Helper()
	known := map[uint64]bool{}
	for _, e := range h.complete() {
		if known[e] {
			h.t.Errorf("%q: checkpoint %d is told of twice", order, e)
		}
		known[e] = true
	}
	for ; h.runs < h.deployed(); h.runs++ {
		e := h.run(h.runs + 1)
		if before := h.run(h.runs); before != nil && before.d.Generation > e.d.Generation {
			h.t.Errorf("%q: run %d is of generation %d, that before it of %d", order, h.runs+1, e.d.Generation, before.d.Generation)
		}
		newest := slices.Max(append(h.completeBefore(e.d.Generation-1), 0))
		if e.d.Restore == nil {
			if newest > 0 && !h.damaged[newest] {
				h.t.Errorf("%q: run %d begins anew, though checkpoint %d is complete", order, h.runs+1, newest)
			}
			continue
		}
		epoch := e.d.Restore.Manifest.Epoch
		if epoch < newest && !h.damaged[newest] {
			h.t.Errorf("%q: run %d goes on from %d, though checkpoint %d is complete", order, h.runs+1, epoch, newest)
		}
		if want := h.answered(epoch); e.restored != nil && !slices.Equal(e.restored, want) { // nil: it did not come to that
			h.t.Errorf("%q: run %d has %v of checkpoint %d, want %v", order, h.runs+1, e.restored, epoch, want)
		}
	}
	for n := range h.deployed() {
		told := h.run(n + 1).said()
		if slices.Sort(told); len(slices.Compact(slices.Clone(told))) != len(told) {
			h.t.Errorf("%q: tasks of run %d were told %q", order, n+1, told)
		}
	}
}

// answered returns what tasks answered the barrier of an epoch with, which only one run has sent.
func (h *history) answered(epoch uint64) []int {
	for n := range h.deployed() {
		if counts := h.run(n + 1).counted(epoch); counts != nil {
			return counts
		}
	}
	return nil
}
