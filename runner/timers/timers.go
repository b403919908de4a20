// Package timers keeps the timers of a stateful task, and when its windows expire, in the
// task's store: what is in memory is a few numbers for each key group. A bundle's changes go
// into the overlay of its state and are committed with it.
package timers

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
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

	groups []group
	out    map[name]struct{} // handed out, and neither fired nor taken back yet
	hold   int64
	again  time.Time // when to go on removing windows, or zero
}

// group is what is known of a key group without a look into the store.
type group struct {
	// next is, for each domain, no later than the first that is not handed out.
	next [domains]int64
	// hold is no later than the smallest hold, and that hold itself if exact.
	hold  int64
	exact bool
}

type name struct {
	family           int
	tag, key, window string
}

func nameOf(t *engine.Timer) name { return name{t.Family, t.Tag, t.Key, t.Window} }

// New returns the timers in a store, whose owner the caller is.
func New(store statebackend.Store, spec *plan.StatefulSpec) (*Timers, error) {
	t := &Timers{
		store:      store,
		spec:       spec,
		families:   make(map[string]int, len(spec.Timers)),
		expiration: -1,
		groups:     make([]group, keygroup.DefaultMax),
		out:        map[name]struct{}{},
	}
	for i, f := range spec.Timers {
		t.families[f.Name] = i
		if spec.Expiration != "" && f.Name == spec.Expiration {
			t.expiration = i
		}
	}
	t.expires = t.expiration >= 0 || spec.Windowing.WindowCoder.URN() != globalWindow && spec.Windowing.KnowsEnds()
	known := int64(never)
	lo, hi := statebackend.GroupRange(0, statebackend.MaxGroups)
	err := store.Scan(lo, hi, func(_, _ []byte) bool {
		known = math.MinInt64
		return false
	})
	if err != nil {
		return nil, err
	}
	for i := range t.groups {
		t.groups[i] = group{next: [domains]int64{known, known, known}, hold: known, exact: known == never}
	}
	return t, t.settle()
}

// Hold implements engine.Timers.
func (t *Timers) Hold() int64 { return t.hold }

// Pending implements engine.Timers.
func (t *Timers) Pending() bool {
	if len(t.out) > 0 {
		return true
	}
	for i := range t.groups {
		next := &t.groups[i].next
		if next[eventTime] != never || next[clock] != never || t.expiration >= 0 && next[expiry] != never {
			return true
		}
	}
	return false
}

// NextClock implements engine.Timers.
func (t *Timers) NextClock() (time.Time, bool) {
	first := int64(never)
	for i := range t.groups {
		first = min(first, t.groups[i].next[clock])
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
		var due []engine.Timer
		var err error
		if domain(d) == expiry && t.expiration < 0 {
			err = t.collect(before, now)
		} else {
			due, err = t.take(domain(d), before, limit)
		}
		if err != nil || len(due) > 0 {
			return due, err
		}
	}
	return nil, t.settle()
}

// ripe returns the groups that may have something before that time, those first that may
// have the earliest.
func (t *Timers) ripe(d domain, before int64) []uint16 {
	var out []uint16
	for i := range t.groups {
		if t.groups[i].next[d] < before {
			out = append(out, uint16(i))
		}
	}
	slices.SortFunc(out, func(a, b uint16) int { return cmp.Compare(t.groups[a].next[d], t.groups[b].next[d]) })
	return out
}

// patience is how many more timers of a group, that wait for others of their keys, than such
// that do not are passed by in the search for the latter: a few, as each bundle passes them again.
const patience = 3

func (t *Timers) take(d domain, before int64, limit int) ([]engine.Timer, error) {
	var out []engine.Timer
	first := map[string]int64{} // by key
	for _, g := range t.ripe(d, before) {
		if len(out) >= limit {
			break
		}
		next, skipped, most := int64(never), 0, patience
		err := t.scan(g, d, func(v engine.Timer) bool {
			if _, busy := t.out[nameOf(&v)]; busy {
				return true
			}
			if v.Fire >= before || len(out) >= limit || skipped >= most {
				next = min(next, v.Fire)
				return false
			}
			if fire, seen := first[v.Key]; seen && fire != v.Fire {
				next = min(next, v.Fire)
				skipped++
				return true
			}
			if d != expiry { // nothing that the end of a window does comes before another's
				first[v.Key] = v.Fire
			}
			out = append(out, v)
			most++
			return true
		})
		if err != nil {
			return nil, err
		}
		t.groups[g].next[d] = next
		clear(first) // a key is of one group
	}
	for i := range out {
		t.out[nameOf(&out[i])] = struct{}{}
	}
	return out, nil
}

// scan visits what a group has of a domain, in the order of time.
func (t *Timers) scan(g uint16, d domain, visit func(engine.Timer) (more bool)) error {
	scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
	if d == expiry {
		return t.scanExpiries(scope, func(e statebackend.Expiry) (bool, error) {
			end, _, err := t.Expires(e.Window)
			if err != nil {
				return false, err
			}
			return visit(engine.Timer{
				Family: t.expiration, Key: string(e.Key), Window: string(e.Window),
				Fire: e.At, Hold: end, Pane: []byte{coders.PaneNoFiring},
			}), nil
		})
	}
	of := statebackend.EventTime
	if d == clock {
		of = statebackend.ProcessingTime
	}
	var unknown error
	err := statebackend.DueTimers(t.store, scope, of, never, func(v statebackend.Timer) bool {
		family, ok := t.families[v.Family]
		if !ok {
			unknown = fault.New(fault.Corruption, "state of %s has a timer of family %q, which it does not declare", t.spec.Name, v.Family)
			return false
		}
		return visit(engine.Timer{
			Family: family, Tag: v.Tag, Key: string(v.Key), Window: string(v.Window),
			Fire: v.Fire, Hold: v.Hold, Pane: slices.Clone(v.Pane),
		})
	})
	return cmp.Or(err, unknown)
}

func (t *Timers) scanExpiries(scope statebackend.Scope, visit func(statebackend.Expiry) (more bool, err error)) error {
	from, to := scope.ExpiryRange(never)
	var failed error
	err := t.store.Scan(from, to, func(key, _ []byte) bool {
		e, err := statebackend.DecodeExpiry(key)
		more := false
		if err == nil {
			more, err = visit(e)
		}
		failed = err
		return more && err == nil
	})
	return cmp.Or(err, failed)
}

// collectAtOnce is how many windows are removed before other work has its turn.
const collectAtOnce = 1000

// collect removes windows that have expired. At the end of time it does not: all goes then.
func (t *Timers) collect(before int64, now time.Time) error {
	if before == never {
		return nil
	}
	e := Edit{timers: t, overlay: statebackend.NewOverlay(t.store)}
	for _, g := range t.ripe(expiry, before) {
		scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
		next, full := int64(never), false
		var expired []statebackend.Expiry
		err := t.scanExpiries(scope, func(x statebackend.Expiry) (bool, error) {
			if full = e.removed+len(expired) >= collectAtOnce; full || x.At >= before {
				next = x.At
				return false, nil
			}
			x.Key, x.Window = slices.Clone(x.Key), slices.Clone(x.Window)
			expired = append(expired, x)
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, x := range expired {
			if err := e.remove(x); err != nil {
				return err
			}
		}
		if t.groups[g].next[expiry] = next; full {
			t.again = now.Add(time.Millisecond)
			break
		}
	}
	if e.removed == 0 {
		return nil
	}
	if err := t.store.Commit(e.overlay.Batch()); err != nil {
		return err
	}
	return t.Committed(&e)
}

// settle finds the smallest hold.
func (t *Timers) settle() error {
	t.hold = frame.MaxTimestamp
	for i := range t.groups {
		if g := &t.groups[i]; g.exact {
			t.hold = min(t.hold, g.hold)
		}
	}
	for i := range t.groups {
		if g := &t.groups[i]; !g.exact && g.hold < t.hold {
			if err := t.readHold(uint16(i)); err != nil {
				return err
			}
			t.hold = min(t.hold, g.hold)
		}
	}
	return nil
}

// readHold reads the smallest hold of a group.
func (t *Timers) readHold(g uint16) error {
	scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
	hold, ok, err := statebackend.MinHold(t.store, scope)
	if err != nil {
		return err
	}
	if !ok {
		hold = never
	}
	if t.expiration >= 0 {
		err = t.scanExpiries(scope, func(e statebackend.Expiry) (bool, error) {
			hold = min(hold, t.expiryHold(e.At))
			return false, nil
		})
	}
	t.groups[g].hold, t.groups[g].exact = hold, err == nil
	return err
}
