package worker

import (
	"slices"

	"github.com/lintelrun/lintel/runner/exchange"
)

// stable holds the input of a task that has to see the same in each attempt, until a checkpoint is complete that has
// it: whatever fails later, the task goes on from that or a later one. What it holds is parked, watermarks too, so
// that the core learns of nothing that may yet be undone. It belongs to the task's owner.
type stable struct {
	// rounds is true where the task has timers, which are input too (engine.Round). Then what a checkpoint frees is
	// what had come when the round before was over.
	rounds bool
	// open is how many messages, the first of those parked, may pass.
	open int
	// barriers are those that a complete checkpoint may free something for, in order: one at most in rounds.
	barriers []heldBefore
	// ahead are the bytes parked of which the credit went back.
	ahead int
}

// heldBefore says how many messages a barrier has before it.
type heldBefore struct {
	epoch    uint64
	messages int
}

// newStable returns nil for tasks that take input as it comes. Without checkpoints all do: a bundle is tried
// again with the input that it had, and no attempt outlasts the process.
func newStable(t *task) *stable {
	if !t.stage.Exec.StableInput || t.e.d.Checkpoints == nil {
		return nil
	}
	return &stable{rounds: t.stage.Exec.Stateful != nil}
}

// await parks a message. Its credit goes back, as long as that is not too much: what comes from one checkpoint to the next
// need not fit into an inbox.
func (x *execTask) await(m exchange.Message) error {
	s := x.stable
	if x.core.SidesReady() && s.ahead >= x.e.cfg.HeldBytes {
		x.parked.queue(m)
		return nil
	}
	s.ahead += m.Frame.Bytes()
	x.inbox.Consumed(m.Frame.Bytes())
	return x.parked.push(m)
}

// rests tells whether nothing waits for a checkpoint.
func (x *execTask) rests() bool {
	return x.stable == nil || x.parked.empty() && (!x.stable.rounds || x.core.Over())
}

// free tells whether what is parked first may pass.
func (s *stable) free() bool { return s == nil || s.open > 0 }

// pass notes that it has, and whether its credit had gone back.
func (s *stable) pass(m exchange.Message, prepaid bool) {
	if s == nil {
		return
	}
	s.open--
	if prepaid {
		s.ahead -= m.Frame.Bytes()
	}
	for i := range s.barriers {
		s.barriers[i].messages--
	}
}

// barrier notes that all that is parked is in the snapshot which is about to be taken.
func (x *execTask) barrier(epoch uint64) error {
	s := x.stable
	if s == nil {
		return nil
	}
	if s.rounds {
		if err := x.unsort(); err != nil { // what is ripe is the core's before it says that it is done
			return err
		}
		// A task that holds back begins no round for its timers' sake.
		if len(s.barriers) > 0 || s.open > 0 || !x.core.Over() || x.holding != 0 && x.parked.empty() {
			return nil
		}
		x.core.Seal(x.e.clock.Now())
	}
	s.barriers = append(s.barriers, heldBefore{epoch, len(x.parked.messages)})
	return nil
}

// durable frees what was held before the barriers of a checkpoint that is durable, and of earlier ones.
func (x *execTask) durable(epoch uint64) {
	s := x.stable
	if s == nil {
		return
	}
	s.barriers = slices.DeleteFunc(s.barriers, func(b heldBefore) bool {
		if b.epoch > epoch {
			return false
		}
		s.open = b.messages
		if s.rounds {
			x.core.Open()
		}
		return true
	})
}

// restore frees a message that was parked in a snapshot, which was complete: later input has seen no attempt.
func (s *stable) restore(m exchange.Message) {
	if s != nil {
		s.open++
		s.ahead += m.Frame.Bytes()
	}
}
