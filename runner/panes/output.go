package panes

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/frame"
)

// maxValues is how many bytes of values a pane may have: messages hold less than 2 GiB.
const maxValues = 1 << 30

// output is the panes that have yet to be read.
type output struct {
	limit int // bytes of a block
	ready []frame.Frame
	block frame.Frame // the one that is being filled
	pane  []byte      // scratch
}

func newOutput() output { return output{limit: 64 << 10, block: emptyBlock()} }

func emptyBlock() frame.Frame { return frame.Frame{MinTimestamp: math.MaxInt64} }

// full tells whether a block can be read without waiting for more.
func (o *output) full() bool { return len(o.ready) > 0 }

func (o *output) next() (frame.Frame, bool) {
	if len(o.ready) > 0 {
		f := o.ready[0]
		if o.ready = o.ready[1:]; len(o.ready) == 0 {
			o.ready = nil
		}
		return f, true
	}
	f := o.block
	o.block = emptyBlock()
	return f, f.Elements > 0
}

// minimum returns the least timestamp of all panes, none if there are none.
func (o *output) minimum() int64 {
	least := o.block.MinTimestamp
	for _, f := range o.ready {
		least = min(least, f.MinTimestamp)
	}
	return least
}

// append writes a pane with all values of a window.
func (p *Panes) append(u *unit, w *window, timestamp int64, pane coders.Pane) error {
	if w.count > math.MaxInt32 || w.inside+int64(len(w.values)) > maxValues {
		return fault.New(fault.Unsupported, "panes: key %.32x has %d values of %d bytes in one pane; up to %d of %d can travel with it",
			u.key, w.count, w.inside+int64(len(w.values)), math.MaxInt32, maxValues)
	}
	o := &p.out
	b := &o.block
	o.pane = pane.Append(o.pane[:0])
	b.Data = coders.AppendHeader(b.Data, timestamp, 1, w.window, o.pane)
	b.Data = append(b.Data, u.key...)
	b.Data = binary.BigEndian.AppendUint32(b.Data, uint32(w.count))
	for _, cell := range w.cells {
		var err error
		if b.Data, err = p.store.appendValues(b.Data, u, cell); err != nil {
			return err
		}
	}
	b.Data = append(b.Data, w.values...)
	b.Elements++
	b.MinTimestamp = min(b.MinTimestamp, timestamp)
	if len(b.Data) >= o.limit {
		o.ready = append(o.ready, *b)
		o.block = emptyBlock()
	}
	return nil
}
