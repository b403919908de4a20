package sideinput

import (
	"bytes"

	"github.com/lintelrun/lintel/runner/grouping/spillmap"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// entry is one key of one window; the values of an iterable have the empty key.
type entry struct {
	hash      uint64
	off, size int64 // of the values, in the view's data
	keyOff    int64 // in the index's keys, ends where the next entry's begins
	window    uint32
	count     uint32 // of values; not kept for iterables
}

// index finds entries. It is immutable.
type index struct {
	windows map[string]windowEntries
	// entries are ordered by window, and keys as the entries; the last entry is a sentinel.
	entries []entry
	keys    []byte
	slots   []uint32 // entry+1 or 0, by open addressing
}

// windowEntries are the entries [from, to) of a window.
type windowEntries struct {
	id       uint32
	from, to int
}

const windowStride = 0x9e3779b1

func (x *index) slot(hash uint64, window uint32) uint32 {
	return (uint32(hash) + window*windowStride) & uint32(len(x.slots)-1)
}

func (x *index) key(i int) []byte { return x.keys[x.entries[i].keyOff:x.entries[i+1].keyOff] }

// find returns the number of a key's entry in a window, -1 if there is none.
func (x *index) find(window, key []byte) int {
	w, ok := x.windows[string(window)]
	if !ok {
		return -1
	}
	hash := keygroup.Hash(key)
	for s := x.slot(hash, w.id); x.slots[s] != 0; s = (s + 1) & uint32(len(x.slots)-1) {
		i := int(x.slots[s] - 1)
		if e := &x.entries[i]; e.hash == hash && e.window == w.id && bytes.Equal(x.key(i), key) {
			return i
		}
	}
	return -1
}

// indexBuilder collects entries in any order.
type indexBuilder struct {
	entries []entry
	keys    []byte // in the order of entries
	windows map[string]uint32
	counts  []int // entries per window
}

func (b *indexBuilder) add(group *spillmap.Group, off, size int64) {
	id, ok := b.windows[string(group.Window)]
	if !ok {
		if b.windows == nil {
			b.windows = map[string]uint32{}
		}
		id = uint32(len(b.counts))
		b.windows[string(group.Window)] = id
		b.counts = append(b.counts, 0)
	}
	b.counts[id]++
	b.entries = append(b.entries, entry{
		hash: keygroup.Hash(group.Key), off: off, size: size, keyOff: int64(len(b.keys)), window: id, count: uint32(group.Count),
	})
	b.keys = append(b.keys, group.Key...)
}

// build orders the entries by window and makes the index of them.
func (b *indexBuilder) build() *index {
	x := &index{windows: make(map[string]windowEntries, len(b.windows))}
	next := make([]int, len(b.counts)) // position of each window's next entry
	for id, at := 1, 0; id < len(next); id++ {
		at += b.counts[id-1]
		next[id] = at
	}
	for window, id := range b.windows {
		x.windows[window] = windowEntries{id, next[id], next[id] + b.counts[id]}
	}
	order := make([]int, len(b.entries))
	for i, e := range b.entries {
		order[next[e.window]] = i
		next[e.window]++
	}
	slots := 2
	for slots < 2*len(order) {
		slots *= 2
	}
	x.slots = make([]uint32, slots)
	x.entries = make([]entry, 0, len(order)+1)
	x.keys = make([]byte, 0, len(b.keys))
	b.entries = append(b.entries, entry{keyOff: int64(len(b.keys))})
	for i, old := range order {
		e := b.entries[old]
		key := b.keys[e.keyOff:b.entries[old+1].keyOff]
		e.keyOff = int64(len(x.keys))
		x.keys = append(x.keys, key...)
		x.entries = append(x.entries, e)
		s := x.slot(e.hash, e.window)
		for x.slots[s] != 0 {
			s = (s + 1) & uint32(slots-1)
		}
		x.slots[s] = uint32(i + 1)
	}
	x.entries = append(x.entries, entry{keyOff: int64(len(x.keys))})
	return x
}
