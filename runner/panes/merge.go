package panes

import (
	"bytes"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/trigger"
	"github.com/lintelrun/lintel/portable/windowing"
)

// addMerging adds an element to what its sessions merge to with those that its key has. Windows
// whose trigger has finished don't merge any more.
func (p *Panes) addMerging(e *coders.Element) error {
	u, err := p.enterWindows(e)
	if err != nil {
		return err
	}
	if p.mergeable() {
		if err := p.mergeSessions(u); err != nil {
			return err
		}
	}
	return p.addToTargets(u, e)
}

// enterWindows makes the windows of an element the targets, and returns the unit of its key.
func (p *Panes) enterWindows(e *coders.Element) (*unit, error) {
	u, err := p.find(e.Key, nil)
	if err != nil {
		return nil, err
	}
	if err := p.catchUp(u); err != nil {
		return nil, err
	}
	p.targets = p.targets[:0]
	return u, p.eachWindow(e, func(encoded []byte) error { return p.enterWindow(u, encoded) })
}

// mergeable tells whether the targets may merge: not if they were there before.
func (p *Panes) mergeable() bool {
	return slices.ContainsFunc(p.targets, func(w *window) bool { return !w.seen || w.closed })
}

// addToTargets adds an element to the targets, once its windows have merged.
func (p *Panes) addToTargets(u *unit, e *coders.Element) error {
	for i, w := range p.targets {
		if slices.Contains(p.targets[:i], w) {
			continue // it is one element there, in however many windows it came
		}
		if err := p.addTo(u, w, e); err != nil {
			return err
		}
	}
	p.settle(u)
	return p.removeIfEmpty(u)
}

// enterWindow makes a window of an element a target, as a new one if the key hasn't got it.
func (p *Panes) enterWindow(u *unit, encoded []byte) error {
	s, err := p.open(encoded)
	if s == nil || err != nil {
		return err
	}
	w := u.get(encoded)
	if w == nil {
		w = p.addWindow(u, bytes.Clone(encoded), s)
	}
	p.targets = append(p.targets, w)
	return nil
}

func (u *unit) get(encoded []byte) *window {
	for _, w := range u.windows {
		if bytes.Equal(w.window, encoded) {
			return w
		}
	}
	return nil
}

// mergeSessions merges sessions that overlap. All of u but the targets are apart from each other.
func (p *Panes) mergeSessions(u *unit) error {
	for i := range p.targets {
		merged, _, err := windowing.DecodeInterval(p.targets[i].window)
		if err != nil {
			return err
		}
		whole := merged
		var from []*window
		for _, w := range u.windows {
			other, _, err := windowing.DecodeInterval(w.window)
			if err != nil {
				return err
			}
			if w == p.targets[i] || !w.closed && other.Start < merged.End && merged.Start < other.End {
				whole.Start, whole.End = min(whole.Start, other.Start), max(whole.End, other.End)
				from = append(from, w)
			}
		}
		if len(from) > 1 {
			if err := p.merge(u, from, whole.Append(nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// merge merges windows of u into one, which may be one of them.
func (p *Panes) merge(u *unit, from []*window, encoded []byte) error {
	into := u.get(encoded)
	if len(from) == 1 && from[0] == into {
		return nil
	}
	s, err := p.span(encoded)
	if err != nil {
		return err
	}
	switch {
	case into == nil:
		into = p.addWindow(u, bytes.Clone(encoded), s)
	case into.closed:
		// It begins again: values that wait in others are not to be lost.
		into.closed, into.seen, into.ended, into.trigger = false, false, p.watermark > into.end, p.machine.New()
	case !slices.Contains(from, into):
		return fault.New(fault.UserCode, "panes: the window function merges other windows into window %x, but not that one itself", encoded)
	}
	p.mergeStates(into, from)
	for _, w := range from {
		if w != into && w.seen {
			p.mergeValues(u, into, w)
		}
	}
	u.windows = slices.DeleteFunc(u.windows, func(w *window) bool {
		away := w != into && slices.Contains(from, w)
		if away {
			p.forget(u, w)
		}
		return away
	})
	for i, w := range p.targets {
		if slices.Contains(from, w) {
			p.targets[i] = into
		}
	}
	p.change(u)
	return nil
}

// mergeStates merges triggers and holds. A window that merges away leaves nothing of its
// panes: the one that it goes into counts its own.
func (p *Panes) mergeStates(into *window, from []*window) {
	var states []trigger.State
	var own trigger.State
	hold := int64(none)
	combiner := p.cfg.Windowing.Combiner
	seen := false
	for _, w := range from {
		if !w.seen || w.closed {
			continue
		}
		seen = true
		if states = append(states, w.trigger); w == into {
			own = w.trigger
		}
		switch {
		case w.elementHold == none:
		case hold == none:
			hold = w.elementHold
		default:
			hold = combiner.Combine(hold, w.elementHold)
		}
	}
	if !seen {
		return
	}
	into.trigger = p.machine.Merge(states, own, p.moment(into))
	into.elementHold, into.extraHold = hold, none
	if combiner == windowing.EndOfWindow {
		into.elementHold = none
		p.holdElement(into, into.end)
	}
	p.holdUntilExpiry(into)
}

// mergeValues moves the values of a window.
func (p *Panes) mergeValues(u *unit, into, from *window) {
	room := cap(into.values)
	into.values = append(into.values, from.values...)
	p.grow(u, int64(cap(into.values)-room))
	if len(from.cells) > 0 {
		into.cells, into.last = append(into.cells, from.cells...), from.last
	}
	into.inside += from.inside
	into.merged = max(into.merged, from.merged)
	into.count += from.count
	into.fresh += from.fresh
	into.seen = true
	from.cells = nil
}
