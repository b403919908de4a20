package windowing

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

func TestIntervalsAreReadAsWritten(t *testing.T) {
	bound := rapid.OneOf(rapid.Int64Range(coders.MinTimestamp, coders.MaxTimestamp), rapid.Int64Range(-3, 3))
	rapid.Check(t, func(t *rapid.T) {
		a, b := bound.Draw(t, "a"), bound.Draw(t, "b")
		want := Interval{min(a, b), max(a, b)}
		encoded := want.Append([]byte{7})[1:]
		got, n, err := DecodeInterval(append(encoded, 0xFF))
		if got != want || n != len(encoded) || err != nil {
			t.Fatalf("%v as %x is read as %v of %d bytes, %v", want, encoded, got, n, err)
		}
		for cut := range encoded {
			if _, _, err := DecodeInterval(encoded[:cut]); !errors.Is(err, coders.ErrShort) {
				t.Fatalf("%x cut to %d bytes: %v", encoded, cut, err)
			}
		}
	})
}

func TestDecodeIntervalRefusesImpossibleBounds(t *testing.T) {
	for name, b := range map[string][]byte{
		"negative span":        coders.AppendVarint(coders.AppendTimestamp(nil, 5), -1),
		"start out of range":   coders.AppendVarint(coders.AppendTimestamp(nil, math.MinInt64+5), 6),
		"no maximum timestamp": coders.AppendVarint(coders.AppendTimestamp(nil, math.MinInt64), 0),
		"long varint":          append(coders.AppendTimestamp(nil, 5), 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0),
	} {
		if w, _, err := DecodeInterval(b); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
}

func FuzzDecodeInterval(f *testing.F) {
	f.Add(Interval{0, 60000}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, n, err := DecodeInterval(b)
		if err != nil {
			if !errors.Is(err, coders.ErrShort) && fault.ClassOf(err) != fault.Corruption {
				t.Fatal(err)
			}
			return
		}
		if max := w.MaxTimestamp(); n > len(b) || w.Start > w.End || max < coders.MinTimestamp || max > coders.MaxTimestamp {
			t.Fatalf("%v of %d bytes", w, n)
		}
		if again, _, err := DecodeInterval(w.Append(nil)); again != w || err != nil {
			t.Fatalf("%v is written and read as %v, %v", w, again, err)
		}
	})
}

// mergeSlowly merges any two windows that overlap until none do.
func mergeSlowly(windows []Interval) []Interval {
	windows = slices.Clone(windows)
	for i := 0; i < len(windows); i++ {
		for j := i + 1; j < len(windows); j++ {
			a, b := windows[i], windows[j]
			if a.Start < b.End && b.Start < a.End {
				windows[i] = Interval{min(a.Start, b.Start), max(a.End, b.End)}
				windows = slices.Delete(windows, j, j+1)
				i, j = 0, 0 // the merged window may overlap with earlier ones
			}
		}
	}
	slices.SortFunc(windows, func(a, b Interval) int { return int(a.Start - b.Start) })
	return windows
}

func TestMergeSessionsIsAsMergingPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.Custom(func(t *rapid.T) Interval {
			start := rapid.Int64Range(0, 60).Draw(t, "start")
			return Interval{start, start + rapid.Int64Range(1, 12).Draw(t, "span")}
		})
		sorted := rapid.SliceOfN(window, 0, 12).Draw(t, "windows")
		slices.SortFunc(sorted, func(a, b Interval) int { return int(a.Start - b.Start) })
		var got []Interval
		next := 0
		MergeSessions(sorted, func(merged Interval, from, to int) {
			if from != next || to <= from {
				t.Fatalf("consumed [%d, %d) after %d", from, to, next)
			}
			next = to
			end := merged.Start
			for _, w := range sorted[from:to] {
				end = max(end, w.End)
			}
			if merged != (Interval{sorted[from].Start, end}) {
				t.Fatalf("%v was made of %v", merged, sorted[from:to])
			}
			got = append(got, merged)
		})
		if next != len(sorted) {
			t.Fatalf("consumed %d of %d", next, len(sorted))
		}
		if want := mergeSlowly(sorted); !slices.Equal(got, want) {
			t.Fatalf("%v, not %v, of %v", got, want, sorted)
		}
	})
}

// Windows may go on beyond the ends of event time, but what happens in them does not.
func TestMaxTimestampIsWithinTime(t *testing.T) {
	for want, w := range map[int64]Interval{
		coders.MaxTimestamp:     {coders.MaxTimestamp, coders.MaxTimestamp + 1},
		coders.MaxTimestamp - 1: {coders.MaxTimestamp - 1, coders.MaxTimestamp},
		coders.MinTimestamp:     {coders.MinTimestamp - 10, coders.MinTimestamp},
		coders.MinTimestamp + 4: {coders.MinTimestamp - 5, coders.MinTimestamp + 5},
	} {
		if got := w.MaxTimestamp(); got != want {
			t.Errorf("%v ends at %d, want %d", w, got, want)
		}
	}
	beyond := Interval{coders.MaxTimestamp - 5, coders.MaxTimestamp + 5}
	if got := beyond.MaxTimestamp(); got != coders.MaxTimestamp {
		t.Errorf("%v ends at %d", beyond, got)
	}
	coder, err := coders.Compile("custom", components)
	if err != nil {
		t.Fatal(err)
	}
	window := append(coders.AppendTimestamp(nil, coders.MaxTimestamp+100), 0)
	if got, err := (&Strategy{Kind: Custom, WindowCoder: coder}).MaxTimestamp(window); got != coders.MaxTimestamp || err != nil {
		t.Errorf("a custom window ends at %d, %v", got, err)
	}
}

func TestMergeSessionsKeepsTouchingWindowsApart(t *testing.T) {
	var got []Interval
	MergeSessions([]Interval{{0, 10}, {10, 20}, {19, 30}}, func(w Interval, _, _ int) { got = append(got, w) })
	if want := []Interval{{0, 10}, {10, 30}}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}
