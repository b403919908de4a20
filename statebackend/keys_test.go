package statebackend_test

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	sb "github.com/lintelrun/lintel/statebackend"
)

// The bytes are state format: a failure here means that old checkpoints are lost.
func TestLayoutIsFixed(t *testing.T) {
	s := sb.Scope{Group: 0x0102, Transform: "T"}
	c := sb.Cell{Scope: s, Key: []byte("k\x00"), Window: nil, State: "s"}
	e := sb.Expiry{Scope: s, At: -2, Window: []byte("w"), Key: []byte("k")}
	for _, x := range []struct {
		what string
		got  []byte
		want string
	}{
		{"cell", c.AppendKey(nil), "01 0102 01 540001 6b00ff0001 0001 730001"},
		{"map key", c.AppendMapKey(nil, []byte("m\x00")), "01 0102 01 540001 6b00ff0001 0001 730001 6d00"},
		{"sort key", c.AppendSortKey(nil, 1), "01 0102 01 540001 6b00ff0001 0001 730001 8000000000000001"},
		{"expiry", e.AppendKey(nil), "01 0102 05 540001 7ffffffffffffffe 770001 6b0001"},
		{"task", sb.TaskKey("in"), "00 696e"},
	} {
		expectHex(t, x.what, x.got, x.want)
	}

	o := sb.NewOverlay(nothing{})
	for d := range sb.ProcessingTime {
		timer := sb.Timer{Key: []byte("k"), Window: []byte("w"), Family: "f", Tag: "t", Domain: d + 1, Fire: 5, Hold: -1, Pane: []byte("P")}
		o.Reset(nothing{})
		if _, _, err := sb.SetTimer(o, s, timer); err != nil {
			t.Fatal(err)
		}
		want := [][3]string{
			{"timer", "01 0102 02 540001 8000000000000005 6b0001 770001 660001 740001", "7fffffffffffffff 50"},
			{"look-up", "01 0102 04 540001 6b0001 770001 660001 740001", "01 8000000000000005 7fffffffffffffff 50"},
			{"hold", "01 0102 06 540001 7fffffffffffffff 6b0001 770001 660001 740001", ""},
		}
		if timer.Domain == sb.ProcessingTime {
			want[0][1], want[1][2] = "01 0102 03"+want[0][1][len("01 0102 02"):], "02"+want[1][2][len("02"):]
		}
		err := o.Scan(nil, nil, func(key, value []byte) bool {
			expectHex(t, want[0][0], key, want[0][1])
			expectHex(t, want[0][0]+" value", value, want[0][2])
			want = want[1:]
			return len(want) > 0
		})
		if err != nil || len(want) > 0 {
			t.Errorf("a timer lacks the records %v; %v", want, err)
		}
	}
}

func expectHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	w, err := hex.DecodeString(strings.ReplaceAll(want, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, w) {
		t.Errorf("%s: %x, want %x", what, got, w)
	}
}

var awkward = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 0xfe, 0xff}), 0, 3)

func drawText(t *rapid.T, name string) string { return string(awkward.Draw(t, name)) }

func drawScope(t *rapid.T) sb.Scope {
	return sb.Scope{Group: rapid.SampledFrom([]uint16{0, 1, 255, 256, math.MaxUint16}).Draw(t, "group"), Transform: drawText(t, "transform")}
}

func drawCell(t *rapid.T) sb.Cell {
	return sb.Cell{Scope: drawScope(t), Key: awkward.Draw(t, "key"), Window: awkward.Draw(t, "window"), State: drawText(t, "state")}
}

func compareCells(a, b sb.Cell) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Transform, b.Transform),
		bytes.Compare(a.Key, b.Key), bytes.Compare(a.Window, b.Window), cmp.Compare(a.State, b.State))
}

// Keys come back as they were, sort as what they are made of, and one is in the range of a
// cell, a window or key groups exactly if it belongs there.
func TestCells(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawCell(t), drawCell(t)
		if rapid.Bool().Draw(t, "same window") {
			b.Scope, b.Key, b.Window = a.Scope, a.Key, a.Window
		}
		subA, subB := awkward.Draw(t, "map key"), awkward.Draw(t, "map key")
		keyA, keyB := a.AppendMapKey([]byte("before"), subA)[len("before"):], b.AppendMapKey(nil, subB)

		got, sub, err := sb.DecodeCell(keyA)
		if err != nil || compareCells(got, a) != 0 || !bytes.Equal(sub, subA) {
			t.Fatalf("decoded %+v with sub-key %x and %v, want %+v with %x", got, sub, err, a, subA)
		}
		order := cmp.Or(compareCells(a, b), bytes.Compare(subA, subB))
		if bytes.Compare(keyA, keyB) != order {
			t.Fatalf("keys %x and %x compare to %d, want %d", keyA, keyB, bytes.Compare(keyA, keyB), order)
		}
		for _, r := range []struct {
			what   string
			prefix []byte
			want   bool
		}{
			{"cell", a.AppendKey(nil), compareCells(a, b) == 0},
			{"window", a.AppendWindow(nil, a.Key, a.Window), a.Scope == b.Scope && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Window, b.Window)},
			{"transform", a.AppendTransform(nil), a.Scope == b.Scope},
		} {
			if in := within(keyB, r.prefix, sb.PrefixEnd(r.prefix)); in != r.want {
				t.Fatalf("%x in range of %s %x: %v, want %v", keyB, r.what, r.prefix, in, r.want)
			}
		}
		from, to := rapid.IntRange(0, sb.MaxGroups).Draw(t, "from"), rapid.IntRange(0, sb.MaxGroups).Draw(t, "to")
		lo, hi := sb.GroupRange(from, to)
		if in, want := within(keyA, lo, hi), from <= int(a.Group) && int(a.Group) < to; in != want {
			t.Fatalf("group %d in [%d, %d): %v", a.Group, from, to, in)
		}
	})
}

func within(key, from, to []byte) bool {
	return bytes.Compare(key, from) >= 0 && (to == nil || bytes.Compare(key, to) < 0)
}

var millis = rapid.OneOf(rapid.Int64Range(-3, 3), rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64}))

func TestSortKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, a, b := drawCell(t), millis.Draw(t, "a"), millis.Draw(t, "b")
		keyA, keyB := c.AppendSortKey(nil, a), c.AppendSortKey(nil, b)
		if bytes.Compare(keyA, keyB) != cmp.Compare(a, b) {
			t.Fatalf("%d is %x, %d is %x", a, keyA, b, keyB)
		}
		_, sub, err := sb.DecodeCell(keyA)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := sb.SortKey(sub); err != nil || got != a {
			t.Fatalf("sort key %d came back as %d, %v", a, got, err)
		}
	})
}

func TestExpiries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := sb.Expiry{Scope: drawScope(t), At: millis.Draw(t, "at"), Window: awkward.Draw(t, "window"), Key: awkward.Draw(t, "key")}
		key := e.AppendKey(nil)
		if got, err := sb.DecodeExpiry(key); err != nil || !gocmp.Equal(got, e) {
			t.Fatalf("decoded %+v, %v, want %+v", got, err, e)
		}
		s, from, before := e.Scope, millis.Draw(t, "from"), millis.Draw(t, "before")
		if rapid.Bool().Draw(t, "other scope") {
			s = drawScope(t)
		}
		lo, hi := s.ExpiryRange(from, before)
		if in, want := within(key, lo, hi), s == e.Scope && from <= e.At && e.At < before; in != want {
			t.Fatalf("expiry %+v due in %+v from %d before %d: %v, want %v", e, s, from, before, in, want)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for _, c := range []struct{ prefix, end []byte }{
		{[]byte("a"), []byte("b")},
		{[]byte("a\xff\xff"), []byte("b")},
		{[]byte("\xff"), nil},
		{nil, nil},
	} {
		if got := sb.PrefixEnd(c.prefix); !slices.Equal(got, c.end) || (got == nil) != (c.end == nil) {
			t.Errorf("PrefixEnd(%q) = %q, want %q", c.prefix, got, c.end)
		}
	}
}

// Whatever bytes are found, decoders return an error of class corruption or what encodes to
// the same bytes.
func FuzzDecode(f *testing.F) {
	s := sb.Scope{Group: 7, Transform: "T\x00"}
	c := sb.Cell{Scope: s, Key: []byte("k\x00\x00"), Window: []byte("w"), State: "s"}
	f.Add(c.AppendMapKey(nil, []byte("m")), []byte{})
	f.Add(c.AppendSortKey(nil, 42), []byte{})
	f.Add((&sb.Expiry{Scope: s, At: 1, Window: []byte("w"), Key: []byte("k")}).AppendKey(nil), []byte{})
	o := sb.NewOverlay(nothing{})
	for _, d := range []sb.Domain{sb.EventTime, sb.ProcessingTime} {
		if _, _, err := sb.SetTimer(o, s, sb.Timer{Key: []byte("k\x00"), Family: "f", Tag: "t", Domain: d, Fire: 5, Hold: 4, Pane: []byte{1}}); err != nil {
			f.Fatal(err)
		}
	}
	for c := range o.Batch().All() {
		f.Add(c.Key, c.Value)
	}
	f.Add([]byte{1, 0, 0, 1, 0}, []byte(nil))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		check := func(what string, err error, again []byte) {
			t.Helper()
			if err != nil && fault.ClassOf(err) != fault.Corruption {
				t.Errorf("%s: %v is not of class corruption", what, err)
			}
			if err == nil && !bytes.Equal(again, key) {
				t.Errorf("%s: %x decodes to what encodes to %x", what, key, again)
			}
		}
		c, sub, err := sb.DecodeCell(key)
		check("cell", err, c.AppendMapKey(nil, sub))
		if err == nil {
			v, err := sb.SortKey(sub)
			check("sort key", err, c.AppendSortKey(nil, v))
		}
		e, err := sb.DecodeExpiry(key)
		check("expiry", err, e.AppendKey(nil))
		s, timer, err := sb.DecodeTimer(key, value)
		if err != nil {
			check("timer", err, nil)
			return
		}
		o := sb.NewOverlay(nothing{})
		if _, _, err := sb.SetTimer(o, s, timer); err != nil {
			t.Fatal(err)
		}
		if got, err := o.Get(key); err != nil || !bytes.Equal(got, value) {
			t.Errorf("timer %+v from %x, %x has value %x there when it is set again (%v)", timer, key, value, got, err)
		}
	})
}

// nothing is a Reader of nothing.
type nothing struct{}

func (nothing) Get([]byte) ([]byte, error)                             { return nil, nil }
func (nothing) Scan(_, _ []byte, _ func(key, value []byte) bool) error { return nil }
