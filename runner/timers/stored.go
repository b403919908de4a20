package timers

import (
	"cmp"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// groupSet is a set of key groups.
type groupSet [keygroup.DefaultMax / 64]uint64

func (s *groupSet) has(g uint16) bool { return s[g/64]>>(g%64)&1 != 0 }
func (s *groupSet) add(g uint16)      { s[g/64] |= 1 << (g % 64) }

// group is what is known of a key group, whose timers are in the store, without a look there.
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

// note is what a key group in the store has more or less of.
type note struct {
	group      uint16
	domain     domain
	gone       bool
	fire, hold int64
}

// note takes note of what was committed to the store.
func (t *Timers) note(n *note) {
	g := &t.groups[n.group]
	held := n.domain != expiry || t.expiration >= 0
	switch {
	case n.gone && held && n.hold <= g.hold:
		g.exact = false
	case n.gone:
	default:
		g.next[n.domain] = min(g.next[n.domain], n.fire)
		if held && n.hold <= g.hold {
			g.hold, g.exact = n.hold, true
		}
	}
}

// commitStored makes changes of timers that were in memory when a bundle began.
func (t *Timers) commitStored(e *Edit) error {
	e.overlay = statebackend.NewOverlay(t.store)
	for i := range e.changes {
		if err := e.makeStored(&e.changes[i]); err != nil {
			return err
		}
	}
	if err := t.store.Commit(e.overlay.Batch()); err != nil {
		return err
	}
	for i := range e.notes {
		t.note(&e.notes[i])
	}
	return nil
}

// ripe returns the groups that may have something before that time, those first that may
// have the earliest.
func (t *Timers) ripe(d domain, before int64) []uint16 {
	var out []uint16
	for _, g := range t.far {
		if t.groups[g].next[d] < before {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b uint16) int { return cmp.Compare(t.groups[a].next[d], t.groups[b].next[d]) })
	return out
}

// patience is how many more timers of a group, that wait for others of their keys, than such
// that do not are passed by in the search for the latter: a few, as each bundle passes them again.
const patience = 3

// takeStored hands out timers that are in the store, after those in out.
func (t *Timers) takeStored(out []engine.Timer, d domain, before int64, limit int) ([]engine.Timer, error) {
	inMemory := len(out)
	first := map[string]int64{} // by key
	for _, g := range t.ripe(d, before) {
		if len(out) >= limit {
			break
		}
		next, skipped, most := int64(never), 0, patience
		err := t.scan(g, d, t.groups[g].next[d], func(v engine.Timer) bool {
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
	for i := range out[inMemory:] {
		t.out[nameOf(&out[inMemory+i])] = struct{}{}
	}
	return out, nil
}

// scan visits what a group has of a domain at that time or later, in the order of time.
func (t *Timers) scan(g uint16, d domain, from int64, visit func(engine.Timer) (more bool)) error {
	scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
	if d == expiry {
		return t.scanExpiries(scope, from, func(e statebackend.Expiry) (bool, error) {
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
	err := statebackend.DueTimers(t.store, scope, of, from, never, func(v statebackend.Timer) bool {
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

func (t *Timers) scanExpiries(scope statebackend.Scope, from int64, visit func(statebackend.Expiry) (more bool, err error)) error {
	lo, hi := scope.ExpiryRange(from, never)
	var failed error
	err := t.store.Scan(lo, hi, func(key, _ []byte) bool {
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

// collectStored removes windows of the key groups in the store that have expired, when n others
// were, and returns how many were in all.
func (t *Timers) collectStored(e *Edit, before int64, n int) (int, error) {
	for _, g := range t.ripe(expiry, before) {
		scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
		next := int64(never)
		var expired []statebackend.Expiry
		err := t.scanExpiries(scope, t.groups[g].next[expiry], func(x statebackend.Expiry) (bool, error) {
			if n >= collectAtOnce || x.At >= before {
				next = x.At
				return false, nil
			}
			n++
			x.Key, x.Window = slices.Clone(x.Key), slices.Clone(x.Window)
			expired = append(expired, x)
			return true, nil
		})
		if err != nil {
			return n, err
		}
		for _, x := range expired {
			if err := e.removeStored(x); err != nil {
				return n, err
			}
		}
		t.groups[g].next[expiry] = next
	}
	return n, nil
}

// settle finds the smallest hold.
func (t *Timers) settle() error {
	t.hold = t.near.holds.min()
	for _, g := range t.far {
		if g := &t.groups[g]; g.exact {
			t.hold = min(t.hold, g.hold)
		}
	}
	for _, g := range t.far {
		if k := &t.groups[g]; !k.exact && k.hold < t.hold {
			if err := t.readHold(g); err != nil {
				return err
			}
			t.hold = min(t.hold, k.hold)
		}
	}
	return nil
}

// readHold reads the smallest hold of a group.
func (t *Timers) readHold(g uint16) error {
	scope := statebackend.Scope{Group: g, Transform: t.spec.Name}
	hold, ok, err := statebackend.MinHold(t.store, scope, t.groups[g].hold)
	if err != nil {
		return err
	}
	if !ok {
		hold = never
	}
	if t.expiration >= 0 {
		err = t.scanExpiries(scope, t.expiryOf(t.groups[g].hold), func(e statebackend.Expiry) (bool, error) {
			hold = min(hold, t.expiryHold(e.At))
			return false, nil
		})
	}
	t.groups[g].hold, t.groups[g].exact = hold, err == nil
	return err
}
