package timers

import (
	"errors"

	"github.com/lintelrun/lintel/runner/engine"
)

// Firing a timer may set another that goes before the key's next, so that a bundle fires timers
// of one time per key. But most timers set none, and many bundles of few timers each are
// slow where time passes in leaps, as it does in batches. So each bundle fires timers of twice as
// many times of a key as the one before, as long as none of them changes a timer. One that has
// fired a timer out of its turn fails with ErrOutOfTurn; what it has done is given up, and from
// then on it is one time again.

// ErrOutOfTurn is of a bundle that must not be committed: it has changed timers so that others
// should not have fired in it. They go back by GiveBack.
var ErrOutOfTurn = errors.New("a timer has fired that was to wait for others of its key")

// mostAhead is how many times of a key a bundle fires at most.
const mostAhead = 64

// learn adapts how many times of a key a bundle fires to one that was committed.
func (t *Timers) learn(e *Edit) {
	switch {
	case len(e.fired) == 0 || t.strict:
	case e.changed:
		t.ahead = 1
	default:
		t.ahead = min(2*t.ahead, mostAhead)
	}
}

// GiveBack implements engine.Timers.
func (t *Timers) GiveBack(handed []engine.Timer) {
	t.ahead, t.strict = 1, true
	for i := range handed {
		v := &handed[i]
		d := t.domainOf(v.Family)
		if g := groupOf([]byte(v.Key)); t.stored.has(g) {
			delete(t.out, nameOf(v))
			t.groups[g].next[d] = min(t.groups[g].next[d], v.Fire)
			continue
		}
		t.near.giveBack(v, d)
	}
}

// giveBack takes a timer that was handed out.
func (x *index) giveBack(v *engine.Timer, d domain) {
	k := x.keys[v.Key]
	if k == nil {
		return
	}
	if e := k.find(v.Family, v.Tag, v.Window); e != nil && e.at < 0 {
		byFire.push(&k.queues[d], e)
		if k.out--; k.out == 0 {
			x.placeAll(k)
		}
	}
}

// turns are the times of a key at which a bundle fires its timers: first and last, and those of
// the timers that are not of the first.
type turns struct {
	first, last int64
	later       map[inKey]struct{}
}

// turnsOf returns the turns of the keys of which event-time timers of several times fire.
func (t *Timers) turnsOf(due []engine.Timer) map[string]*turns {
	keys := map[string]*turns{}
	for i := range due {
		v := &due[i]
		if t.domainOf(v.Family) != eventTime || v.Family == t.expiration {
			return nil // all are of one domain
		}
		k := keys[v.Key]
		if k == nil {
			keys[v.Key] = &turns{first: v.Fire, last: v.Fire}
			continue
		}
		k.last = v.Fire
		if v.Fire != k.first {
			if k.later == nil {
				k.later = map[inKey]struct{}{}
			}
			k.later[inKey{v.Family, v.Tag, v.Window}] = struct{}{}
		}
	}
	return keys
}

// inTurn checks that a change of an event-time timer leaves the timers that have fired in their order.
func (e *Edit) inTurn(c *change) error {
	e.changed = true
	k := e.turns[c.timer.Key]
	if k == nil || k.first == k.last {
		return nil
	}
	_, fired := k.later[inKey{c.timer.Family, c.timer.Tag, c.timer.Window}]
	if fired || c.kind == set && c.fire < k.last {
		return ErrOutOfTurn
	}
	return nil
}
