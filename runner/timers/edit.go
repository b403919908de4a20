package timers

import (
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

const globalWindow = urns.CoderGlobalWindow

// Edit is what one bundle does to timers, in the overlay of its state. It belongs to one
// goroutine, which need not be the owner of the timers: of these it reads only what never
// changes.
type Edit struct {
	timers  *Timers
	overlay *statebackend.Overlay
	fired   []engine.Timer
	changes []change
	removed int    // windows
	key     []byte // scratch
}

// change is what a group has more or less of.
type change struct {
	group      uint16
	domain     domain
	gone       bool
	fire, hold int64
}

// Edit begins the changes of a bundle whose state is o.
func (t *Timers) Edit(o *statebackend.Overlay) *Edit { return &Edit{timers: t, overlay: o} }

// Expires tells when a window ends, which is its maximum timestamp, and when it expires: when
// elements of it are late for good, its event-time timers have fired, and its state can go,
// once the watermark has passed that time. Any goroutine may ask.
func (t *Timers) Expires(window []byte) (end, at int64, err error) {
	end, err = t.spec.Windowing.MaxTimestamp(window)
	if err != nil {
		return 0, 0, err
	}
	return end, end + min(t.spec.Windowing.AllowedLateness, max(coders.EndOfGlobalWindow-end, 0)), nil
}

// Expire tells whether windows expire before the job ends, or a family fires when they do.
func (t *Timers) Expire() bool { return t.expires }

// expiryHold is what a window that expires at that time holds the watermark at: its end,
// unless it expires so late that it has not all of the lateness allowed.
func (t *Timers) expiryHold(at int64) int64 {
	if t.spec.Windowing.WindowCoder.URN() == globalWindow {
		return at
	}
	return at - t.spec.Windowing.AllowedLateness
}

func (t *Timers) scope(key string) statebackend.Scope {
	group := keygroup.Of(keygroup.Hash([]byte(key)), keygroup.DefaultMax)
	return statebackend.Scope{Group: uint16(group), Transform: t.spec.Name}
}

// Touch notes that there is something of the key and window, which goes when the window expires.
func (e *Edit) Touch(key, window []byte) error {
	t := e.timers
	if !t.expires {
		return nil
	}
	_, at, err := t.Expires(window)
	if err != nil {
		return err
	}
	x := statebackend.Expiry{Scope: t.scope(string(key)), At: at, Window: window, Key: key}
	e.key = x.AppendKey(e.key[:0])
	if v, err := e.overlay.Get(e.key); err != nil || v != nil {
		return err
	}
	e.overlay.Set(e.key, nil)
	e.changes = append(e.changes, change{group: x.Group, domain: expiry, fire: at, hold: t.expiryHold(at)})
	return nil
}

// Finish makes a bundle's changes: fired timers are gone unless they are set again, the last
// word on a timer counts, and windows that have expired go with all that is left of them.
func (e *Edit) Finish(fired []engine.Timer, changes []engine.TimerChange) error {
	e.fired = fired
	for _, v := range fired {
		if v.Family == e.timers.expiration {
			continue
		}
		if err := e.clear(v); err != nil {
			return err
		}
	}
	for _, c := range changes {
		var err error
		if c.Clear {
			err = e.clear(c.Timer)
		} else {
			err = e.set(c.Timer)
		}
		if err != nil {
			return err
		}
	}
	for _, v := range fired {
		if v.Family != e.timers.expiration {
			continue
		}
		x := statebackend.Expiry{Scope: e.timers.scope(v.Key), At: v.Fire, Window: []byte(v.Window), Key: []byte(v.Key)}
		if err := e.remove(x); err != nil {
			return err
		}
	}
	return nil
}

// stored is v as it is stored. What is of event time fires when its window expires at the latest.
func (e *Edit) stored(v engine.Timer) statebackend.Timer {
	f := e.timers.spec.Timers[v.Family]
	s := statebackend.Timer{
		Key: []byte(v.Key), Window: []byte(v.Window), Family: f.Name, Tag: v.Tag,
		Domain: statebackend.EventTime, Fire: min(v.Fire, frame.MaxTimestamp), Hold: v.Hold, Pane: v.Pane,
	}
	if f.ProcessingTime {
		s.Domain = statebackend.ProcessingTime
	}
	return s
}

func (e *Edit) set(v engine.Timer) error {
	s := e.stored(v)
	if s.Domain == statebackend.EventTime {
		if e.timers.spec.Windowing.KnowsEnds() {
			_, at, err := e.timers.Expires(s.Window)
			if err != nil {
				return err
			}
			s.Fire = min(s.Fire, at)
		}
	} else if err := e.Touch(s.Key, s.Window); err != nil {
		return err
	}
	scope := e.timers.scope(v.Key)
	old, replaced, err := statebackend.SetTimer(e.overlay, scope, s)
	if replaced {
		e.note(scope.Group, &old, true)
	}
	e.note(scope.Group, &s, false)
	return err
}

func (e *Edit) clear(v engine.Timer) error {
	scope := e.timers.scope(v.Key)
	old, removed, err := statebackend.ClearTimer(e.overlay, scope, e.stored(v))
	if removed {
		e.note(scope.Group, &old, true)
	}
	return err
}

// remove removes a window of a key.
func (e *Edit) remove(x statebackend.Expiry) error {
	e.removed++
	e.changes = append(e.changes, change{group: x.Group, domain: expiry, gone: true, hold: e.timers.expiryHold(x.At)})
	return statebackend.RemoveWindow(e.overlay, x, func(v statebackend.Timer) { e.note(x.Group, &v, true) })
}

func (e *Edit) note(group uint16, v *statebackend.Timer, gone bool) {
	hold := v.Hold
	if v.Domain == statebackend.EventTime {
		hold = min(hold, v.Fire)
	}
	e.changes = append(e.changes, change{group, domainOf(v.Domain), gone, v.Fire, hold})
}

// Committed takes note of the changes of a bundle, once they are in the store.
func (t *Timers) Committed(e *Edit) error {
	for i := range e.fired {
		delete(t.out, nameOf(&e.fired[i]))
	}
	for _, c := range e.changes {
		g := &t.groups[c.group]
		held := c.domain != expiry || t.expiration >= 0
		switch {
		case c.gone && held && c.hold <= g.hold:
			g.exact = false
		case c.gone:
		default:
			g.next[c.domain] = min(g.next[c.domain], c.fire)
			if held && c.hold <= g.hold {
				g.hold, g.exact = c.hold, true
			}
		}
	}
	return t.settle()
}
