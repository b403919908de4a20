package timers

import (
	"math"
	"slices"
	"sync/atomic"

	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/statebackend"
)

// Memory is what the timers of several tasks may take of it together, in bytes. Any of its
// users may write its own timers to its store when it is too much.
type Memory struct {
	limit int64
	used  atomic.Int64
}

// NewMemory returns a Memory of that many bytes.
func NewMemory(bytes int64) *Memory { return &Memory{limit: bytes} }

// smallest is the share of the memory that a task has whatever others take.
const smallest = 1.0 / 32

// full tells whether a task that takes so much is to take less.
func (m *Memory) full(used int64) bool {
	return m.used.Load() > m.limit && float64(used) > smallest*float64(m.limit)
}

// Flush writes to the store what is only in memory: then a snapshot of the store has all timers, those that
// are handed out included. They stay in memory. What it writes is what has changed since the last time.
func (t *Timers) Flush() error {
	_, err := t.FlushSome(math.MaxInt)
	return err
}

// FlushSome writes to the store some of what is only in memory, about so many bytes, and reports whether that was all.
func (t *Timers) FlushSome(bytes int) (done bool, err error) {
	t.near.track()
	for written := 0; written < bytes; {
		e := t.near.nextUnsaved()
		if e == nil {
			break
		}
		before := t.behind.Bytes()
		t.put(t.near.keys[e.Key].group, e)
		t.near.keep(e)
		after := t.behind.Bytes()
		if written += after - before; after >= writeBytes {
			if err := t.write(); err != nil {
				return false, err
			}
		}
	}
	return len(t.near.unsaved) == 0, t.write()
}

// put adds the records of a timer in memory to what is to be written.
func (t *Timers) put(group uint16, e *entry) {
	scope := statebackend.Scope{Group: group, Transform: t.spec.Name}
	if e.domain == expiry {
		x := statebackend.Expiry{Scope: scope, At: e.Fire, Window: []byte(e.Window), Key: []byte(e.Key)}
		t.behind.Set(x.AppendKey(nil), nil)
		return
	}
	s := t.storedTimer(&e.Timer)
	statebackend.PutTimer(&t.behind, &scope, &s)
}

// forget adds to what is to be written that a timer, as it is, is gone.
func (t *Timers) forget(group uint16, e *entry) {
	scope := statebackend.Scope{Group: group, Transform: t.spec.Name}
	if e.domain == expiry {
		x := statebackend.Expiry{Scope: scope, At: e.Fire, Window: []byte(e.Window), Key: []byte(e.Key)}
		t.behind.Delete(x.AppendKey(nil))
		return
	}
	s := t.storedTimer(&e.Timer)
	statebackend.RemoveTimer(&t.behind, &scope, &s)
}

// storedTimer is v as it is stored.
func (t *Timers) storedTimer(v *engine.Timer) statebackend.Timer {
	f := t.spec.Timers[v.Family]
	s := statebackend.Timer{
		Key: []byte(v.Key), Window: []byte(v.Window), Family: f.Name, Tag: v.Tag,
		Domain: statebackend.EventTime, Fire: v.Fire, Hold: v.Hold, Pane: v.Pane,
	}
	if f.ProcessingTime {
		s.Domain = statebackend.ProcessingTime
	}
	return s
}

// write commits what is to be written.
func (t *Timers) write() error {
	if t.behind.Len() == 0 {
		return nil
	}
	err := t.store.Commit(&t.behind)
	t.behind.Reset()
	return err
}

// writeBytes is about how much is written at once.
const writeBytes = 1 << 20

// limit writes timers to the store, and forgets them, if they take too much memory.
func (t *Timers) limit() error {
	if t.memory == nil || !t.account() {
		return nil
	}
	chosen := t.choose()
	stored := *t.stored
	for _, k := range t.near.keys {
		if !chosen.has(k.group) {
			continue
		}
		k.each(func(e *entry) {
			t.noteStored(k, e)
			if !e.kept() {
				t.put(k.group, e)
			}
			t.near.remove(k, e)
		})
		if t.behind.Bytes() >= writeBytes {
			if err := t.write(); err != nil {
				return err
			}
		}
	}
	for i := range stored {
		stored[i] |= chosen[i]
	}
	t.stored = &stored
	t.account()
	return t.write()
}

// account tells whether timers take too much memory.
func (t *Timers) account() bool {
	used := t.near.bytes
	t.memory.used.Add(used - t.used)
	t.used = used
	return t.memory.full(used)
}

// choose returns the largest of the key groups in memory, about a quarter of all, and puts them on
// the list of those in the store.
func (t *Timers) choose() *groupSet {
	var order []uint16
	for g, bytes := range t.near.group {
		if bytes > 0 {
			order = append(order, uint16(g))
		}
	}
	slices.SortFunc(order, func(a, b uint16) int { return int(t.near.group[b] - t.near.group[a]) })
	var chosen groupSet
	bytes := int64(0)
	for _, g := range order {
		if bytes >= t.near.bytes/4 {
			break
		}
		bytes += t.near.group[g]
		chosen.add(g)
		t.far = append(t.far, g)
		t.groups[g] = group{next: [domains]int64{never, never, never}, hold: never, exact: true}
	}
	return &chosen
}

// noteStored takes note of a timer that is going to be in the store only.
func (t *Timers) noteStored(k *keyTimers, e *entry) {
	n := note{group: k.group, domain: e.domain, fire: e.Fire, hold: e.hold}
	if e.at < 0 {
		t.out[nameOf(&e.Timer)] = struct{}{}
		n.fire = never
	}
	t.note(&n)
}

// load reads timers from the store, as far as there is memory for them.
func (t *Timers) load() error {
	any := false
	lo, hi := statebackend.GroupRange(0, statebackend.MaxGroups)
	err := t.store.Scan(lo, hi, func(_, _ []byte) bool {
		any = true
		return false
	})
	if err != nil || !any {
		return err
	}
	stored := *t.stored
	for i := range t.groups {
		g := uint16(i)
		fits, err := t.loadGroup(g)
		if err != nil {
			return err
		}
		if !fits {
			stored.add(g)
			t.far = append(t.far, g)
			const unknown = math.MinInt64
			t.groups[g] = group{next: [domains]int64{unknown, unknown, unknown}, hold: unknown}
		}
	}
	t.stored = &stored
	return nil
}

// loadGroup reads a key group from the store, unless it does not fit into memory.
func (t *Timers) loadGroup(g uint16) (fits bool, err error) {
	var found [domains][]engine.Timer
	room := int64(math.MaxInt64)
	if t.memory != nil {
		room = max(t.memory.limit-t.memory.used.Load(), int64(smallest*float64(t.memory.limit))-t.near.bytes)
	}
	for d := range domains {
		err := t.scan(g, d, math.MinInt64, func(v engine.Timer) bool {
			room -= int64(entryBytes + keyBytes + len(v.Key) + len(v.Window))
			found[d] = append(found[d], v)
			return room >= 0
		})
		if err != nil || room < 0 {
			return false, err
		}
	}
	for d := range domains {
		for i := range found[d] {
			v := &found[d][i]
			t.near.set(g, d, v, t.holdOf(d, v), true, t.forget)
		}
	}
	if t.memory != nil {
		t.account()
	}
	return true, nil
}
