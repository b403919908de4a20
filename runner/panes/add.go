package panes

import (
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// add adds an element to all of its windows that haven't expired.
func (p *Panes) add(e *coders.Element) error {
	if p.cfg.Windowing.Merging {
		return p.addMerging(e)
	}
	if e.NumWindows == 1 {
		return p.addIn(e, e.Windows)
	}
	return p.eachWindow(e, func(window []byte) error { return p.addIn(e, window) })
}

// eachWindow calls visit with each of the windows of an element.
func (p *Panes) eachWindow(e *coders.Element, visit func(window []byte) error) error {
	windows := e.Windows
	for range e.NumWindows {
		n, err := p.cfg.Input.Window().Skip(windows)
		if err != nil {
			return fault.New(fault.Corruption, "panes: a window of an element: %w", err)
		}
		if n == 0 && e.NumWindows > 1 {
			return fault.New(fault.Corruption, "panes: an element in %d windows that take no bytes", e.NumWindows)
		}
		if err := visit(windows[:n]); err != nil {
			return err
		}
		windows = windows[n:]
	}
	return nil
}

// addIn adds an element to a window that never merges.
func (p *Panes) addIn(e *coders.Element, encoded []byte) error {
	s, err := p.open(encoded)
	if s == nil || err != nil {
		return err
	}
	u, err := p.find(e.Key, encoded)
	if err != nil {
		return err
	}
	if err := p.catchUp(u); err != nil {
		return err
	}
	if len(u.windows) == 0 {
		p.addWindow(u, u.window, s)
	}
	if err := p.addTo(u, u.windows[0], e); err != nil {
		return err
	}
	p.settle(u)
	return nil
}

// addTo adds an element to a window and fires, if that is what the trigger says. The
// caller settles u.
func (p *Panes) addTo(u *unit, w *window, e *coders.Element) error {
	if w.closed {
		p.stats.Closed++
		return nil
	}
	room := cap(w.values)
	w.values = append(w.values, e.Value...)
	p.grow(u, int64(cap(w.values)-room))
	w.count++
	w.fresh++
	w.seen = true
	p.change(u)
	if len(w.values) >= cellBytes {
		p.writeValues(u, w) // those of one key may be more than fits into memory
	}
	p.noteCrowd(u, w)
	p.holdElement(w, e.Timestamp)

	if p.machine.Finished(w.trigger) {
		return nil
	}
	p.machine.OnElement(w.trigger, p.moment(w))
	if p.cfg.Bounded || !p.shouldFire(w) {
		return nil
	}
	return p.fire(u, w)
}

// holdElement holds the output watermark for an element, for the pane that it will be in not
// to be late. Where that is too late already, it is held for that pane not to be dropped.
func (p *Panes) holdElement(w *window, timestamp int64) {
	combiner := p.cfg.Windowing.Combiner
	hold := combiner.Finish(timestamp, w.end)
	switch {
	case p.watermark > w.end || hold < p.watermark && hold < p.outputWatermark():
		p.holdUntilExpiry(w)
	case w.elementHold == none:
		w.elementHold = hold
	default:
		w.elementHold = combiner.Combine(w.elementHold, hold)
	}
}

func (p *Panes) holdUntilExpiry(w *window) {
	if w.expiry >= p.watermark {
		w.extraHold = min(w.extraHold, w.expiry, coders.MaxTimestamp-1)
	}
}
