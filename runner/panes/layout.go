package panes

import (
	"encoding/binary"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// What the store has of a unit, all but its values, begins with this version. It is state
// format: never change what a version means; add another. Version 1 lacks flagMerged and
// flagCells.
const layout = 2

// Flags of a window.
const (
	flagSeen = 1 << iota
	flagClosed
	flagFired
	flagElementHold
	flagExtraHold
	flagEnded
	flagMerged
	flagCells
)

// encode returns the encoding of a unit, which is good until the next call.
func (p *Panes) encode(u *unit) []byte {
	b := append(p.scratch[:0], layout)
	b = binary.AppendUvarint(b, u.next)
	b = binary.AppendVarint(b, u.wakeAt)
	b = binary.AppendVarint(b, u.clockAt)
	b = binary.AppendVarint(b, u.holdAt)
	b = binary.AppendUvarint(b, uint64(len(u.windows)))
	for _, w := range u.windows {
		b = p.encodeWindow(b, w)
	}
	p.scratch = b
	return b
}

func (p *Panes) encodeWindow(b []byte, w *window) []byte {
	b = coders.AppendBytes(b, w.window)
	b = append(b, flag(flagSeen, w.seen)|flag(flagClosed, w.closed)|flag(flagFired, w.fired)|
		flag(flagElementHold, w.elementHold != none)|flag(flagExtraHold, w.extraHold != none)|flag(flagEnded, w.ended)|
		flag(flagMerged, w.merged > 0)|flag(flagCells, len(w.cells) > 0))
	b = p.machine.Append(b, w.trigger)
	if w.fired {
		b = coders.Pane{Timing: w.timing, Index: w.index, OnTimeIndex: w.onTime}.Append(b)
	}
	if w.elementHold != none {
		b = binary.AppendVarint(b, w.elementHold)
	}
	if w.extraHold != none {
		b = binary.AppendVarint(b, w.extraHold)
	}
	if w.merged > 0 {
		b = binary.AppendUvarint(b, uint64(w.merged))
	}
	b = binary.AppendUvarint(b, uint64(w.count))
	b = binary.AppendUvarint(b, uint64(w.fresh))
	b = binary.AppendUvarint(b, uint64(w.inside))
	b = binary.AppendUvarint(b, uint64(len(w.cells)))
	for _, c := range w.cells {
		b = binary.AppendUvarint(b, c)
	}
	if len(w.cells) > 0 {
		b = binary.AppendUvarint(b, uint64(w.last))
	}
	return b
}

func flag(bit byte, set bool) byte {
	if set {
		return bit
	}
	return 0
}

// decode reads what encode wrote into u, which has no windows. It returns a
// fault.Corruption if b is something else.
func (p *Panes) decode(b []byte, u *unit) error {
	d := decoder{rest: b}
	if version := d.byte(); version < 1 || version > layout {
		return fault.New(fault.Corruption, "panes: the state of key %.32x is of version %d, not one up to %d", u.key, version, layout)
	}
	u.stored = true
	u.next = d.uvarint()
	u.wakeAt, u.clockAt, u.holdAt = d.varint(), d.varint(), d.varint()
	n := d.uvarint()
	for ; n > 0 && !d.bad; n-- {
		w, err := p.decodeWindow(&d)
		if err != nil {
			return err
		}
		u.windows = append(u.windows, w)
	}
	if d.bad || len(d.rest) > 0 {
		return fault.New(fault.Corruption, "panes: the state of key %.32x is damaged", u.key)
	}
	return nil
}

func (p *Panes) decodeWindow(d *decoder) (*window, error) {
	w := &window{elementHold: none, extraHold: none}
	w.window = append([]byte{}, d.take(d.uvarint())...)
	flags := d.byte()
	if d.bad {
		return w, nil
	}
	s, err := p.span(w.window)
	if err != nil {
		return nil, err
	}
	w.end, w.expiry = s.end, s.expiry
	var size int
	if w.trigger, size, err = p.machine.Decode(d.rest); err != nil {
		return nil, err
	}
	d.take(uint64(size))
	w.seen, w.closed, w.fired = flags&flagSeen != 0, flags&flagClosed != 0, flags&flagFired != 0
	w.ended = flags&flagEnded != 0
	if w.fired {
		pane, size, err := coders.DecodePane(d.rest)
		if err != nil {
			return nil, fault.New(fault.Corruption, "panes: a pane info: %w", err)
		}
		d.take(uint64(size))
		w.timing, w.index, w.onTime = pane.Timing, pane.Index, pane.OnTimeIndex
	}
	if flags&flagElementHold != 0 {
		w.elementHold = d.varint()
	}
	if flags&flagExtraHold != 0 {
		w.extraHold = d.varint()
	}
	if flags&flagMerged != 0 {
		w.merged = int64(d.uvarint())
	}
	w.count, w.fresh, w.inside = int64(d.uvarint()), int64(d.uvarint()), int64(d.uvarint())
	d.bad = d.bad || w.count < 0 || w.fresh < 0 || w.inside < 0 || w.merged < 0
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		w.cells = append(w.cells, d.uvarint())
	}
	w.last = cellBytes // it may be
	if flags&flagCells != 0 {
		w.last = int64(d.uvarint())
	}
	return w, nil
}

// decoder takes an encoding apart. Once bad, it returns zero values.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); len(b) > 0 {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, n = true, 0
		v = 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}
