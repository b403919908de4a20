package statebackendtest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/statebackend"
)

// model is what a store should be: a map, and no cleverness.
type model map[string]string

func (m model) clone() model { return maps.Clone(m) }

func (m model) commit(b *statebackend.Batch) {
	for c := range b.All() {
		key := string(c.Key)
		switch c.Kind {
		case statebackend.Set:
			m[key] = string(c.Value)
		case statebackend.Append:
			m[key] += string(c.Value)
		case statebackend.Delete:
			delete(m, key)
		case statebackend.DeleteRange:
			maps.DeleteFunc(m, func(k, _ string) bool { return within(k, c.Key, c.Value) })
		}
	}
}

// scan returns at most limit pairs of [from, to).
func (m model) scan(from, to []byte, limit int) []pair {
	var out []pair
	for k, v := range m {
		if within(k, from, to) {
			out = append(out, pair{k, v})
		}
	}
	slices.SortFunc(out, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return out[:min(limit, len(out))]
}

func within(key string, from, to []byte) bool {
	return key >= string(from) && (to == nil || key < string(to))
}

type pair struct{ key, value string }

const all = int(^uint(0) >> 1)

// scan reads at most limit pairs, asking for no more after them.
func scan(r statebackend.Reader, from, to []byte, limit int) ([]pair, error) {
	var out []pair
	if limit == 0 {
		return nil, nil
	}
	err := r.Scan(from, to, func(key, value []byte) bool {
		out = append(out, pair{string(key), string(value)})
		return len(out) < limit
	})
	return out, err
}

// difference describes, for a failing test, where r shows other than m in [from, to); empty
// if nowhere.
func (m model) difference(r statebackend.Reader, from, to []byte, limit int) string {
	got, err := scan(r, from, to, limit)
	if err != nil {
		return err.Error()
	}
	want := m.scan(from, to, limit)
	if !slices.Equal(got, want) {
		return "scan of [" + quote(from) + ", " + quote(to) + "): got " + show(got) + ", want " + show(want)
	}
	return ""
}

// differenceAt is difference for Get.
func (m model) differenceAt(r statebackend.Reader, key []byte) string {
	got, err := r.Get(key)
	if err != nil {
		return err.Error()
	}
	want, ok := m[string(key)]
	switch {
	case !ok && got != nil:
		return "get of " + quote(key) + ": got " + quote(got) + ", want none"
	case ok && got == nil:
		return "get of " + quote(key) + ": got none, want " + quote([]byte(want))
	case string(got) != want:
		return "get of " + quote(key) + ": got " + quote(got) + ", want " + quote([]byte(want))
	}
	return ""
}

// drawKey draws keys that often meet and that begin with one another. There are none that
// are empty: no record has such a key.
func drawKey(t *rapid.T, name string) []byte {
	if rapid.Bool().Draw(t, name+" of many") {
		n := rapid.IntRange(0, 3000).Draw(t, name)
		return []byte{'k', byte(n >> 8), byte(n)}
	}
	return rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'k', 0xfe, 0xff}), 1, 4).Draw(t, name)
}

// drawRange draws bounds, with to sometimes nil and sometimes not above from.
func drawRange(t *rapid.T, drawKey func(*rapid.T, string) []byte) (from, to []byte) {
	from = drawKey(t, "from")
	switch rapid.IntRange(0, 9).Draw(t, "bounds") {
	case 0:
		return from, nil
	case 1:
		return nil, drawKey(t, "to")
	case 2:
		return from, drawKey(t, "to")
	case 3:
		return from, from
	default:
		return from, append(bytes.Clone(from), drawKey(t, "to")...)
	}
}

func drawValue(t *rapid.T) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
}

// writer is a Batch or an Overlay.
type writer interface {
	Set(key, value []byte)
	Append(key, value []byte)
	Delete(key []byte)
	DeleteRange(from, to []byte)
}

// drawChange makes one random change to all writers.
func drawChange(t *rapid.T, drawKey func(*rapid.T, string) []byte, writers ...writer) {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	var key, value, to []byte
	switch {
	case kind == 9:
		key, to = drawRange(t, drawKey)
	case kind >= 7:
		key = drawKey(t, "key")
	default:
		key, value = drawKey(t, "key"), drawValue(t)
	}
	for _, w := range writers {
		switch {
		case kind == 9:
			w.DeleteRange(key, to)
		case kind >= 7:
			w.Delete(key)
		case kind >= 4:
			w.Set(key, value)
		default:
			w.Append(key, value)
		}
	}
}

func quote(b []byte) string {
	if b == nil {
		return "nil"
	}
	return strconv.Quote(string(b[:min(len(b), 200)]))
}

func show(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i == 20 {
			fmt.Fprintf(&b, " and %d more", len(pairs)-i)
			break
		}
		fmt.Fprintf(&b, "%.40q=%.40q ", p.key, p.value)
	}
	return "{" + strings.TrimSpace(b.String()) + "}"
}
