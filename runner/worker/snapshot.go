package worker

import (
	"errors"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/runner/parts"
	"github.com/lintelrun/lintel/runner/sideinput"
	"github.com/lintelrun/lintel/statebackend"
)

// snapshot is what a task was at a barrier, pinned: taking it is cheap, and it may be read
// while the task goes on. It belongs to whoever the execution hands it to.
type snapshot struct {
	task  *task
	epoch uint64
	// savepoint tells that it is to be of use to tasks of any number and state backend. endsHold is the number of
	// the hold that its barrier ends.
	savepoint bool
	endsHold  uint64
	// held are the files of the task's store that the checkpoint has over which this one is taken, by their names.
	held map[string]protocol.File

	// input and output are the task's watermarks, channels those that it has acted on.
	input, output int64
	channels      []int64
	// outbox is what waited for credit, by outlet.
	outbox [][]exchange.Entry
	// core is that of an executable task.
	core *engine.Snapshot
	// arrived is what a task that groups had received and not yet looked at, in order.
	arrived []queued
	// parked is what waits for side inputs: by window, and as a whole.
	parked []parkedPart
	panes  *panes.Snapshot
	stream *parts.Stream
	side   *sideinput.Pin
	spool  *spoolSnapshot
	// counted are the task's metrics.
	counted *metrics.Totals
	// image is that of the store, of tasks that have one; or err why there is none.
	image statebackend.Image
	err   error
}

// queued is a frame or a watermark that waits somewhere. A frame that is stored may be on disk.
type queued struct {
	parts.Entry
	stored exchange.Stored
}

// parkedPart is what waits for the side inputs of a window, or without a window what index says.
type parkedPart struct {
	window string
	index  int
	queue  []queued
}

// take takes the image of the task's store, if it is to be written.
func (s *snapshot) take(store statebackend.Store) {
	if s.task.e.checkpoints == nil {
		return
	}
	if s.savepoint {
		s.image, s.err = statebackend.RecordsImage(store)
		return
	}
	held := s.held
	s.image, s.err = store.Image(func(name string) bool {
		_, ok := held[name]
		return ok
	})
}

// queuedFrame is a frame of a channel in memory.
func queuedFrame(channel int, f frame.Frame) queued {
	return queued{Entry: parts.Entry{Channel: channel, Data: true, Frame: f, Hold: frame.MinTimestamp}}
}

// queuedMessage is a message as it came.
func queuedMessage(m exchange.Message) queued {
	if m.Kind == exchange.Watermark {
		return queued{Entry: parts.Entry{Channel: m.Channel, Watermark: m.Watermark}}
	}
	return queuedFrame(m.Channel, m.Frame)
}

// load returns the entry with its frame, which is the last use of it.
func (q *queued) load() (parts.Entry, error) {
	e := q.Entry
	if q.stored == nil {
		return e, nil
	}
	stored := q.stored
	q.stored = nil
	var err error
	e.Frame, err = stored.Load()
	return e, err
}

// queues are all that has frames which may be on disk.
func (s *snapshot) queues() [][]queued {
	var all [][]queued
	for i := range s.parked {
		all = append(all, s.parked[i].queue)
	}
	return all
}

// drop gives up what of the snapshot was not loaded.
func (s *snapshot) drop() {
	for _, q := range s.queues() {
		for i := range q {
			if q[i].stored != nil {
				q[i].stored.Drop()
				q[i].stored = nil
			}
		}
	}
	for _, waiting := range s.outbox {
		for _, e := range waiting {
			if e.Frame != nil {
				e.Frame.Drop()
			}
		}
	}
	s.outbox = nil
	if err := s.unpin(); err != nil {
		s.task.log.Warn("snapshot not closed", "epoch", s.epoch, "error", err)
	}
}

// unpin lets go of the store and the side input.
func (s *snapshot) unpin() error {
	var errs []error
	if s.image != nil {
		errs = append(errs, s.image.Close())
		s.image = nil
	}
	if s.side != nil {
		errs = append(errs, s.side.Close())
		s.side = nil
	}
	if s.spool != nil {
		s.spool.drop()
	}
	return errors.Join(errs...)
}
