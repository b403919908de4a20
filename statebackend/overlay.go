package statebackend

import (
	"bytes"
	"slices"
	"sort"
	"strings"
)

// Overlay is what one bundle sees: a Reader's state and its own changes to it, which come
// back as a Batch once the bundle succeeds, or are forgotten. It belongs to one goroutine
// at a time.
//
// The reader must not change while the Overlay is used: it is a Snapshot, or a Store
// whose owner does not commit meanwhile.
type Overlay struct {
	base    Reader
	index   map[string]int32 // of entries by key
	entries []entry          // of all keys read or changed
	order   []int32          // some of the entries by key: those before sorted
	sorted  int
	deleted spans // what DeleteRange removed from base
	batch   Batch
	key     []byte // scratch: a key
	joined  []byte // scratch: base and data of a value
	chunk   []byte // for copies of small values: what is left of it
	bytes   int

	chunkBytes int // length of the newest chunk

	name, ordered, content []byte // scratch of timers: their records' keys and values
}

// entry is what the Overlay knows of a key: its value is data if replaced, else base's
// value followed by data.
type entry struct {
	key      string
	data     []byte // nil if none
	replaced bool   // base does not show through
	known    bool   // base has been read
	base     []byte // what it had, nil if absent
	whole    []byte // base and data in one piece, once that was asked for
}

// NewOverlay returns an Overlay over base without changes.
func NewOverlay(base Reader) *Overlay {
	return &Overlay{base: base, index: make(map[string]int32)}
}

// Reset forgets all changes and puts the Overlay over base.
func (o *Overlay) Reset(base Reader) {
	if len(o.entries) > keepEntries { // or each small bundle pays for a large one before it
		*o = *NewOverlay(base)
		return
	}
	clear(o.index)
	clear(o.entries)
	*o = Overlay{
		base: base, index: o.index, entries: o.entries[:0], order: o.order[:0], deleted: o.deleted[:0],
		batch: o.batch, key: o.key, joined: o.joined, name: o.name, ordered: o.ordered, content: o.content,
	}
	o.batch.Reset()
}

// keepEntries is the number of entries that Reset keeps the memory of.
const keepEntries = 4096

// Get returns the value of key as changed, nil if it is absent. It must not be changed, and
// stays as it is until Reset or until base changes, whatever is done to the key.
func (o *Overlay) Get(key []byte) ([]byte, error) {
	if i, ok := o.index[string(key)]; ok {
		return o.value(&o.entries[i])
	}
	if o.deleted.contain(string(key)) {
		return nil, nil
	}
	v, err := o.base.Get(key)
	if err != nil {
		return nil, err
	}
	e := o.add(key)
	e.known, e.base = true, v
	return v, nil
}

func (o *Overlay) value(e *entry) ([]byte, error) {
	if !e.replaced && !e.known {
		v, err := o.base.Get(o.keyOf(e))
		if err != nil {
			return nil, err
		}
		e.known, e.base = true, v
	}
	return e.value(), nil
}

// value returns the value of an entry of which enough is known.
func (e *entry) value() []byte {
	switch {
	case e.replaced || e.base == nil:
		return slices.Clip(e.data)
	case e.data == nil:
		return e.base
	case e.whole == nil:
		e.whole = append(append(make([]byte, 0, len(e.base)+2*len(e.data)), e.base...), e.data...)
	}
	return slices.Clip(e.whole)
}

// Set gives key the value. Both are copied.
func (o *Overlay) Set(key, value []byte) {
	e := o.entry(key)
	e.replaced, e.data, e.whole = true, o.copy(value), nil
}

// Append adds value at the end of what key has, without reading it. Both are copied.
func (o *Overlay) Append(key, value []byte) {
	e := o.entry(key)
	if e.data == nil {
		e.data = o.copy(value)
	} else {
		e.data = append(e.data, value...)
		o.bytes += len(value)
	}
	if e.whole != nil {
		e.whole = append(e.whole, value...)
		o.bytes += len(value)
	}
}

// Delete removes key.
func (o *Overlay) Delete(key []byte) {
	e := o.entry(key)
	e.replaced, e.data, e.whole = true, nil, nil
}

// DeleteRange removes all keys in [from, to); a nil to is no end.
func (o *Overlay) DeleteRange(from, to []byte) {
	if to != nil && bytes.Compare(from, to) >= 0 {
		return
	}
	for _, i := range o.between(from, to) {
		e := &o.entries[i]
		e.replaced, e.data, e.whole = true, nil, nil
	}
	o.deleted.add(span{from: string(from), to: string(to), endless: to == nil})
	o.bytes += len(from) + len(to)
}

// Scan visits the keys in [from, to) as changed, as Reader's does. visit must not use the
// Overlay but to Get.
func (o *Overlay) Scan(from, to []byte, visit func(key, value []byte) (more bool)) error {
	mine, more := o.between(from, to), true
	keep := func(e *entry) bool { // visits an entry that base does not have
		if !e.replaced && e.data == nil {
			return true
		}
		e.known = true
		if v := e.value(); v != nil {
			return visit(o.keyOf(e), v)
		}
		return true
	}
	if !o.deleted.cover(from, to) {
		err := o.base.Scan(from, to, func(key, value []byte) bool {
			for len(mine) > 0 && o.entries[mine[0]].key < string(key) {
				e := &o.entries[mine[0]]
				mine = mine[1:]
				if more = keep(e); !more {
					return false
				}
			}
			if len(mine) > 0 && o.entries[mine[0]].key == string(key) {
				e := &o.entries[mine[0]]
				mine = mine[1:]
				more = o.visitBoth(e, key, value, visit)
			} else if !o.deleted.contain(string(key)) {
				more = visit(key, value)
			}
			return more
		})
		if err != nil {
			return err
		}
	}
	for ; more && len(mine) > 0; mine = mine[1:] {
		more = keep(&o.entries[mine[0]])
	}
	return nil
}

// visitBoth visits the key of an entry that base has as well.
func (o *Overlay) visitBoth(e *entry, key, value []byte, visit func(key, value []byte) bool) bool {
	switch {
	case e.replaced && e.data == nil:
		return true
	case e.replaced:
		return visit(key, slices.Clip(e.data))
	case e.data == nil:
		return visit(key, value)
	case e.known:
		return visit(key, e.value())
	}
	o.joined = append(append(o.joined[:0], value...), e.data...)
	return visit(key, o.joined)
}

// Bytes returns about how many bytes of memory the Overlay takes.
func (o *Overlay) Bytes() int {
	const entryBytes = 192 // with its place in index
	return o.bytes + len(o.entries)*entryBytes
}

// Batch returns the changes, which the caller may add its own to. It belongs to the
// Overlay: it is valid until the next call of Batch or Reset, also after base is closed.
// Closing a snapshot before the batch is committed spares memstate copies.
func (o *Overlay) Batch() *Batch {
	b := &o.batch
	b.Reset()
	for _, s := range o.deleted {
		if s.endless {
			b.DeleteRange([]byte(s.from), nil)
		} else {
			b.DeleteRange([]byte(s.from), []byte(s.to))
		}
	}
	for i := range o.entries {
		e := &o.entries[i]
		key := o.keyOf(e)
		switch {
		case !e.replaced && e.data == nil: // only read
		case !e.replaced && e.known && len(e.base) <= rewriteBytes+len(e.data):
			b.Set(key, e.value())
		case !e.replaced:
			b.Append(key, e.data)
		case e.data != nil:
			b.Set(key, e.data)
		case e.known && e.base == nil || o.deleted.contain(e.key): // not there anyway
		default:
			b.Delete(key)
		}
	}
	return b
}

// rewriteBytes is the length up to which a value that is known is written whole instead of
// being appended to: it saves readers the putting together.
const rewriteBytes = 1024

func (o *Overlay) entry(key []byte) *entry {
	if i, ok := o.index[string(key)]; ok {
		return &o.entries[i]
	}
	e := o.add(key)
	e.replaced = o.deleted.contain(e.key)
	return e
}

// keyOf returns the key of e as bytes, valid until the next call.
func (o *Overlay) keyOf(e *entry) []byte {
	o.key = append(o.key[:0], e.key...)
	return o.key
}

func (o *Overlay) add(key []byte) *entry {
	k := string(key)
	o.index[k] = int32(len(o.entries))
	o.entries = append(o.entries, entry{key: k})
	o.bytes += len(k)
	return &o.entries[len(o.entries)-1]
}

// copy returns a copy of b that is never nil, from a chunk if it is small. Chunks are not
// used again: whoever sends a value may be late.
func (o *Overlay) copy(b []byte) []byte {
	const least, most = 256, 4096
	o.bytes += len(b)
	if len(b) > most/8 {
		return bytes.Clone(b)
	}
	if len(b) > len(o.chunk) || o.chunk == nil {
		o.chunkBytes = min(most, max(least, 2*o.chunkBytes, 2*len(b)))
		o.chunk = make([]byte, o.chunkBytes)
	}
	out := o.chunk[:len(b):len(b)]
	o.chunk = o.chunk[len(b):]
	copy(out, b)
	return out
}

// between returns the entries with keys in [from, to), by key.
func (o *Overlay) between(from, to []byte) []int32 {
	o.sort()
	at := func(key string) int {
		i, _ := slices.BinarySearchFunc(o.order, key, func(i int32, key string) int {
			return strings.Compare(o.entries[i].key, key)
		})
		return i
	}
	lo, hi := at(string(from)), len(o.order)
	if to != nil {
		hi = max(lo, at(string(to)))
	}
	return o.order[lo:hi]
}

// sort brings order up to date: a few new entries are put in their places, many sorted
// with the rest.
func (o *Overlay) sort() {
	compare := func(a, b int32) int { return strings.Compare(o.entries[a].key, o.entries[b].key) }
	few := len(o.entries)-o.sorted <= 16
	for ; o.sorted < len(o.entries); o.sorted++ {
		i := int32(o.sorted)
		at := len(o.order)
		if few {
			at, _ = slices.BinarySearchFunc(o.order, i, compare)
		}
		o.order = slices.Insert(o.order, at, i)
	}
	if !few {
		slices.SortFunc(o.order, compare)
	}
}

// span is a range of keys [from, to).
type span struct {
	from, to string
	endless  bool
}

// endsBefore tells whether all of the span is below key.
func (s *span) endsBefore(key string) bool { return !s.endless && s.to <= key }

// spans are ascending and apart from each other.
type spans []span

// find returns the first span that does not end before key.
func (s spans) find(key string) int {
	return sort.Search(len(s), func(i int) bool { return !s[i].endsBefore(key) })
}

func (s spans) contain(key string) bool {
	if len(s) == 0 {
		return false
	}
	i := s.find(key)
	return i < len(s) && s[i].from <= key
}

// cover tells whether all of [from, to) is in one span.
func (s spans) cover(from, to []byte) bool {
	i := s.find(string(from))
	return i < len(s) && s[i].from <= string(from) && (s[i].endless || to != nil && string(to) <= s[i].to)
}

// add adds n, joined with those it overlaps.
func (s *spans) add(n span) {
	lo := s.find(n.from)
	hi := lo
	for ; hi < len(*s) && (n.endless || (*s)[hi].from <= n.to); hi++ {
		old := (*s)[hi]
		n.from = min(n.from, old.from)
		if old.endless {
			n.to, n.endless = "", true
		} else if !n.endless {
			n.to = max(n.to, old.to)
		}
	}
	*s = slices.Replace(*s, lo, hi, n)
}
