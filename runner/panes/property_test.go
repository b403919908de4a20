package panes

import (
	"fmt"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// drawTrigger draws a trigger of a few levels.
func drawTrigger(t *rapid.T, depth int) *pipepb.Trigger {
	leaves := []func() *pipepb.Trigger{
		atEnd,
		func() *pipepb.Trigger { return afterEnd(nil, nil) },
		func() *pipepb.Trigger { return count(rapid.Int32Range(1, 4).Draw(t, "count")) },
		func() *pipepb.Trigger { return afterDelay(rapid.Int64Range(0, 20).Draw(t, "delay")) },
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}
		},
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_Always_{Always: &pipepb.Trigger_Always{}}}
		},
	}
	if depth == 0 {
		return rapid.SampledFrom(leaves).Draw(t, "leaf")()
	}
	sub := func() *pipepb.Trigger { return drawTrigger(t, depth-1) }
	two := func() []*pipepb.Trigger { return []*pipepb.Trigger{sub(), sub()} }
	return rapid.SampledFrom(append(leaves,
		func() *pipepb.Trigger { return repeat(sub()) },
		func() *pipepb.Trigger { return repeat(sub()) },
		func() *pipepb.Trigger { return afterEnd(sub(), sub()) },
		func() *pipepb.Trigger { return afterEnd(sub(), nil) },
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: two()}}}
		},
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: two()}}}
		},
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: two()}}}
		},
		func() *pipepb.Trigger {
			return &pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{OrFinally: &pipepb.Trigger_OrFinally{Main: sub(), Finally: sub()}}}
		},
	)).Draw(t, "trigger")()
}

func drawStrategy(tt *testing.T, t *rapid.T) *strategy {
	var ws *strategy
	switch rapid.IntRange(0, 3).Draw(t, "windows") {
	case 0:
		ws = fixed(tt, 10)
	case 1:
		ws = sessions(tt, 5)
	case 2:
		ws = strategyOf(tt, urns.WindowFnSliding, &pipepb.SlidingWindowsPayload{
			Size: durationpb.New(10e6), Period: durationpb.New(5e6)}, "interval")
	default:
		ws = global(tt)
	}
	ws.Trigger = drawTrigger(t, 2)
	ws.AllowedLateness = rapid.SampledFrom([]int64{0, 0, 7, 1000}).Draw(t, "lateness")
	ws.OutputTime = rapid.SampledFrom([]pipepb.OutputTime_Enum{pipepb.OutputTime_END_OF_WINDOW,
		pipepb.OutputTime_EARLIEST_IN_PANE, pipepb.OutputTime_LATEST_IN_PANE}).Draw(t, "output time")
	ws.AccumulationMode = rapid.SampledFrom([]pipepb.AccumulationMode_Enum{pipepb.AccumulationMode_DISCARDING,
		pipepb.AccumulationMode_ACCUMULATING}).Draw(t, "mode")
	ws.ClosingBehavior = rapid.SampledFrom([]pipepb.ClosingBehavior_Enum{pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		pipepb.ClosingBehavior_EMIT_ALWAYS}).Draw(t, "closing")
	ws.OnTimeBehavior = rapid.SampledFrom([]pipepb.OnTimeBehavior_Enum{pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
		pipepb.OnTimeBehavior_FIRE_ALWAYS}).Draw(t, "on time")
	return ws
}

// step is one thing done to rigs.
type step func(r *rig) []pane

// drawSteps draws what to do, with the end of time at its end.
func drawSteps(t *rapid.T) []step {
	watermark, now := int64(0), int64(0)
	var steps []step
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			watermark += rapid.Int64Range(0, 15).Draw(t, "watermark")
			at := watermark
			steps = append(steps, func(r *rig) []pane { return r.advance(at) })
		case 1:
			now += rapid.Int64Range(0, 15).Draw(t, "now")
			at := now
			steps = append(steps, func(r *rig) []pane { return r.clock(at) })
		default:
			key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
			times := rapid.SliceOfN(rapid.Int64Range(max(0, watermark-20), watermark+20), 1, 4).Draw(t, "times")
			steps = append(steps, func(r *rig) []pane { return r.add(key, times...) })
		}
	}
	return append(steps, func(r *rig) []pane { return r.advance(coders.MaxTimestamp) })
}

func texts(panes []pane) []string {
	out := []string{}
	for _, p := range panes {
		out = append(out, p.String())
	}
	return out
}

// Whatever is in memory or not, and written and read again at any time, panes are the same.
func TestEvictionChangesNothing(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		hot, cold := newRig(tt, ws, 0), newRig(tt, ws, rapid.SampledFrom([]int64{1, 1500, 4000}).Draw(t, "memory"))
		for i, do := range drawSteps(t) {
			want, got := texts(do(hot)), texts(do(cold))
			if !slices.Equal(want, got) {
				t.Fatalf("step %d: %q in memory, %q with eviction", i, want, got)
			}
			if a, b := hot.p.Hold(), cold.p.Hold(); a != b {
				t.Fatalf("step %d: holds %d in memory, %d with eviction", i, a, b)
			}
			a, waits := hot.p.NextClock()
			b, waitsToo := cold.p.NextClock() // for something that isn't any more, perhaps
			if waits && (!waitsToo || b.After(a)) {
				t.Fatalf("step %d: to be waked at %v in memory, %v with eviction", i, a, b)
			}
			switch rapid.IntRange(0, 5).Draw(t, "restart") {
			case 0:
				cold.must(cold.p.Flush())
			case 1:
				cold.save()()
			}
		}
		for name, r := range map[string]*rig{"in memory": hot, "with eviction": cold} {
			r.must(r.p.Flush())
			r.must(r.cfg.Store.Scan(nil, nil, func(key, _ []byte) bool {
				t.Fatalf("%s: %x is left", name, key)
				return false
			}))
			if n := r.p.Stats().MemoryBytes; n != 0 || r.p.Hold() != none || len(r.p.holds.counts) > 0 || r.p.store.units != 0 {
				t.Fatalf("%s: %d bytes left, holds %d, %d elsewhere", name, n, r.p.Hold(), r.p.store.units)
			}
		}
	})
}

// checker holds panes against what is true of all triggers.
type checker struct {
	r      *rig
	output int64 // what the output watermark may have reached
	before map[string]pane
	values int // in all panes
}

func (c *checker) check(t *rapid.T, p pane) {
	id := fmt.Sprint(p.Key, p.Window)
	before, known := c.before[id]
	switch {
	case p.Info.First == known && !c.r.strategy.Merging:
		t.Fatalf("%v after %v", p, before)
	case known && !p.Info.First && (before.Info.Last || p.Info.Index != before.Info.Index+1):
		t.Fatalf("%v after %v", p, before)
	case known && !p.Info.First && before.Info.Timing != coders.Early && p.Info.Timing != coders.Late:
		t.Fatalf("%v after %v", p, before)
	case p.Info.First && p.Info.Index != 0, p.Info.Timing == coders.Early && p.Info.OnTimeIndex != -1:
		t.Fatalf("%v", p)
	case p.Timestamp > p.Window[1], p.Info.Timing != coders.Late && p.Timestamp < c.output:
		t.Fatalf("%v, while the output watermark is %d", p, c.output)
	case p.Info.Timing == coders.OnTime && c.r.watermark <= p.Window[1]:
		t.Fatalf("%v, while the watermark is %d", p, c.r.watermark)
	case len(p.Values) == 0 && !c.r.p.wanted(p.Info):
		t.Fatalf("%v is empty", p)
	}
	for _, v := range p.Values {
		if v > p.Window[1] || v < p.Window[0] && c.r.strategy.Kind != windowing.Global {
			t.Fatalf("%v", p)
		}
	}
	if c.r.strategy.Accumulating && known && !p.Info.First && len(p.Values) < len(before.Values) {
		t.Fatalf("%v accumulates less than %v", p, before)
	}
	c.before[id] = p
	c.values += len(p.Values)
}

// What is true of all triggers.
func TestPanesOfAnyTrigger(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		r := newRig(tt, drawStrategy(tt, t), 0)
		c := &checker{r: r, output: coders.MinTimestamp, before: map[string]pane{}}
		for _, do := range drawSteps(t) {
			for _, p := range do(r) {
				c.check(t, p)
			}
			c.output = max(c.output, min(r.watermark, r.p.Hold()))
		}
		if s := r.p.Stats(); s.Fired == 0 && s.LateDropped+s.Closed == 0 && c.values > 0 {
			t.Fatalf("%d values and %+v", c.values, s)
		}
	})
}

// Every element is in one pane of each of its windows, if panes discard, or was dropped.
func TestNothingIsLostOrTwice(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		ws.AccumulationMode = pipepb.AccumulationMode_DISCARDING
		r := newRig(tt, ws, rapid.SampledFrom([]int64{0, 1}).Draw(t, "memory"))
		added, left := 0, 0
		watermark := int64(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			ts := rapid.Int64Range(max(0, watermark-20), watermark+20).Draw(t, "time")
			added += len(r.windows(ts))
			panes := r.add(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), ts)
			if rapid.Bool().Draw(t, "advance") {
				watermark += rapid.Int64Range(0, 15).Draw(t, "watermark")
				panes = append(panes, r.clock(r.now+5)...)
				panes = append(panes, r.advance(watermark)...)
			}
			for _, p := range panes {
				left += len(p.Values)
			}
		}
		for _, p := range r.advance(coders.MaxTimestamp) {
			left += len(p.Values)
		}
		if s := r.p.Stats(); left+int(s.LateDropped+s.Closed) != added {
			t.Fatalf("%d values of %d added, and %+v", left, added, s)
		}
	})
}

// Sessions are the same as merging all at once, in whatever order elements come.
func TestSessionsOnArrivalAreSessionsInTheEnd(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		r := newRig(tt, sessions(tt, 7), rapid.SampledFrom([]int64{0, 1}).Draw(t, "memory"))
		times := rapid.SliceOfN(rapid.Int64Range(0, 100), 1, 30).Draw(t, "times")
		for _, ts := range times {
			if got := r.add("k", ts); len(got) > 0 {
				t.Fatalf("%v fired", got)
			}
		}
		got := texts(r.advance(coders.MaxTimestamp))
		slices.Sort(times)
		var windows []windowing.Interval
		for _, ts := range times {
			windows = append(windows, windowing.Interval{Start: ts, End: ts + 7})
		}
		want := []string{}
		windowing.MergeSessions(windows, func(w windowing.Interval, from, to int) {
			want = append(want, fmt.Sprintf("k [%d %d] %v @%d on time first last 0/0", w.Start, w.End-1, times[from:to], w.End-1))
		})
		if !slices.Equal(got, want) {
			t.Fatalf("%q, not %q", got, want)
		}
	})
}
