package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/exchange"
)

// hold is the time in which tasks hold back for a savepoint. Safe for concurrent use.
type hold struct {
	mu sync.Mutex
	// last numbers the holds, and now is the present one, 0 for none. stay tells that the savepoint's barrier doesn't end it.
	last, now uint64
	stay      bool
}

func (h *hold) begin(stay bool) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	h.now, h.stay = h.last, stay
	return h.now
}

// end ends the hold and returns its number, 0 if there is none.
func (h *hold) end() (number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	number, h.now = h.now, 0
	return number
}

// untilBarrier returns the number of the hold that a savepoint's barrier ends, 0 for none. It is over then but for the
// tasks that have yet to get the barrier.
func (h *hold) untilBarrier() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stay {
		return 0
	}
	return h.now
}

// Quiet is part of rpc.Execution.
func (e *execution) Quiet(ctx context.Context, stay bool) error {
	if e.checkpoints == nil {
		return nil
	}
	e.tell(exchange.Hold, e.checkpoints.hold.begin(stay))
	err := e.awaitRest(ctx)
	if err != nil {
		e.Resume()
	}
	return err
}

// awaitRest returns when nothing is under way between tasks that hold back.
func (e *execution) awaitRest(ctx context.Context) error {
	s := &e.checkpoints.stillness
	for received := -1; ; {
		round, answered := s.ask()
		e.tell(exchange.Probe, round)
		select {
		case <-answered:
		case <-e.done:
			if e.err != nil {
				return fault.New(fault.Retryable, "the run has ended: %w", e.err)
			}
			return nil // with all that was under way
		case <-ctx.Done():
			return fault.New(fault.Retryable, "the job did not come to rest in time, %s busy: %w", e.names(s.busy()), ctx.Err())
		}
		all := s.sum()
		if all.sent == received {
			return nil
		}
		received = all.received
	}
}

// names are those of tasks, by their places.
func (e *execution) names(places []int) string {
	var names []string
	for _, at := range places {
		t := e.tasks[at]
		if name := fmt.Sprintf("stage %s (%s)", t.stage.ID, t.stage.Name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Resume is part of rpc.Execution.
func (e *execution) Resume() {
	if e.checkpoints == nil {
		return
	}
	if number := e.checkpoints.hold.end(); number != 0 {
		e.tell(exchange.Resume, number)
	}
}

// tell tells all tasks something that comes on no channel. It doesn't wait.
func (e *execution) tell(kind exchange.Kind, number uint64) {
	e.clock.begin(len(e.tasks))
	for _, t := range e.tasks {
		t.inbox.Put(exchange.Message{Kind: kind, Epoch: number})
	}
}

// holdBack has a task hold back, or go on if number is 0.
func (t *task) holdBack(number uint64, o interface{ hold(on bool) }) {
	t.holding = number
	o.hold(number != 0)
}

// rest tells whoever asks that the task is at rest, if it is.
func (t *task) rest(o interface{ atRest() bool }) {
	if t.probe != 0 && t.holding != 0 && t.outbox.Waiting() == 0 && t.aligner.Waiting() == 0 && o.atRest() {
		t.e.checkpoints.stillness.tell(t.place, t.probe, t.traffic())
		t.probe = 0
	}
}

// traffic is what the task has sent and received so far.
func (t *task) traffic() traffic { return traffic{t.outbox.Delivered(), t.received} }
