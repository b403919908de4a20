package grouping

import (
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/windowing"
)

// drainBatches reads all elements of a table, and the number of values in each.
func drainBatches(t *rapid.T, table *Table, r *reader, maxBytes int) (values map[groupKey][]string, sizes map[groupKey][]int) {
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	values, sizes = map[groupKey][]string{}, map[groupKey][]int{}
	for {
		f, err := groups.Next(maxBytes)
		if err == io.EOF {
			return values, sizes
		}
		if err != nil {
			t.Fatal(err)
		}
		block := f.Data
		for range f.Elements {
			var k groupKey
			var g group
			k, g, block = r.parseGroup(t, block)
			if g.timestamp < f.MinTimestamp {
				t.Fatalf("a batch at %d in a block from %d on", g.timestamp, f.MinTimestamp)
			}
			values[k] = append(values[k], g.values...)
			sizes[k] = append(sizes[k], len(g.values))
		}
		if len(block) > 0 {
			t.Fatalf("%d bytes follow %d elements", len(block), f.Elements)
		}
	}
}

func TestBatchesHoldAllValuesAndNoneTooMany(t *testing.T) {
	cut, spilled := false, false // in any of the draws
	for _, name := range []string{"global", "fixed", "sliding", "custom"} {
		base := strategies(t)[name]
		t.Run(name, func(t *testing.T) {
			in := layout(t, base.Kind != windowing.Global)
			dir := t.TempDir()
			rapid.Check(t, func(t *rapid.T) {
				s := *base
				s.Combiner = windowing.Latest
				size := rapid.IntRange(1, 6).Draw(t, "size")
				table, err := New(Config{Input: in, Windowing: &s, Dir: dir, BatchSize: uint64(size),
					MemoryBytes: rapid.SampledFrom([]int64{1, 4 << 10, 0}).Draw(t, "memory")})
				if err != nil {
					t.Fatal(err)
				}
				defer table.Close()
				inputs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) input { return drawInput(t, s.Kind) }), 0, 80).Draw(t, "inputs")
				addAll(t, table, inputs, s.Kind == windowing.Global)
				spilled = spilled || table.Stats().Runs > 0
				values, sizes := drainBatches(t, table, &reader{in: in}, rapid.SampledFrom([]int{0, 1000, 1 << 20}).Draw(t, "maxBytes"))
				want := modelOf(inputs, &s)
				for k, all := range values {
					slices.Sort(all)
					if w := want[k]; w == nil || !slices.Equal(all, w.values) {
						t.Fatalf("group %+v has %.200q, want %+v", k, all, w)
					}
					last := len(sizes[k]) - 1
					for i, n := range sizes[k] {
						if n > size || n == 0 || n < size && i < last {
							t.Fatalf("batches of %v values, want %d in all but the last", sizes[k], size)
						}
					}
					cut = cut || last > 0
				}
				if len(values) != len(want) {
					t.Fatalf("%d groups, want %d", len(values), len(want))
				}
			})
		})
	}
	if !cut || !spilled {
		t.Errorf("groups were cut: %t, values spilled: %t", cut, spilled)
	}
}

func TestBatchesOfMergingWindowsAreRefused(t *testing.T) {
	_, err := New(Config{Input: layout(t, true), Windowing: strategies(t)["sessions"], BatchSize: 2})
	if fault.ClassOf(err) != fault.Invalid {
		t.Errorf("error %v, want a fault.Invalid", err)
	}
}
