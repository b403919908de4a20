// Package parts is what the small parts of a task's snapshot are as bytes: input that was not committed, residuals,
// queues of frames, and how far panes are. The manifest of the checkpoint says where each part lies, and has the
// checksum of the file. The format is that of docs/format/parts.md: what a version means it means for good.
//
// Whatever does not decode is a fault.Corruption. What is decoded shares memory with the bytes that it came of, which
// must not be changed then.
package parts

import (
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/panes"
)

const version = 1

// What follows in a part with several kinds of records.
const (
	recordBundle = iota + 1
	recordFrame
	recordMark
	recordWatermark
	recordRound
)

// AppendInbox appends the input of an executable task: Draining, Round, Bundles, Inbox and Marks of s. The rest of s is in
// the manifest and in the part of residuals.
func AppendInbox(dst []byte, s *engine.Snapshot) []byte {
	e := encoder{append(dst, version)}
	e.bool(s.Draining)
	if s.Round != (engine.Round{}) {
		e.byte(recordRound)
		e.int(s.Round.Watermark)
		e.int(s.Round.Clock.UnixMilli())
		e.bool(s.Round.Firing)
	}
	for i := range s.Bundles {
		e.byte(recordBundle)
		e.bundle(&s.Bundles[i])
	}
	marks := s.Marks
	for i := range len(s.Inbox) + 1 {
		if len(marks) > 0 && marks[0].Before == i {
			e.byte(recordMark)
			e.int(marks[0].Watermark)
			marks = marks[1:]
		}
		if i < len(s.Inbox) {
			e.byte(recordFrame)
			e.int(s.Inbox[i].Hold)
			e.frame(&s.Inbox[i].Frame)
		}
	}
	return e.out
}

// DecodeInbox sets in s what AppendInbox wrote of it.
func DecodeInbox(part []byte, s *engine.Snapshot) error {
	d := newDecoder(part)
	s.Draining, s.Round, s.Bundles, s.Inbox, s.Marks = d.bool(), engine.Round{}, nil, nil, nil
	for d.more() {
		switch d.byte() {
		case recordRound:
			if s.Round != (engine.Round{}) || len(s.Bundles)+len(s.Inbox)+len(s.Marks) > 0 {
				d.fail()
			}
			s.Round = engine.Round{Watermark: d.int(), Clock: time.UnixMilli(d.int()), Firing: d.bool()}
		case recordBundle:
			if len(s.Inbox)+len(s.Marks) > 0 {
				d.fail()
			}
			s.Bundles = append(s.Bundles, d.bundle())
		case recordFrame:
			s.Inbox = append(s.Inbox, engine.PendingFrame{Hold: d.int(), Frame: d.frame()})
		case recordMark:
			if n := len(s.Marks); n > 0 && s.Marks[n-1].Before == len(s.Inbox) {
				d.fail()
			}
			s.Marks = append(s.Marks, engine.Mark{Before: len(s.Inbox), Watermark: d.int()})
		default:
			d.fail()
		}
	}
	return d.end("inbox")
}

func (e *encoder) bundle(b *engine.PendingBundle) {
	e.int(b.InputHold)
	e.bool(b.Residual)
	e.bool(b.Truncated)
	e.uint(uint64(len(b.Frames)))
	for i := range b.Frames {
		f := &b.Frames[i]
		e.int(f.OutputHold)
		e.bool(f.Bounded)
		e.bool(f.Part)
		e.frame(&f.Frame)
	}
	e.uint(uint64(len(b.Rest)))
	for i := range b.Rest {
		e.residual(&b.Rest[i])
	}
}

func (d *decoder) bundle() engine.PendingBundle {
	b := engine.PendingBundle{InputHold: d.int(), Residual: d.bool(), Truncated: d.bool()}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		b.Frames = append(b.Frames, engine.BundleFrame{OutputHold: d.int(), Bounded: d.bool(), Part: d.bool(), Frame: d.frame()})
	}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		b.Rest = append(b.Rest, d.residual())
	}
	if len(b.Frames) == 0 {
		d.fail()
	}
	return b
}

// AppendResiduals appends residuals. Their times are kept to the ms, and get no earlier.
func AppendResiduals(dst []byte, all []engine.PendingResidual) []byte {
	e := encoder{append(dst, version)}
	for i := range all {
		e.residual(&all[i])
	}
	return e.out
}

// DecodeResiduals returns what AppendResiduals wrote.
func DecodeResiduals(part []byte) (all []engine.PendingResidual, err error) {
	d := newDecoder(part)
	for d.more() {
		all = append(all, d.residual())
	}
	return all, d.end("residuals")
}

func (e *encoder) residual(r *engine.PendingResidual) {
	at := r.At.UnixMilli()
	if r.At.After(time.UnixMilli(at)) {
		at++
	}
	e.int(r.OutputHold)
	e.int(at)
	e.bool(r.Bounded)
	e.bool(r.Truncated)
	e.frame(&r.Frame)
}

func (d *decoder) residual() engine.PendingResidual {
	return engine.PendingResidual{
		OutputHold: d.int(), At: time.UnixMilli(d.int()), Bounded: d.bool(), Truncated: d.bool(), Frame: d.frame(),
	}
}

// Entry is a frame or a watermark in a queue: of what waits for credit on an outlet, or of input that is parked.
type Entry struct {
	// Channel is the place of the channel that it came on among those of the task in the manifest. It is 0 in outboxes,
	// and where channels don't count any more.
	Channel int
	// Data tells that there is a Frame, and no Watermark.
	Data  bool
	Frame frame.Frame
	// Hold is what a frame holds the input watermark at where it waits; frame.MinTimestamp where that is not known yet.
	Hold int64
	// Watermark in ms.
	Watermark int64
}

// AppendEntries begins a part of entries. Any number of AppendEntry follow.
func AppendEntries(dst []byte) []byte { return append(dst, version) }

// AppendEntry appends an entry.
func AppendEntry(dst []byte, q *Entry) []byte {
	e := encoder{dst}
	if q.Data {
		e.byte(recordFrame)
		e.uint(uint64(q.Channel))
		e.int(q.Hold)
		e.frame(&q.Frame)
		return e.out
	}
	e.byte(recordWatermark)
	e.uint(uint64(q.Channel))
	e.int(q.Watermark)
	return e.out
}

// AppendPanes appends how far panes are, and those that have fired and not left.
func AppendPanes(dst []byte, s *panes.Snapshot) []byte {
	e := encoder{append(dst, version)}
	e.int(s.Watermark)
	e.int(s.Output)
	e.int(s.Now)
	for i := range s.Pending {
		e.frame(&s.Pending[i])
	}
	return e.out
}

// DecodePanes returns what AppendPanes wrote.
func DecodePanes(part []byte) (*panes.Snapshot, error) {
	d := newDecoder(part)
	s := &panes.Snapshot{Watermark: d.int(), Output: d.int(), Now: d.int()}
	for d.more() {
		s.Pending = append(s.Pending, d.frame())
	}
	return s, d.end("panes")
}

func corrupt(format string, args ...any) error {
	return fault.New(fault.Corruption, "snapshot: "+format, args...)
}
