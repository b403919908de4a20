package panes

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/frame"
)

const (
	// maxValues is how many bytes of values may travel with their key: messages hold less than 2 GiB.
	maxValues = 1 << 30
	// remoteBytes is about how many bytes of values one block of panes leaves behind, so that
	// large ones are dealt out in portions too.
	remoteBytes = 4 << 20
)

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
func (p *Panes) append(u *unit, w *window, timestamp int64, pane coders.Pane) (err error) {
	o := &p.out
	b := &o.block
	o.pane = pane.Append(o.pane[:0])
	b.Data = coders.AppendHeader(b.Data, timestamp, 1, w.window, o.pane)
	b.Data = append(b.Data, u.key...)
	if size := w.size(); p.cfg.Spool != nil && size > InlineBytes {
		b.Remote += size
		b.Data, err = p.appendSpooled(b.Data, u, w)
	} else {
		b.Data, err = p.appendInline(b.Data, u, w)
	}
	if err != nil {
		return err
	}
	b.Elements++
	b.MinTimestamp = min(b.MinTimestamp, timestamp)
	if len(b.Data) >= o.limit || b.Remote >= remoteBytes {
		o.ready = append(o.ready, *b)
		o.block = emptyBlock()
	}
	return nil
}

// appendSpooled appends an iterable of unknown length, whose values are all behind a token.
func (p *Panes) appendSpooled(dst []byte, u *unit, w *window) ([]byte, error) {
	token, err := p.cfg.Spool(p.store.pages(u, w))
	if err != nil {
		return dst, err
	}
	dst = binary.BigEndian.AppendUint32(dst, math.MaxUint32)
	dst = binary.AppendUvarint(dst, math.MaxUint64)
	return coders.AppendBytes(dst, token), nil
}

func (p *Panes) appendInline(dst []byte, u *unit, w *window) ([]byte, error) {
	if size := w.size(); w.count > math.MaxInt32 || size > maxValues {
		return dst, fault.New(fault.Unsupported, "panes: key %.32x has %d values of %d bytes in one pane; up to %d of %d can travel with it, "+
			"as not all that reads them knows state-backed iterables", u.key, w.count, size, math.MaxInt32, maxValues)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(w.count))
	for page, err := range p.store.pages(u, w) {
		if err != nil {
			return dst, err
		}
		dst = append(dst, page...)
	}
	return dst, nil
}
