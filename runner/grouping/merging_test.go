package grouping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/windowing"
)

// mergeIntersecting is a custom window function: it merges windows that intersect.
func mergeIntersecting(keys [][][]byte) ([][]windowing.Merged, error) {
	merged := make([][]windowing.Merged, len(keys))
	for i, windows := range keys {
		if !slices.IsSortedFunc(windows, bytes.Compare) || len(slices.CompactFunc(slices.Clone(windows), bytes.Equal)) != len(windows) {
			return nil, fmt.Errorf("windows %x are not different, or not in order", windows)
		}
		decoded := map[windowing.Interval][]byte{}
		var sorted []windowing.Interval
		for _, w := range windows {
			d, _, err := windowing.DecodeInterval(w)
			if err != nil {
				return nil, err
			}
			decoded[d] = bytes.Clone(w)
			sorted = append(sorted, d)
		}
		slices.SortFunc(sorted, func(a, b windowing.Interval) int { return int(a.Start - b.Start) })
		windowing.MergeSessions(sorted, func(to windowing.Interval, first, end int) {
			if end-first == 1 {
				return
			}
			m := windowing.Merged{Window: to.Append(nil)}
			for _, from := range sorted[first:end] {
				m.From = append(m.From, decoded[from])
			}
			merged[i] = append(merged[i], m)
		})
	}
	return merged, nil
}

// Windows of many keys are merged at once, and a key's values may exceed memory by far.
func TestCustomMergesAreFewAndBounded(t *testing.T) {
	const keys, size = 1000, 4 << 20
	calls := 0
	cfg := Config{
		Input:       layout(t, true),
		Windowing:   strategies(t)["custom, merging"],
		MemoryBytes: 1 << 20,
		Dir:         t.TempDir(),
		StateBacked: true,
		Merge: func(k [][][]byte) ([][]windowing.Merged, error) {
			calls++
			return mergeIntersecting(k)
		},
	}
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	defer table.Values().Close()
	add := func(key, at int64, value string) {
		e := input{timestamp: at, windows: []interval{{at, at + 10}}, key: key, value: value}
		if err := table.Add(e.append(nil, false)); err != nil {
			t.Fatal(err)
		}
	}
	value := string(make([]byte, 1000))
	for i := range int64(keys) {
		add(i, 0, "a")
		add(i, 5, "b")
		add(i, 50, "c")
	}
	for i := range int64(size) / 1000 {
		add(keys, i%20, value)
	}
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var remote int64
	for {
		f, err := groups.Next(64 << 10)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += f.Elements
		remote += f.Remote
		if held := cap(groups.merging.values); held > 1<<18 {
			t.Fatalf("%d bytes of values are held in memory", held)
		}
	}
	if n != 2*keys+1 || remote < size {
		t.Errorf("%d groups with %d bytes left behind, want %d and about %d", n, remote, 2*keys+1, size)
	}
	if calls < 2 || calls > keys/50 {
		t.Errorf("%d calls to merge the windows of %d keys", calls, keys+1)
	}
	if table.Stats().SpilledBytes < size {
		t.Errorf("%d bytes spilled", table.Stats().SpilledBytes)
	}
}

func TestMergeFailures(t *testing.T) {
	own := errors.New("the user's own")
	other := windowing.Interval{Start: 7, End: 9}.Append(nil)
	same := windowing.Interval{Start: 0, End: 10}.Append(nil)
	for name, c := range map[string]struct {
		merged [][]windowing.Merged
		err    error
	}{
		"fails":             {err: own},
		"of no key":         {merged: nil},
		"unknown":           {merged: [][]windowing.Merged{{{Window: same, From: [][]byte{other}}}}},
		"in two":            {merged: [][]windowing.Merged{{{Window: same, From: [][]byte{same}}, {Window: other, From: [][]byte{same}}}}},
		"not even a window": {merged: [][]windowing.Merged{{{Window: []byte{1}, From: [][]byte{same}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := New(Config{Input: layout(t, true), Windowing: strategies(t)["custom, merging"],
				Merge: func([][][]byte) ([][]windowing.Merged, error) { return c.merged, c.err }})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			if err := table.Add(input{windows: []interval{{0, 10}}}.append(nil, false)); err != nil {
				t.Fatal(err)
			}
			groups, err := table.Drain()
			if err != nil {
				t.Fatal(err)
			}
			_, err = groups.Next(1)
			if err == nil || errors.Is(err, io.EOF) || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("error %v", err)
			}
			if class := fault.ClassOf(err); c.err == nil && class != fault.Internal && class != fault.Corruption {
				t.Errorf("class %v: %v", class, err)
			}
		})
	}
}
