package worker

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/statebackend"
)

// State that is longer than a page is read in several requests. What they see is
// the state at the time of the first, whatever the bundle has changed meanwhile;
// tokens may be used again until the bundle ends.

// reading is a read of state in several pages.
type reading struct {
	kind  stateKind
	cell  int           // bytes of the cell's key in from
	value *coders.Coder // of a bag's elements or a multimap's values; nil if unknown
	// from and to bound the records' keys in the overlay; to is nil for one record.
	from, to []byte
	// kept are the records as they were before the first change of the cell, if there was one.
	kept    []record
	changed bool
}

type record struct{ key, value []byte }

// place is where a page begins: within the value of a record, or at it.
type place struct {
	key    []byte
	offset int
}

// read answers the first request.
func (a *keyedAttempt) read(s *stateAddress, c *statebackend.Cell) (data, next []byte, err error) {
	cell := c.AppendKey(nil)
	r := &reading{kind: s.kind, cell: len(cell), value: a.keyed.spec.States[s.state].Value, from: cell}
	switch s.kind {
	case bagOf, mapValues:
		r.from = append(cell, s.mapKey...)
	case listEntries:
		r.from, r.to = c.AppendSortKey(nil, s.from), c.AppendSortKey(nil, s.to)
		if s.from >= s.to {
			return nil, nil, nil
		}
	default:
		r.to = statebackend.PrefixEnd(cell)
	}
	data, rest, err := a.page(r, place{key: r.from})
	if err != nil || rest.key == nil {
		return data, nil, err
	}
	a.readings = append(a.readings, r)
	return data, token(len(a.readings)-1, rest), nil
}

// continued answers a request with a token.
func (a *keyedAttempt) continued(t []byte) (data, next []byte, err error) {
	i, at, ok := parseToken(t)
	if !ok || i >= uint64(len(a.readings)) {
		return nil, nil, fault.New(fault.Invalid, "a continuation token that this bundle was not given")
	}
	data, rest, err := a.page(a.readings[i], at)
	if err != nil || rest.key == nil {
		return data, nil, err
	}
	return data, token(int(i), rest), nil
}

func token(reading int, at place) []byte {
	t := binary.AppendUvarint(nil, uint64(reading))
	t = binary.AppendUvarint(t, uint64(at.offset))
	return append(t, at.key...)
}

func parseToken(t []byte) (reading uint64, at place, ok bool) {
	reading, n := binary.Uvarint(t)
	if n <= 0 {
		return 0, at, false
	}
	offset, k := binary.Uvarint(t[n:])
	if k <= 0 || offset > 1<<40 {
		return 0, at, false
	}
	return reading, place{t[n+k:], int(offset)}, true
}

// page returns a page that begins at a place, and where the next one begins: a place without
// a key if there is none. Elements are not cut, as SDKs decode each page by itself.
func (a *keyedAttempt) page(r *reading, at place) (data []byte, next place, err error) {
	var failed error
	err = a.records(r, at.key, func(key, value []byte) bool {
		if len(data) >= pageBytes {
			next = place{key: bytes.Clone(key)}
			return false
		}
		switch r.kind {
		case mapKeys:
			data = append(data, key[r.cell:]...)
		case mapEntries:
			data = append(data, key[r.cell:]...)
			data, failed = r.appendValues(data, value)
		default:
			begin := 0
			if bytes.Equal(key, at.key) {
				begin = min(at.offset, len(value))
			}
			end := r.cut(value, begin, pageBytes-len(data))
			if data = append(data, value[begin:end]...); end < len(value) {
				next = place{bytes.Clone(key), end}
				return false
			}
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	return data, next, err
}

// records visits the records of a reading, from a key on.
func (a *keyedAttempt) records(r *reading, from []byte, visit func(key, value []byte) bool) error {
	switch {
	case r.changed:
		i, _ := slices.BinarySearchFunc(r.kept, from, func(v record, key []byte) int { return bytes.Compare(v.key, key) })
		for ; i < len(r.kept) && visit(r.kept[i].key, r.kept[i].value); i++ {
		}
		return nil
	case r.to == nil:
		v, err := a.overlay.Get(r.from)
		if err == nil && v != nil {
			visit(r.from, v)
		}
		return err
	}
	return a.overlay.Scan(from, r.to, visit)
}

// keepReadings makes readings of a cell, which is about to be changed, keep what they have
// yet to return.
func (a *keyedAttempt) keepReadings(cell []byte) error {
	for _, r := range a.readings {
		if r.changed || !bytes.Equal(r.from[:r.cell], cell) {
			continue
		}
		var kept []record
		err := a.records(r, r.from, func(key, value []byte) bool {
			if r.to != nil { // else it stays as it is
				key, value = bytes.Clone(key), bytes.Clone(value)
			}
			kept = append(kept, record{key, value})
			return true
		})
		if err != nil {
			return err
		}
		r.kept, r.changed = kept, true
	}
	return nil
}

// cut returns where a page of about room bytes ends that begins at an element of value.
func (r *reading) cut(value []byte, begin, room int) int {
	if len(value)-begin <= room {
		return len(value)
	}
	end := begin
	for end < len(value) && end-begin < room {
		n := 0
		if r.kind == listEntries {
			_, n, _ = listEntry(value[end:])
		} else if r.value != nil {
			n, _ = r.value.Skip(value[end:])
		}
		if n == 0 {
			return len(value) // of a layout unknown here
		}
		end += n
	}
	return end
}

// appendValues appends the values of a map key as an iterable.
func (r *reading) appendValues(dst, values []byte) ([]byte, error) {
	n := uint32(0)
	for off := 0; off < len(values); n++ {
		size := 0
		if r.value != nil {
			size, _ = r.value.Skip(values[off:])
		}
		if size == 0 {
			return nil, fault.New(fault.Unsupported, "the entries of a multimap whose values are of a coder that is not the model's: "+
				"where one ends is not known here; ask for its keys, then for the values of each")
		}
		off += size
	}
	return append(binary.BigEndian.AppendUint32(dst, n), values...), nil
}
