package sideinput

import (
	"encoding/binary"
	"slices"
	"sort"

	"github.com/lintelrun/lintel/internal/fault"
)

// markEvery is how many bytes lie between places at which a page may end.
const markEvery = 4 << 10

// View is a materialised side input. It is immutable and safe for concurrent use, and
// the bytes it returns must not be changed.
//
// Look-ups answer in pages of about maxBytes, which end between elements: up to 4 KiB
// or one element more. They begin with an empty token; each page comes with the
// token of the next, empty after the last. A token that this view did not return for the same
// look-up is a fault.Invalid. A window or key without elements has one empty page. An unknown
// one is no error, as nothing is what it holds. Windows and keys are in nested encoding.
type View struct {
	multimap bool
	data     *store
	marks    []int64
	index    *index
}

// Stats tells what a View holds.
type Stats struct {
	Windows int
	Keys    int   // in all windows together; of an iterable the number of windows
	Bytes   int64 // of values, or of whole elements of an iterable
	OnDisk  bool
}

// Stats returns what the view holds.
func (v *View) Stats() Stats {
	return Stats{Windows: len(v.index.windows), Keys: len(v.index.entries) - 1, Bytes: v.data.size, OnDisk: v.data.file != nil}
}

// Iterable returns the elements of a window, concatenated, in nested encoding.
func (v *View) Iterable(window, token []byte, maxBytes int) (data, next []byte, err error) {
	if err := v.check(false); err != nil {
		return nil, nil, err
	}
	return v.values(window, nil, token, maxBytes)
}

// Values returns the values of a key in a window, concatenated, in nested encoding.
func (v *View) Values(window, key, token []byte, maxBytes int) (data, next []byte, err error) {
	if err := v.check(true); err != nil {
		return nil, nil, err
	}
	return v.values(window, key, token, maxBytes)
}

func (v *View) values(window, key, token []byte, maxBytes int) (data, next []byte, err error) {
	i := v.index.find(window, key)
	if i < 0 {
		if len(token) > 0 {
			return nil, nil, badToken(token)
		}
		return nil, nil, nil
	}
	e := &v.index.entries[i]
	start, end := e.off, e.off+e.size
	if len(token) > 0 {
		rel, ok := parseToken(token, e.size)
		if start += rel; !ok || !v.marked(start) {
			return nil, nil, badToken(token)
		}
	}
	if int64(maxBytes) < end-start {
		if cut := v.cut(start, end, maxBytes); cut < end {
			next, end = appendToken(cut-e.off), cut
		}
	}
	data, err = v.data.read(start, end-start)
	return data, next, err
}

// cut returns where a page of [start, end) ends: at the last mark within maxBytes, else
// at the first one.
func (v *View) cut(start, end int64, maxBytes int) int64 {
	limit := start + int64(max(maxBytes, 0))
	i := sort.Search(len(v.marks), func(i int) bool { return v.marks[i] > limit })
	if i > 0 && v.marks[i-1] > start {
		return v.marks[i-1]
	}
	for ; i < len(v.marks) && v.marks[i] <= start; i++ {
	}
	if i < len(v.marks) {
		return min(end, v.marks[i])
	}
	return end
}

func (v *View) marked(off int64) bool {
	_, ok := slices.BinarySearch(v.marks, off)
	return ok
}

// Keys returns the distinct keys of a window, concatenated.
func (v *View) Keys(window, token []byte, maxBytes int) (data, next []byte, err error) {
	w, from, err := v.entriesFrom(window, token)
	if err != nil || from == w.to {
		return nil, nil, err
	}
	entries := v.index.entries
	limit := entries[from].keyOff + int64(max(maxBytes, 0))
	// The keys that begin after the limit, and the first of those that cross it, are left.
	n := sort.Search(w.to-from, func(i int) bool { return entries[from+i+1].keyOff > limit })
	to := from + max(n, 1)
	if to < w.to {
		next = appendToken(int64(to - w.from))
	}
	return v.index.keys[entries[from].keyOff:entries[to].keyOff:entries[to].keyOff], next, nil
}

// KeysValues returns the KV<K, iterable<V>> of a window, concatenated. A key and its values
// are never divided, so a page may be as long as they are.
func (v *View) KeysValues(window, token []byte, maxBytes int) (data, next []byte, err error) {
	w, from, err := v.entriesFrom(window, token)
	if err != nil {
		return nil, nil, err
	}
	for i := from; i < w.to; i++ {
		e, key := &v.index.entries[i], v.index.key(i)
		if size := int64(len(data)+len(key)+4) + e.size; i > from && size > int64(maxBytes) {
			return data, appendToken(int64(i - w.from)), nil
		}
		data = append(data, key...)
		data = binary.BigEndian.AppendUint32(data, e.count)
		if data, err = v.data.appendTo(data, e.off, e.size); err != nil {
			return nil, nil, err
		}
	}
	return data, nil, nil
}

// entriesFrom returns a window's entries and the number of the first to return.
func (v *View) entriesFrom(window, token []byte) (w windowEntries, from int, err error) {
	if err := v.check(true); err != nil {
		return w, 0, err
	}
	w = v.index.windows[string(window)]
	if len(token) > 0 {
		rel, ok := parseToken(token, int64(w.to-w.from))
		if !ok {
			return w, 0, badToken(token)
		}
		return w, w.from + int(rel), nil
	}
	return w, w.from, nil
}

// Close frees memory and file. No look-up may be under way or follow. It may be called again.
func (v *View) Close() error { return v.data.close() }

func (v *View) check(multimap bool) error {
	if v.multimap == multimap {
		return nil
	}
	if multimap {
		return fault.New(fault.Invalid, "side input: a look-up by key of a side input that is an iterable")
	}
	return fault.New(fault.Invalid, "side input: a look-up of all elements of a side input that is a multimap")
}

// A token is a position in what is looked up, more than zero, as a uvarint.
func appendToken(position int64) []byte { return binary.AppendUvarint(nil, uint64(position)) }

// parseToken returns the token's position, which is less than limit.
func parseToken(token []byte, limit int64) (int64, bool) {
	position, n := binary.Uvarint(token)
	return int64(position), n == len(token) && position > 0 && position < uint64(limit)
}

func badToken(token []byte) error {
	return fault.New(fault.Invalid, "side input: continuation token %.32x is not one of this look-up", token)
}
