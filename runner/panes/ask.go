package panes

import (
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// turns are the elements of a block whose windows are merged by asking somebody, which takes
// time. What is asked for one element depends on the answer for the one before it of its key, and
// not on other keys: so the first elements of all keys take their turn together, then the second.
type turns struct {
	of     map[string]int // by key, how many turns it has taken
	queued [][]coders.Element
}

// queue has an element wait for its turn. Its block must not change until then.
func (t *turns) queue(e *coders.Element) error {
	if t.of == nil {
		t.of = map[string]int{}
	}
	turn := t.of[string(e.Key)]
	t.of[string(e.Key)] = turn + 1
	if turn == len(t.queued) {
		t.queued = append(t.queued, nil)
	}
	t.queued[turn] = append(t.queued[turn], *e)
	return nil
}

// addTurns adds what has been queued.
func (p *Panes) addTurns(t turns) error {
	for _, elements := range t.queued {
		if err := p.addTurn(elements); err != nil {
			return err
		}
	}
	return nil
}

// entering is an element on its way into the windows of its key.
type entering struct {
	u       *unit
	targets []*window
	asks    int // place of its windows in what is asked, -1 if they don't merge
}

// addTurn adds elements of different keys.
func (p *Panes) addTurn(elements []coders.Element) error {
	all := make([]entering, len(elements))
	var keys [][][]byte
	for i := range elements {
		u, err := p.enterWindows(&elements[i])
		if err != nil {
			return err
		}
		all[i] = entering{u: u, targets: slices.Clone(p.targets), asks: -1}
		if p.mergeable() {
			all[i].asks = len(keys)
			keys = append(keys, u.open())
		}
	}
	var answers [][]windowing.Merged
	if len(keys) > 0 {
		var err error
		if answers, err = p.cfg.Merge(keys); err != nil {
			return err
		}
		if len(answers) != len(keys) {
			return fault.New(fault.Internal, "panes: the windows of %d keys were merged, of %d", len(answers), len(keys))
		}
	}
	for i := range elements {
		a := &all[i]
		p.targets = append(p.targets[:0], a.targets...)
		if a.asks >= 0 {
			if err := p.mergeAs(a.u, answers[a.asks]); err != nil {
				return err
			}
		}
		if err := p.addToTargets(a.u, &elements[i]); err != nil {
			return err
		}
	}
	return nil
}

// open returns the windows that may merge, as encoded.
func (u *unit) open() [][]byte {
	var windows [][]byte
	for _, w := range u.windows {
		if !w.closed {
			windows = append(windows, w.window)
		}
	}
	return windows
}

// mergeAs merges windows of u as the answer says.
func (p *Panes) mergeAs(u *unit, answer []windowing.Merged) error {
	for _, m := range answer {
		var from []*window
		for _, encoded := range m.From {
			w := u.get(encoded)
			if w == nil || w.closed {
				return fault.New(fault.UserCode, "panes: the window function merges window %x, which there is none of", encoded)
			}
			from = append(from, w)
		}
		if err := p.merge(u, from, m.Window); err != nil {
			return err
		}
	}
	return nil
}
