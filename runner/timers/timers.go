// Package timers keeps the timers of a stateful task, and when its windows expire: in memory
// while there is room, by key group in the task's store beyond that. A bundle's changes to those
// in the store go into the overlay of its state and are committed with it, those to others when
// it commits.
package timers

import (
	"math"
	"time"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// domain orders what falls due: event time before processing time before the end of windows.
type domain int

const (
	eventTime domain = iota
	clock
	expiry
	domains // how many there are
)

func domainOf(d statebackend.Domain) domain {
	if d == statebackend.ProcessingTime {
		return clock
	}
	return eventTime
}

// never is when nothing falls due.
const never = math.MaxInt64

// Timers is what a stateful task has set and not yet fired: it implements engine.Timers. Its
// methods belong to the task's owner, unless they say otherwise.
type Timers struct {
	store      statebackend.Store
	spec       *plan.StatefulSpec
	families   map[string]int // by name, their place in spec
	expiration int            // the family that fires when windows expire, or -1
	expires    bool           // windows end before the job does, or someone wants to know
	memory     *Memory
	used       int64 // of memory

	near   index
	behind statebackend.Batch // to be written to the store: of timers in memory, what is not so any more

	stored *groupSet // the key groups whose timers are in the store; replaced when it changes
	far    []uint16  // the same as a list
	groups [keygroup.DefaultMax]group
	out    map[name]struct{} // of those in the store: handed out, and neither fired nor taken back yet

	ahead  int  // how many times of a key a bundle fires
	strict bool // no more than one, whatever bundles do

	hold  int64
	again time.Time // when to go on removing windows, or zero
}

// New returns the timers of a task, whose owner the caller is, with those that are in its store.
// The tasks that share memory keep in the store what does not fit into it.
func New(store statebackend.Store, spec *plan.StatefulSpec, memory *Memory) (*Timers, error) {
	t := &Timers{
		store:      store,
		spec:       spec,
		families:   make(map[string]int, len(spec.Timers)),
		expiration: -1,
		ahead:      1,
		memory:     memory,
		stored:     new(groupSet),
		out:        map[name]struct{}{},
	}
	t.near.init()
	for i, f := range spec.Timers {
		t.families[f.Name] = i
		if spec.Expiration != "" && f.Name == spec.Expiration {
			t.expiration = i
		}
	}
	t.expires = t.expiration >= 0 || spec.Windowing.WindowCoder.URN() != globalWindow && spec.Windowing.KnowsEnds()
	if err := t.load(); err != nil {
		return nil, err
	}
	return t, t.settle()
}

// Hold implements engine.Timers.
func (t *Timers) Hold() int64 { return t.hold }

// Pending implements engine.Timers.
func (t *Timers) Pending() bool {
	if t.near.count[eventTime]+t.near.count[clock] > 0 || t.expiration >= 0 && t.near.count[expiry] > 0 || len(t.out) > 0 {
		return true
	}
	for _, g := range t.far {
		next := &t.groups[g].next
		if next[eventTime] != never || next[clock] != never || t.expiration >= 0 && next[expiry] != never {
			return true
		}
	}
	return false
}

// NextClock implements engine.Timers.
func (t *Timers) NextClock() (time.Time, bool) {
	first := t.near.next(clock)
	for _, g := range t.far {
		first = min(first, t.groups[g].next[clock])
	}
	if first == never {
		return t.again, !t.again.IsZero()
	}
	if at := time.UnixMilli(first); t.again.IsZero() || at.Before(t.again) {
		return at, true
	}
	return t.again, true
}

// Due implements engine.Timers. Windows that have expired are removed from the store, with all
// state and timers, unless a family is to fire for them first.
func (t *Timers) Due(watermark int64, now time.Time, limit int) ([]engine.Timer, error) {
	passed, ticked := watermark, now.UnixMilli()+1
	if final := watermark >= frame.MaxTimestamp; final {
		passed, ticked = never, never
	}
	t.again = time.Time{}
	for d, before := range [domains]int64{eventTime: passed, clock: ticked, expiry: passed} {
		if domain(d) == expiry && t.expiration < 0 {
			if err := t.collect(before, now); err != nil {
				return nil, err
			}
			continue
		}
		due := t.near.take(domain(d), before, limit, t.ahead)
		if len(due) < limit && len(t.far) > 0 {
			var err error
			if due, err = t.takeStored(due, domain(d), before, limit); err != nil {
				return nil, err
			}
		}
		if len(due) > 0 {
			return due, nil
		}
	}
	return nil, t.settle()
}

// Committed takes note of the changes of a bundle, once they are in the store. It writes timers
// to the store if they have outgrown the memory.
func (t *Timers) Committed(e *Edit) error {
	late := Edit{timers: t, stored: t.stored}
	for i := range e.changes {
		if c := &e.changes[i]; t.stored.has(c.group) {
			late.changes = append(late.changes, *c) // its group has been written since the bundle began
		} else {
			t.apply(c)
		}
	}
	if len(late.changes) > 0 {
		if err := t.commitStored(&late); err != nil {
			return err
		}
	}
	for i := range e.notes {
		t.note(&e.notes[i])
	}
	if len(t.out) > 0 {
		for i := range e.fired {
			delete(t.out, nameOf(&e.fired[i]))
		}
	}
	t.learn(e)
	if err := t.limit(); err != nil {
		return err
	}
	return t.settle()
}

// apply makes a change of a timer in memory.
func (t *Timers) apply(c *change) {
	if c.kind == set {
		v := *c.timer
		v.Fire = c.fire
		t.near.set(c.group, c.domain, &v, t.holdOf(c.domain, &v), false, t.forget)
		return
	}
	k := t.near.keys[c.timer.Key]
	if k == nil {
		return
	}
	if c.kind == expired {
		t.dropWindow(k, c.timer.Window)
		return
	}
	e := k.find(c.timer.Family, c.timer.Tag, c.timer.Window)
	if e != nil && (c.kind == cleared || e.at < 0) { // else it has been set anew
		t.drop(k, e)
	}
}

// drop removes a timer from memory.
func (t *Timers) drop(k *keyTimers, e *entry) {
	if e.kept() {
		t.forget(k.group, e)
	}
	t.near.remove(k, e)
}

// dropWindow removes a window of a key from memory.
func (t *Timers) dropWindow(k *keyTimers, window string) {
	k.each(func(e *entry) {
		if e.Window == window {
			t.drop(k, e)
		}
	})
}

// holdOf returns what a timer holds the watermark at.
func (t *Timers) holdOf(d domain, v *engine.Timer) int64 {
	switch {
	case d == eventTime:
		return min(v.Hold, v.Fire)
	case d == clock:
		return v.Hold
	case t.expiration >= 0:
		return t.expiryHold(v.Fire)
	}
	return never
}

// collectAtOnce is how many windows are removed before other work has its turn.
const collectAtOnce = 1000

// collect removes windows that have expired. At the end of time it does not: all goes then.
func (t *Timers) collect(before int64, now time.Time) error {
	if before == never {
		return nil
	}
	e := Edit{timers: t, overlay: statebackend.NewOverlay(t.store), stored: t.stored}
	n := 0
	for ; t.near.next(expiry) < before && n < collectAtOnce; n++ {
		k := t.near.due[expiry][0]
		window := k.queues[expiry][0].Window
		scope := statebackend.Scope{Group: k.group, Transform: t.spec.Name}
		e.overlay.DeleteRange(scope.WindowRange([]byte(k.key), []byte(window)))
		t.dropWindow(k, window)
	}
	n, err := t.collectStored(&e, before, n)
	if err != nil || n == 0 {
		return err
	}
	if n >= collectAtOnce {
		t.again = now.Add(time.Millisecond)
	}
	if err := t.store.Commit(e.overlay.Batch()); err != nil {
		return err
	}
	return t.Committed(&e)
}
