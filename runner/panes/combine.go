package panes

import "github.com/lintelrun/lintel/internal/fault"

// Accumulators are what a key has in a window, where values are accumulators of a CombineFn.
// Its slices are only valid during the call.
type Accumulators struct {
	Key, Window []byte // as encoded in elements
	Count       int64  // at least 2
	Values      []byte // the encoded accumulators, one after the other
}

// CombineFunc merges accumulators: merged[i] is the encoding of the one that takes the place of
// all[i]. It is the caller's.
type CombineFunc func(all []Accumulators) (merged [][]byte, err error)

// When accumulators of a window are merged: when there are more than looseValues of them, or
// those that came since they were merged last take looseBytes, and all of them are twice what
// they were merged to then. So what is merged again and again is not more than what came,
// even where accumulators grow with what is in them.
const (
	looseValues = 64
	looseBytes  = 1 << 20
)

// combineBytes is about how many bytes of accumulators are merged in one call.
const combineBytes = 4 << 20

// crowd is a window whose accumulators are to be merged.
type crowd struct {
	u *unit
	w *window
}

func (w *window) size() int64 { return w.inside + int64(len(w.values)) }

func (w *window) crowded() bool {
	size := w.size()
	return w.count > 1 && (w.count > looseValues || size-w.merged >= looseBytes) && size >= 2*w.merged
}

// noteCrowd notes that values of a window are to be merged, if they are. That is done for many
// windows at once: when a block has been added, or before one of them leaves in a pane and stays.
func (p *Panes) noteCrowd(u *unit, w *window) {
	if p.cfg.Combine != nil && !w.queued && w.crowded() {
		w.queued = true
		p.crowds = append(p.crowds, crowd{u, w})
	}
}

// combine merges the accumulators of all windows that have too many. Triggers know nothing of
// it: what they count, and what panes say, are elements.
func (p *Panes) combine() error {
	var some []crowd
	var all []Accumulators
	size := int64(0)
	for _, c := range p.crowds {
		c.w.queued = false
		if !c.w.crowded() {
			continue // it has fired, or merged into another
		}
		values, err := p.values(c.u, c.w)
		if err != nil {
			return err
		}
		some = append(some, c)
		all = append(all, Accumulators{Key: c.u.key, Window: c.w.window, Count: c.w.count, Values: values})
		if size += int64(len(values)); size < combineBytes {
			continue
		}
		if err := p.combineSome(some, all); err != nil {
			return err
		}
		some, all, size = some[:0], all[:0], 0
	}
	clear(p.crowds)
	p.crowds = p.crowds[:0]
	return p.combineSome(some, all)
}

// values returns all values of a window; the result must not be changed.
func (p *Panes) values(u *unit, w *window) ([]byte, error) {
	if len(w.cells) == 0 {
		return w.values, nil
	}
	values := make([]byte, 0, w.size())
	for page, err := range p.store.pages(u, w) {
		if err != nil {
			return nil, err
		}
		values = append(values, page...)
	}
	return values, nil
}

func (p *Panes) combineSome(some []crowd, all []Accumulators) error {
	if len(some) == 0 {
		return nil
	}
	merged, err := p.cfg.Combine(all)
	if err != nil {
		return err
	}
	if len(merged) != len(all) {
		return fault.New(fault.Internal, "panes: accumulators of %d windows were merged to %d", len(all), len(merged))
	}
	for i, c := range some {
		p.replace(c.u, c.w, merged[i])
		p.stats.Combined += all[i].Count - 1
	}
	return nil
}

// replace makes a merged accumulator the only value of a window.
func (p *Panes) replace(u *unit, w *window, merged []byte) {
	p.drop(u, w)
	room := cap(w.values)
	w.values = append(w.values, merged...)
	p.grow(u, int64(cap(w.values)-room))
	w.count, w.merged = 1, int64(len(merged))
	p.change(u)
}
