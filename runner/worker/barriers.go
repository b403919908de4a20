package worker

import (
	"github.com/lintelrun/lintel/runner/exchange"
)

// snapshot is what a task was at a barrier, pinned: taking it is cheap, and it may be read
// while the task goes on. It belongs to whoever the execution hands it to.
type snapshot struct {
	task  *task
	epoch uint64
	// outbox is what waited for credit, by outlet.
	outbox [][]exchange.Entry
	// input is what a task that groups had received and not yet looked at, in order.
	input []exchange.Message
	// events of an Impulse or a TestStream that were acted.
	events int
}

// drop gives up what of the snapshot was not loaded.
func (s *snapshot) drop() {
	for _, waiting := range s.outbox {
		for _, e := range waiting {
			if e.Frame != nil {
				e.Frame.Drop()
			}
		}
	}
	s.outbox = nil
}

// announce tells all tasks that an epoch has begun. Those whose channels have all come to their end, sources
// first of all, put its barrier into what they send; the others wait for it. Each epoch that
// begins must be announced, in order and though it may have come to nothing since: barriers
// are counted on all channels. One caller at a time; it doesn't wait.
func (e *execution) announce(epoch uint64) {
	e.clock.begin(len(e.tasks))
	for _, t := range e.tasks {
		t.inbox.Put(exchange.Message{Kind: exchange.Announcement, Epoch: epoch})
	}
}

// taken hands over what a task was at a barrier.
func (e *execution) taken(s *snapshot) {
	if e.snapshots == nil {
		s.drop()
		return
	}
	e.snapshots(s)
}
