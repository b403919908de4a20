package panes

import (
	"slices"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// fire fires a pane of a window, as its trigger said it should. The caller settles u.
func (p *Panes) fire(u *unit, w *window) error {
	p.machine.OnFire(w.trigger, p.moment(w))
	finished := p.machine.Finished(w.trigger)
	// Only the end of the input closes the global window: what comes after its trigger has
	// finished is in the last pane.
	final := finished && p.cfg.Windowing.Kind != windowing.Global
	if w.queued && p.cfg.Windowing.Accumulating && !final {
		if err := p.combine(); err != nil {
			return err
		}
	}
	if err := p.emit(u, w, final); err != nil {
		return err
	}
	p.change(u)
	w.fresh = 0
	if final || !p.cfg.Windowing.Accumulating {
		p.drop(u, w)
	}
	if finished {
		p.machine.Clear(w.trigger)
	}
	if final {
		w.fired, w.closed = false, true
	}
	return nil
}

// isDone tells that the trigger of a window has finished and that no pane is to follow, not
// even an empty one: who reads the latest pane would lose what the trigger finished with.
func (p *Panes) isDone(w *window) bool {
	return w.closed || w.fresh == 0 && p.machine.Finished(w.trigger)
}

// shouldFire tells whether the trigger of a window that isn't closed wants a pane.
func (p *Panes) shouldFire(w *window) bool {
	return !p.machine.Finished(w.trigger) && p.machine.ShouldFire(w.trigger, p.moment(w))
}

// emit makes a pane, if there is to be one. final says that it is the last of its window.
func (p *Panes) emit(u *unit, w *window, final bool) error {
	timestamp := min(w.elementHold, w.extraHold, w.end)
	w.elementHold, w.extraHold = none, none
	if !final && p.cfg.Windowing.EmptyFinal {
		p.holdUntilExpiry(w) // for the empty pane to come
	}
	pane := p.describe(w, final)
	if w.fresh == 0 && !p.wanted(pane) {
		return nil
	}
	w.fired, w.timing, w.index, w.onTime = true, pane.Timing, pane.Index, pane.OnTimeIndex
	if p.cfg.BatchSize > 0 {
		pane = onlyPane
	}
	p.stats.Fired++
	return p.append(u, w, timestamp, pane)
}

// wanted tells whether a pane is wanted even if there is nothing new in it.
func (p *Panes) wanted(pane coders.Pane) bool {
	return pane.Timing == coders.OnTime && p.cfg.Windowing.EmptyOnTime || pane.Last && p.cfg.Windowing.EmptyFinal
}

// describe returns the info of the next pane.
func (p *Panes) describe(w *window, final bool) coders.Pane {
	pane := coders.Pane{First: !w.fired, Last: final}
	if w.fired {
		pane.Index, pane.OnTimeIndex = w.index+1, w.onTime+1
	}
	switch {
	case w.fired && w.timing != coders.Early || w.end < p.outputWatermark():
		pane.Timing = coders.Late
	case p.watermark <= w.end:
		pane.Timing, pane.OnTimeIndex = coders.Early, -1
	default:
		pane.Timing = coders.OnTime
	}
	return pane
}

// drop forgets the values of a window.
func (p *Panes) drop(u *unit, w *window) {
	for _, cell := range w.cells {
		p.store.deleteValues(u, cell)
	}
	w.cells, w.inside, w.last, w.count, w.merged = nil, 0, 0, 0, 0
	const keep = 1 << 10 // so that small panes don't allocate each time
	if cap(w.values) > keep {
		p.grow(u, -int64(cap(w.values)))
		w.values = nil
	}
	w.values = w.values[:0]
}

// run does what is due in a unit by the watermark: panes on time, and the end of windows
// that have expired. It settles u, or removes it if no window is left. What is to be done
// depends on the time that it is, not on the one that was waited for: if the watermark has
// passed both the end and the expiry of a window, there is one pane.
func (p *Panes) run(u *unit) error {
	p.change(u)
	if p.cfg.Bounded {
		if err := p.runBatch(u); err != nil {
			return err
		}
	}
	for _, w := range u.windows {
		var err error
		switch {
		case w.wake() >= p.watermark || p.isDone(w):
		case p.watermark > w.expiry:
			err = p.emit(u, w, true)
		case p.shouldFire(w):
			err = p.fire(u, w)
		}
		if err != nil {
			return err
		}
		w.ended = p.watermark > w.end
	}
	u.windows = slices.DeleteFunc(u.windows, func(w *window) bool {
		if p.watermark <= w.expiry {
			return false
		}
		p.forget(u, w)
		return true
	})
	p.settle(u)
	return nil
}

// runBatch asks the triggers of a unit what they say to all its elements, before they know of
// the watermark. The caller settles u.
func (p *Panes) runBatch(u *unit) error {
	watermark := p.watermark
	defer func() { p.watermark = watermark }()
	p.watermark = coders.MinTimestamp
	for _, w := range u.windows {
		if w.closed || w.ended || !p.shouldFire(w) {
			continue
		}
		if err := p.fire(u, w); err != nil {
			return err
		}
	}
	return nil
}

// forget gives up all that a window has taken.
func (p *Panes) forget(u *unit, w *window) {
	p.drop(u, w)
	p.grow(u, -windowBytes-int64(cap(w.values)))
}

// runClock asks the triggers of a unit, as one of them waited for processing time. It settles u.
func (p *Panes) runClock(u *unit) error {
	p.change(u)
	u.overdue = false
	for _, w := range u.windows {
		if w.closed || p.watermark > w.expiry || !p.shouldFire(w) {
			continue
		}
		if err := p.fire(u, w); err != nil {
			return err
		}
	}
	p.settle(u)
	return nil
}

// catchUp does what is due in a unit before elements are added to it.
func (p *Panes) catchUp(u *unit) error {
	if u.wake < p.watermark {
		if err := p.run(u); err != nil {
			return err
		}
	}
	if u.clock <= p.now {
		return p.runClock(u)
	}
	return nil
}

// runDue does something of what is due; more is false if nothing was.
func (p *Panes) runDue() (more bool, err error) {
	switch {
	case p.events.min() < p.watermark:
		u := p.events.first()
		if err = p.run(u); err == nil {
			err = p.removeIfEmpty(u)
		}
	case p.clocks.min() <= p.now:
		err = p.runClock(p.clocks.first())
	default:
		return p.loadDue()
	}
	return true, err
}

// removeIfEmpty removes a unit that has no windows left.
func (p *Panes) removeIfEmpty(u *unit) error {
	if len(u.windows) > 0 {
		return nil
	}
	p.leave(u)
	return p.store.remove(u)
}
