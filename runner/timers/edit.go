package timers

import (
	"math"
	"slices"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

const globalWindow = urns.CoderGlobalWindow

// Edit is what one bundle does to timers. It belongs to one goroutine, which need not be the
// owner of the timers: of these it reads only what never changes.
type Edit struct {
	timers  *Timers
	overlay *statebackend.Overlay
	stored  *groupSet // when the bundle began
	fired   []engine.Timer
	changes []change // of timers in memory
	notes   []note   // of those in the store, whose changes are in overlay
	touched map[string]struct{}
	ahead   bool              // it may fire timers of several times of a key
	changed bool              // an event-time timer, beyond firing
	turns   map[string]*turns // by key
	key     []byte            // scratch
}

// change is one of a timer in memory, to be made when the bundle commits.
type change struct {
	kind   changeKind
	domain domain
	group  uint16
	fire   int64
	timer  *engine.Timer
}

type changeKind uint8

const (
	set changeKind = iota
	cleared
	fired
	expired // the window, with all of its timers
)

// Edit begins the changes of a bundle whose state is o.
func (t *Timers) Edit(o *statebackend.Overlay) *Edit {
	return &Edit{timers: t, overlay: o, stored: t.stored, ahead: t.ahead > 1}
}

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

// expiryOf returns when a window expires that holds the watermark at that time: no later.
func (t *Timers) expiryOf(hold int64) int64 {
	if hold == math.MinInt64 || t.spec.Windowing.WindowCoder.URN() == globalWindow {
		return hold
	}
	return hold + t.spec.Windowing.AllowedLateness
}

func groupOf(key []byte) uint16 {
	return uint16(keygroup.Of(keygroup.Hash(key), keygroup.DefaultMax))
}

func (t *Timers) scope(key string) statebackend.Scope {
	return statebackend.Scope{Group: groupOf([]byte(key)), Transform: t.spec.Name}
}

func (t *Timers) domainOf(family int) domain {
	if t.spec.Timers[family].ProcessingTime {
		return clock
	}
	return eventTime
}

// Touch notes that there is something of the key and window, which goes when the window expires.
func (e *Edit) Touch(key, window []byte) error {
	t := e.timers
	if !t.expires {
		return nil
	}
	e.key = append(append(e.key[:0], window...), key...) // windows delimit themselves
	if _, seen := e.touched[string(e.key)]; seen {
		return nil
	}
	end, at, err := t.Expires(window)
	if err != nil {
		return err
	}
	group := groupOf(key)
	if e.stored.has(group) {
		return e.touchStored(statebackend.Expiry{
			Scope: statebackend.Scope{Group: group, Transform: t.spec.Name}, At: at, Window: window, Key: key,
		})
	}
	if e.touched == nil {
		e.touched = map[string]struct{}{}
	}
	both := string(e.key)
	e.touched[both] = struct{}{}
	e.changes = append(e.changes, change{kind: set, domain: expiry, group: group, fire: at, timer: &engine.Timer{
		Family: t.expiration, Key: both[len(window):], Window: both[:len(window)], Hold: end, Pane: noPane,
	}})
	return nil
}

// noPane is that of windows that expire.
var noPane = []byte{coders.PaneNoFiring}

// Finish makes a bundle's changes: fired timers are gone unless they are set again, the last
// word on a timer counts, and windows that have expired go with all that is left of them.
// It may fail with ErrOutOfTurn.
func (e *Edit) Finish(due []engine.Timer, changes []engine.TimerChange) error {
	e.fired = due
	e.changes = slices.Grow(e.changes, len(due)+len(changes))
	if e.ahead && len(changes) > 0 {
		e.turns = e.timers.turnsOf(due)
	}
	for i := range due {
		if v := &due[i]; v.Family != e.timers.expiration {
			if err := e.clear(v, fired); err != nil {
				return err
			}
		}
	}
	for i := range changes {
		var err error
		if c := &changes[i]; c.Clear {
			err = e.clear(&c.Timer, cleared)
		} else {
			err = e.set(&c.Timer)
		}
		if err != nil {
			return err
		}
	}
	for i := range due {
		if v := &due[i]; v.Family == e.timers.expiration {
			if err := e.expire(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// set sets a timer. What is of event time fires when its window expires at the latest.
func (e *Edit) set(v *engine.Timer) error {
	t := e.timers
	c := change{kind: set, domain: t.domainOf(v.Family), group: groupOf([]byte(v.Key)), fire: min(v.Fire, frame.MaxTimestamp), timer: v}
	if c.domain == clock {
		if err := e.Touch([]byte(v.Key), []byte(v.Window)); err != nil {
			return err
		}
	} else if t.spec.Windowing.KnowsEnds() {
		_, at, err := t.Expires([]byte(v.Window))
		if err != nil {
			return err
		}
		c.fire = min(c.fire, at)
	}
	if c.domain == eventTime {
		if err := e.inTurn(&c); err != nil {
			return err
		}
	}
	return e.make(c)
}

func (e *Edit) clear(v *engine.Timer, how changeKind) error {
	c := change{kind: how, group: groupOf([]byte(v.Key)), timer: v}
	if how == cleared && e.timers.domainOf(v.Family) == eventTime {
		if err := e.inTurn(&c); err != nil {
			return err
		}
	}
	return e.make(c)
}

// expire removes a window of a key.
func (e *Edit) expire(v *engine.Timer) error {
	c := change{kind: expired, domain: expiry, group: groupOf([]byte(v.Key)), fire: v.Fire, timer: v}
	if !e.stored.has(c.group) {
		scope := statebackend.Scope{Group: c.group, Transform: e.timers.spec.Name}
		e.overlay.DeleteRange(scope.WindowRange([]byte(v.Key), []byte(v.Window)))
	}
	return e.make(c)
}

// make makes a change, now if the timer is in the store.
func (e *Edit) make(c change) error {
	if !e.stored.has(c.group) {
		e.changes = append(e.changes, c)
		return nil
	}
	return e.makeStored(&c)
}

// makeStored makes a change of a timer in the store.
func (e *Edit) makeStored(c *change) error {
	t, v := e.timers, c.timer
	scope := statebackend.Scope{Group: c.group, Transform: t.spec.Name}
	x := statebackend.Expiry{Scope: scope, At: c.fire, Window: []byte(v.Window), Key: []byte(v.Key)}
	switch {
	case c.kind == expired:
		return e.removeStored(x)
	case c.domain == expiry:
		return e.touchStored(x)
	case c.kind == set:
		s := t.storedTimer(v)
		s.Fire = c.fire
		old, replaced, err := statebackend.SetTimer(e.overlay, scope, s)
		if replaced {
			e.note(c.group, &old, true)
		}
		e.note(c.group, &s, false)
		return err
	}
	if c.kind == fired { // nobody changes a timer that is handed out
		s := t.storedTimer(v)
		statebackend.RemoveTimer(e.overlay, &scope, &s)
		e.note(c.group, &s, true)
		return nil
	}
	old, removed, err := statebackend.ClearTimer(e.overlay, scope, t.storedTimer(v))
	if removed {
		e.note(c.group, &old, true)
	}
	return err
}

func (e *Edit) touchStored(x statebackend.Expiry) error {
	e.key = x.AppendKey(e.key[:0])
	if v, err := e.overlay.Get(e.key); err != nil || v != nil {
		return err
	}
	e.overlay.Set(e.key, nil)
	e.notes = append(e.notes, note{group: x.Group, domain: expiry, fire: x.At, hold: e.timers.expiryHold(x.At)})
	return nil
}

func (e *Edit) removeStored(x statebackend.Expiry) error {
	e.notes = append(e.notes, note{group: x.Group, domain: expiry, gone: true, hold: e.timers.expiryHold(x.At)})
	return statebackend.RemoveWindow(e.overlay, x, func(v statebackend.Timer) { e.note(x.Group, &v, true) })
}

func (e *Edit) note(group uint16, v *statebackend.Timer, gone bool) {
	hold := v.Hold
	if v.Domain == statebackend.EventTime {
		hold = min(hold, v.Fire)
	}
	e.notes = append(e.notes, note{group, domainOf(v.Domain), gone, v.Fire, hold})
}
