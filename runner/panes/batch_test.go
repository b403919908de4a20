package panes

import (
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// batching has a rig make batches.
func (r *rig) batching(size uint64) {
	r.cfg.BatchSize, r.cfg.Bounded = size, true
	r.reopen()
}

func TestBatchesLeaveWhenTheyAreFull(t *testing.T) {
	ws := fixed(t, 10)
	ws.OutputTime = pipepb.OutputTime_LATEST_IN_PANE
	ws.AllowedLateness = 7
	ws.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
	r := newRig(t, ws, 0)
	r.batching(2)
	r.expect("one of each", r.add("k", 3, 12))
	r.expect("full", r.add("k", 1, 2), "k [0 9] [1 3] @3 on time first last 0/0")
	r.expect("more", r.add("k", 4, 5), "k [0 9] [2 4] @4 on time first last 0/0")
	r.expect("end", r.advance(coders.MaxTimestamp), "k [0 9] [5] @5 on time first last 0/0", "k [10 19] [12] @12 on time first last 0/0")
	if s := r.p.Stats(); s.MemoryBytes != 0 || s.Fired != 4 || r.p.Hold() != none {
		t.Errorf("%+v, holds %d", s, r.p.Hold())
	}
}

// All values of a key and window are in batches of the size, but for what is left in the end, whatever the
// strategy says of triggers and wherever it goes on from a snapshot.
func TestBatchesHoldAllValues(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		if ws.MergeStatus == pipepb.MergeStatus_NEEDS_MERGE {
			ws = fixed(tt, 10)
		}
		r := newRig(tt, ws, rapid.SampledFrom([]int64{0, 1, 1500}).Draw(t, "memory"))
		size := rapid.IntRange(1, 5).Draw(t, "size")
		r.batching(uint64(size))
		type group struct {
			key    string
			window int64
		}
		want, got, sizes := map[group][]int64{}, map[group][]int64{}, map[group][]int{}
		note := func(panes []pane) {
			for _, p := range panes {
				g := group{p.Key, p.Window[1]}
				got[g], sizes[g] = append(got[g], p.Values...), append(sizes[g], len(p.Values))
				if p.Info != onlyPane {
					t.Fatalf("%v", p)
				}
			}
		}
		for _, ts := range rapid.SliceOfN(rapid.Int64Range(0, 40), 1, 60).Draw(t, "times") {
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
			for _, w := range r.windows(ts) {
				g := group{key, coders.EndOfGlobalWindow}
				if i, _, err := windowing.DecodeInterval(w); len(w) > 0 && err == nil {
					g.window = i.MaxTimestamp()
				}
				want[g] = append(want[g], ts)
			}
			note(r.add(key, ts))
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				r.save()()
			}
		}
		note(r.advance(coders.MaxTimestamp))
		for g, all := range want {
			slices.Sort(all)
			slices.Sort(got[g])
			if !slices.Equal(all, got[g]) {
				t.Fatalf("%+v: %v, not %v", g, got[g], all)
			}
			for i, n := range sizes[g] {
				if last := i == len(sizes[g])-1; n > size || n == 0 || n < size && !last {
					t.Fatalf("%+v: batches of %v values, want %d in all but the last", g, sizes[g], size)
				}
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d groups, want %d", len(got), len(want))
		}
	})
}

func TestBatchesOfMergingWindowsAreRefused(t *testing.T) {
	r := newRig(t, sessions(t, 5), 0)
	r.cfg.BatchSize = 2
	if _, err := New(r.cfg); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("error %v, want a fault.Invalid", err)
	}
}

// Bounded input whose trigger fires once gives what it gives where all of it is grouped when it has come:
// one pane of each key and window, on time, the first and the last, whatever else the strategy says.
func TestBoundedInputFiresOnce(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		ws.Trigger = rapid.SampledFrom([]*pipepb.Trigger{
			atEnd(), afterEnd(nil, nil), afterEnd(nil, count(1)), {Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}},
		}).Draw(t, "trigger once")
		r := newRig(tt, ws, rapid.SampledFrom([]int64{0, 1}).Draw(t, "memory"))
		r.cfg.Bounded = true
		r.reopen()
		if !r.strategy.FiresOnceOnBoundedInput() {
			t.Fatal("it doesn't fire once")
		}
		added := 0
		for _, ts := range rapid.SliceOfN(rapid.Int64Range(0, 40), 1, 30).Draw(t, "times") {
			added += len(r.windows(ts))
			if fired := r.add(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), ts); len(fired) > 0 {
				t.Fatalf("%v before the end", fired)
			}
			r.clock(r.now + 1000)
		}
		seen := map[string]bool{}
		for _, p := range r.advance(coders.MaxTimestamp) {
			id := p.Key + hex(windowing.Interval{Start: p.Window[0], End: p.Window[1]}.Append(nil))
			if seen[id] || p.Info != onlyPane || len(p.Values) == 0 {
				t.Fatalf("%v", p)
			}
			seen[id] = true
			added -= len(p.Values)
		}
		if added != 0 {
			t.Fatalf("%d values too few", added)
		}
	})
}
