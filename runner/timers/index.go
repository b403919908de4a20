package timers

import (
	"bytes"
	"cmp"
	"math"
	"strings"

	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// index is the timers and expiries in memory.
type index struct {
	keys  map[string]*keyTimers
	due   [domains][]*keyTimers // by when the first of theirs fires; without those that have some handed out
	order [domains]order[*keyTimers]
	holds holds
	count [domains]int
	bytes int64
	group [keygroup.DefaultMax]int64 // bytes of each
	pane  []byte                     // the last: most are alike

	tracks  bool     // unsaved is kept: from the first flush on
	unsaved []*entry // whose records the store doesn't have
	flushed int      // where FlushSome was in unsaved
}

// keyTimers is those of one key.
type keyTimers struct {
	key     string
	group   uint16
	out     int32          // how many are handed out
	at      [domains]int32 // in index.due, -1 if not there
	queues  [domains][]*entry
	entries []*entry         // all, while they are few
	byName  map[inKey]*entry // all, once they are many
}

// inKey is what names a timer among those of its key.
type inKey struct {
	family      int
	tag, window string
}

// entry is a timer or, of domain expiry, the end of a window.
type entry struct {
	engine.Timer
	hold   int64 // what it holds the watermark at
	at     int32 // in its queue, -1 while it is handed out
	domain domain
	// unsaved is its place in index.unsaved, or saved or unlisted.
	unsaved int32
}

var byFire = order[*entry]{
	less: func(a, b *entry) bool {
		if a.Fire != b.Fire {
			return a.Fire < b.Fire
		}
		return cmp.Or(strings.Compare(a.Window, b.Window), cmp.Compare(a.Family, b.Family), strings.Compare(a.Tag, b.Tag)) < 0
	},
	moved: func(e *entry, at int) { e.at = int32(at) },
}

// About what a timer and a key with timers take, besides their strings.
const (
	entryBytes = 192
	keyBytes   = 320
)

func (e *entry) bytes() int64 {
	return int64(entryBytes + len(e.Tag) + len(e.Window) + len(e.Pane))
}

func (x *index) init() {
	x.keys = map[string]*keyTimers{}
	x.holds.count = map[int64]int{}
	for d := range x.order {
		x.order[d] = order[*keyTimers]{
			less:  func(a, b *keyTimers) bool { return a.queues[d][0].Fire < b.queues[d][0].Fire },
			moved: func(k *keyTimers, at int) { k.at[d] = int32(at) },
		}
	}
}

// few is up to how many timers of a key are searched one by one.
const few = 8

func (k *keyTimers) find(family int, tag, window string) *entry {
	if k.byName != nil {
		return k.byName[inKey{family, tag, window}]
	}
	for _, e := range k.entries {
		if e.Family == family && e.Window == window && e.Tag == tag {
			return e
		}
	}
	return nil
}

func (k *keyTimers) add(e *entry) {
	if k.byName == nil {
		if k.entries = append(k.entries, e); len(k.entries) <= few {
			return
		}
		k.byName = make(map[inKey]*entry, 2*few)
		for _, e := range k.entries {
			k.byName[inKey{e.Family, e.Tag, e.Window}] = e
		}
		k.entries = nil
		return
	}
	k.byName[inKey{e.Family, e.Tag, e.Window}] = e
}

func (k *keyTimers) remove(e *entry) {
	if k.byName != nil {
		delete(k.byName, inKey{e.Family, e.Tag, e.Window})
		return
	}
	for i, o := range k.entries {
		if o == e {
			last := len(k.entries) - 1
			k.entries[i], k.entries[last] = k.entries[last], nil
			k.entries = k.entries[:last]
			return
		}
	}
}

func (k *keyTimers) len() int { return len(k.entries) + len(k.byName) }

// each visits all, which visit may remove.
func (k *keyTimers) each(visit func(*entry)) {
	for i := len(k.entries) - 1; i >= 0; i-- {
		visit(k.entries[i])
	}
	for _, e := range k.byName {
		visit(e)
	}
}

// set sets a timer, whose Fire is when it fires here and whose hold is what it holds the
// watermark at. If that replaces one that the store has, it is given to stale first.
func (x *index) set(group uint16, d domain, v *engine.Timer, hold int64, kept bool, stale func(uint16, *entry)) {
	k := x.keys[v.Key]
	if k == nil {
		k = &keyTimers{key: v.Key, group: group, at: [domains]int32{-1, -1, -1}}
		x.keys[v.Key] = k
		x.grow(k, int64(keyBytes+len(k.key)))
	}
	e := k.find(v.Family, v.Tag, v.Window)
	if e == nil {
		e = &entry{Timer: *v, domain: d, unsaved: saved}
		e.Key = k.key
		k.add(e)
		x.count[d]++
	} else {
		if e.at >= 0 && e.Fire == v.Fire && e.Hold == v.Hold && bytes.Equal(e.Pane, v.Pane) {
			return
		}
		if e.kept() {
			stale(group, e)
		}
		x.grow(k, -e.bytes())
		x.holds.remove(e.hold)
		if e.at >= 0 {
			byFire.remove(&k.queues[d], int(e.at))
		} else {
			k.out--
		}
		e.Fire, e.Hold = v.Fire, v.Hold
	}
	if !bytes.Equal(x.pane, v.Pane) {
		x.pane = v.Pane
	}
	e.Pane, e.hold = x.pane, hold
	if kept {
		x.keep(e)
	} else {
		x.lack(e)
	}
	x.grow(k, e.bytes())
	x.holds.add(hold)
	byFire.push(&k.queues[d], e)
	x.placeAll(k)
}

func (x *index) remove(k *keyTimers, e *entry) {
	k.remove(e)
	x.keep(e)
	x.count[e.domain]--
	x.grow(k, -e.bytes())
	x.holds.remove(e.hold)
	if e.at >= 0 {
		byFire.remove(&k.queues[e.domain], int(e.at))
		x.place(k, e.domain)
	} else if k.out--; k.out == 0 {
		x.placeAll(k)
	}
	if k.len() == 0 {
		x.grow(k, -int64(keyBytes+len(k.key)))
		delete(x.keys, k.key)
	}
}

// What entry.unsaved is where that is no place.
const (
	saved    = -1 // the store has its records
	unlisted = -2 // it has not, and nobody has asked yet
)

// kept tells whether the store has the records of e.
func (e *entry) kept() bool { return e.unsaved == saved }

// lack notes that the store doesn't have the records of e, which it is to have.
func (x *index) lack(e *entry) {
	switch {
	case e.unsaved >= 0:
	case x.tracks:
		e.unsaved = int32(len(x.unsaved))
		x.unsaved = append(x.unsaved, e)
	default:
		e.unsaved = unlisted
	}
}

// keep notes that the store has the records of e, or that nobody wants them any more.
func (x *index) keep(e *entry) {
	if e.unsaved >= 0 {
		last := len(x.unsaved) - 1
		moved := x.unsaved[last]
		x.unsaved[e.unsaved], moved.unsaved = moved, e.unsaved
		x.unsaved[last] = nil
		x.unsaved = x.unsaved[:last]
	}
	e.unsaved = saved
}

// track begins to keep unsaved, which jobs whose timers are never flushed do without.
func (x *index) track() {
	if x.tracks {
		return
	}
	x.tracks = true
	for _, k := range x.keys {
		k.each(func(e *entry) {
			if !e.kept() {
				x.lack(e)
			}
		})
	}
}

// nextUnsaved returns one of those whose records the store doesn't have, nil if there are none. From the end to the
// front: what is saved is replaced by the last, so that timers that are set all the time don't keep others from their turn.
func (x *index) nextUnsaved() *entry {
	if len(x.unsaved) == 0 {
		return nil
	}
	if x.flushed = min(x.flushed, len(x.unsaved)) - 1; x.flushed < 0 {
		x.flushed = len(x.unsaved) - 1
	}
	return x.unsaved[x.flushed]
}

func (x *index) grow(k *keyTimers, bytes int64) {
	x.bytes += bytes
	x.group[k.group] += bytes
}

// place puts a key where it belongs after a change of its queue.
func (x *index) place(k *keyTimers, d domain) {
	o, h := &x.order[d], &x.due[d]
	at, waits := int(k.at[d]), k.out == 0 && len(k.queues[d]) > 0
	switch {
	case at < 0 && waits:
		o.push(h, k)
	case at >= 0 && waits:
		o.fix(*h, at)
	case at >= 0:
		x.unplace(k, d)
	}
}

func (x *index) placeAll(k *keyTimers) {
	for d := range domains {
		x.place(k, d)
	}
}

// unplace takes a key out of its heap, be its queue empty.
func (x *index) unplace(k *keyTimers, d domain) {
	o, h := &x.order[d], x.due[d]
	at, last := int(k.at[d]), len(h)-1
	moved := h[last]
	h[last] = nil
	x.due[d], k.at[d] = h[:last], -1
	if at < last {
		h[at] = moved
		o.fix(h[:last], at)
	}
}

// next is when the first timer fires of a key that has none handed out.
func (x *index) next(d domain) int64 {
	if len(x.due[d]) == 0 {
		return never
	}
	return x.due[d][0].queues[d][0].Fire
}

// take hands out timers before that time, at most limit, of each key those of its first times:
// as many times as ahead says of event time, and of a clock one.
func (x *index) take(d domain, before int64, limit, ahead int) []engine.Timer {
	switch d {
	case expiry: // nothing that the end of a window does comes before another's
		ahead = math.MaxInt
	case clock:
		ahead = 1
	}
	var out []engine.Timer
	for len(out) < limit && x.next(d) < before {
		k := x.due[d][0]
		q := &k.queues[d]
		at, family, left, alike := (*q)[0].Fire, (*q)[0].Family, ahead, true
		for len(*q) > 0 && len(out) < limit {
			next := (*q)[0]
			if alike = alike && next.Family == family; !alike && left < ahead {
				break // bundles have their timers by family, and not in the order of time
			}
			if next.Fire != at {
				if left--; left == 0 || !alike || next.Fire >= before {
					break
				}
				at = next.Fire
			}
			out = append(out, byFire.remove(q, 0).Timer)
			k.out++
		}
		x.placeAll(k)
	}
	return out
}
