package statebackend

import (
	"bytes"
	"encoding/binary"

	"github.com/lintelrun/lintel/internal/fault"
)

// This file is state format: docs/format/state-keys.md. Never change what a layout byte
// or a kind means; add another.

// MaxGroups is the highest number of key groups that keys can address.
const MaxGroups = 1 << 16

// The first byte of every key: whose it is and in which layout.
const (
	layoutTask  = 0x00 // records of the task itself, of no key group
	layoutKeyed = 0x01 // records of key groups, first layout
)

// The kinds of keyed records, after the key group.
const (
	kindCell        = 0x01
	kindEventTimer  = 0x02
	kindClockTimer  = 0x03
	kindTimerLookup = 0x04
	kindExpiry      = 0x05
	kindHold        = 0x06
)

// Scope is one transform in one key group: what state, timers and expiries are kept
// under. Transform is the transform's unique name in the pipeline, never a number of ours.
type Scope struct {
	Group     uint16
	Transform string
}

// Cell addresses one state of one key and window. Key and Window are as the SDK encoded
// them (nested); State is the state's id in the transform's ParDoPayload, or a name of a
// runner stage's own.
type Cell struct {
	Scope
	Key, Window []byte
	State       string
}

// AppendKey appends the cell's key: the address of a bag, which value, combining, set
// and read-modify-write states are as well, and the prefix of the sub-keys of others.
func (c *Cell) AppendKey(dst []byte) []byte {
	return appendString(c.AppendWindow(dst, c.Key, c.Window), c.State)
}

// AppendMapKey appends the key of the values of mapKey in a multimap state: Append adds a
// value, keys scan in the order of their bytes.
func (c *Cell) AppendMapKey(dst, mapKey []byte) []byte {
	return append(c.AppendKey(dst), mapKey...)
}

// AppendSortKey appends the key of the entries of sortKey in an ordered-list state. Entries
// of one sort key are appended to one value; they delimit themselves.
func (c *Cell) AppendSortKey(dst []byte, sortKey int64) []byte {
	return appendInt64(c.AppendKey(dst), sortKey)
}

// AppendWindow appends the prefix of all cells of a key and window.
func (s *Scope) AppendWindow(dst, key, window []byte) []byte {
	return appendPart(appendPart(s.appendPrefix(dst, kindCell), key), window)
}

// WindowRange returns the range of all cells of a key and window.
func (s *Scope) WindowRange(key, window []byte) (from, to []byte) {
	from = s.AppendWindow(nil, key, window)
	return from, PrefixEnd(from)
}

// AppendTransform appends the prefix of all cells of the transform in the key group.
func (s *Scope) AppendTransform(dst []byte) []byte { return s.appendPrefix(dst, kindCell) }

func (s *Scope) appendPrefix(dst []byte, kind byte) []byte {
	dst = append(dst, layoutKeyed, byte(s.Group>>8), byte(s.Group), kind)
	return appendString(dst, s.Transform)
}

// DecodeCell takes the key of a cell apart; sub is what follows the cell: a map key, a sort
// key (see SortKey) or nothing. The results may share memory with key. It returns a
// fault.Corruption if key is not one that AppendKey, AppendMapKey or AppendSortKey made.
func DecodeCell(key []byte) (c Cell, sub []byte, err error) {
	d := decoder{rest: key}
	c.Scope = d.scope(kindCell)
	c.Key, c.Window, c.State = d.part(), d.part(), string(d.part())
	if d.bad {
		return Cell{}, nil, corruptKey("state", key)
	}
	return c, d.rest, nil
}

// SortKey returns the sort key that sub, from DecodeCell, holds.
func SortKey(sub []byte) (int64, error) {
	d := decoder{rest: sub}
	v := d.int64()
	if d.bad || len(d.rest) > 0 {
		return 0, fault.New(fault.Corruption, "statebackend: %d bytes where an ordered list has a sort key of 8", len(sub))
	}
	return v, nil
}

// Expiry says when a window of a key ends for good: its cells and timers can be removed
// once the watermark has passed At. Set its key, with an empty value, whenever a bundle
// writes state or timers of the window; as At depends on the window alone, doing so again
// changes nothing.
type Expiry struct {
	Scope
	At          int64 // ms
	Window, Key []byte
}

// AppendKey appends the expiry's key. Expiries are ordered by transform, then time, then
// window and key.
func (e *Expiry) AppendKey(dst []byte) []byte {
	return appendPart(appendPart(appendInt64(e.appendPrefix(dst, kindExpiry), e.At), e.Window), e.Key)
}

// ExpiryRange returns the range of the expiries of s with from <= At < before.
func (s *Scope) ExpiryRange(from, before int64) (lo, hi []byte) {
	lo = s.appendPrefix(nil, kindExpiry)
	hi = appendInt64(bytes.Clone(lo), before)
	return appendInt64(lo, from), hi
}

// DecodeExpiry takes the key of an expiry apart. The results may share memory with key. It
// returns a fault.Corruption if key is not one of AppendKey.
func DecodeExpiry(key []byte) (Expiry, error) {
	d := decoder{rest: key}
	e := Expiry{Scope: d.scope(kindExpiry), At: d.int64(), Window: d.part(), Key: d.part()}
	if d.bad || len(d.rest) > 0 {
		return Expiry{}, corruptKey("expiry", key)
	}
	return e, nil
}

// TaskKey returns the key of a record of the task itself, which does not move with key
// groups: positions in its input, numbers of its output.
func TaskKey(name string) []byte { return append([]byte{layoutTask}, name...) }

// GroupRange returns the range of all that belongs to key groups [from, to), of MaxGroups
// at most: what moves when a job is rescaled.
func GroupRange(from, to int) (lo, hi []byte) { return groupBound(from), groupBound(to) }

func groupBound(group int) []byte {
	if group >= MaxGroups {
		return []byte{layoutKeyed + 1}
	}
	return []byte{layoutKeyed, byte(group >> 8), byte(group)}
}

// PrefixEnd returns the least key above all keys that begin with prefix: [prefix,
// PrefixEnd(prefix)) is their range. It is nil, no end, if there is no such key.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// A part of variable length is escaped so that it ends by itself and sorts as its bytes
// do: 0x00 becomes 0x00 0xff, and 0x00 0x01 follows the last byte.
const (
	escape     = 0x00
	escapeEnd  = 0x01
	escapeZero = 0xff
)

func appendPart(dst, part []byte) []byte {
	for {
		i := bytes.IndexByte(part, escape)
		if i < 0 {
			return append(append(dst, part...), escape, escapeEnd)
		}
		dst = append(append(dst, part[:i]...), escape, escapeZero)
		part = part[i+1:]
	}
}

func appendString(dst []byte, part string) []byte {
	for i := range len(part) {
		if dst = append(dst, part[i]); part[i] == escape {
			dst = append(dst, escapeZero)
		}
	}
	return append(dst, escape, escapeEnd)
}

// appendInt64 appends v so that bytes sort as numbers do.
func appendInt64(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v)^1<<63)
}

// decoder takes keys apart. Once bad, it returns zero values.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || len(d.rest) < n {
		d.bad, d.rest = true, nil
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) int64() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b) ^ 1<<63)
	}
	return 0
}

func (d *decoder) scope(kind byte) Scope {
	head := d.take(4)
	if head == nil || head[0] != layoutKeyed || head[3] != kind {
		d.bad = true
		return Scope{}
	}
	return Scope{Group: binary.BigEndian.Uint16(head[1:]), Transform: string(d.part())}
}

// part returns the next part, without a copy where nothing in it was escaped.
func (d *decoder) part() []byte {
	var out []byte
	for !d.bad {
		i := bytes.IndexByte(d.rest, escape)
		if i < 0 {
			break
		}
		run := d.take(i)
		d.take(1)
		switch d.byte() {
		case escapeEnd:
			if out == nil {
				return run
			}
			return append(out, run...)
		case escapeZero:
			out = append(append(out, run...), 0)
		default:
			d.bad = true
		}
	}
	d.bad = true
	return nil
}

func corruptKey(what string, key []byte) error {
	return fault.New(fault.Corruption, "statebackend: not the key of a %s: %x", what, key[:min(len(key), 64)])
}
