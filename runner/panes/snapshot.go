package panes

import (
	"math"
	"slices"

	"github.com/lintelrun/lintel/runner/frame"
)

// Snapshot is what Panes are at one moment, beside what the store has then: others go on from both
// (Config.Restore), and do from then on what these would have done.
type Snapshot struct {
	// Watermark (ms) is that of the input, Output the most that the output watermark may have been, and
	// Now the processing time, in ms since 1970.
	Watermark, Output, Now int64
	// Pending are blocks of panes that have fired and not been read with Next, in order. Their data is
	// not to be changed.
	Pending []frame.Frame
}

// Snapshot writes all that is in memory to the store and returns what is not in there. It is quick
// where FlushSome has been called before.
func (p *Panes) Snapshot() (*Snapshot, error) {
	if err := p.Flush(); err != nil {
		return nil, err
	}
	return &Snapshot{Watermark: p.watermark, Output: p.output, Now: p.now, Pending: p.out.pending()}, nil
}

// Flush writes all that is in memory to the store, but for panes that have yet to be read with Next.
func (p *Panes) Flush() error {
	_, err := p.FlushSome(math.MaxInt)
	return err
}

// FlushSome writes some of what is in memory to the store, about so many bytes, and reports whether that was all:
// what changes from then on is to be written again.
func (p *Panes) FlushSome(bytes int) (done bool, err error) {
	const large = 1 << 20
	for written := 0; len(p.changed) > 0 && written < bytes; {
		// From the end to the front: what is written is replaced by the last, so that units that
		// change all the time don't keep others from their turn.
		if p.flushed = min(p.flushed, len(p.changed)) - 1; p.flushed < 0 {
			p.flushed = len(p.changed) - 1
		}
		before := p.store.batch.Bytes()
		if err := p.write(p.changed[p.flushed]); err != nil {
			return false, err
		}
		after := p.store.batch.Bytes()
		if written += after - before; after > large {
			if err := p.store.commit(); err != nil {
				return false, err
			}
		}
	}
	return len(p.changed) == 0, p.store.commit()
}

// change notes that the store doesn't have all of a unit.
func (p *Panes) change(u *unit) {
	if u.changed < 0 {
		u.changed = len(p.changed)
		p.changed = append(p.changed, u)
	}
}

// unchange notes that the store has all of a unit, or that nobody wants it any more.
func (p *Panes) unchange(u *unit) {
	if u.changed < 0 {
		return
	}
	last := len(p.changed) - 1
	p.changed[u.changed], p.changed[last].changed = p.changed[last], u.changed
	p.changed[last] = nil
	p.changed, u.changed = p.changed[:last], -1
}

// pending returns what is yet to be read.
func (o *output) pending() []frame.Frame {
	all := slices.Clone(o.ready)
	if b := o.block; b.Elements > 0 {
		b.Data = slices.Clip(b.Data) // more may be written behind it
		all = append(all, b)
	}
	return all
}
