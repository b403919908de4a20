package panes

import (
	"fmt"
	"math"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/statebackend"
)

func TestEarlyOnTimeAndLatePanes(t *testing.T) {
	for name, test := range map[string]struct {
		mode    pipepb.AccumulationMode_Enum
		closing pipepb.ClosingBehavior_Enum
		onTime  pipepb.OnTimeBehavior_Enum
		want    [4]string // at the fourth element, the end, the late elements and the expiry
	}{
		"discarding": {pipepb.AccumulationMode_DISCARDING, pipepb.ClosingBehavior_EMIT_IF_NONEMPTY, pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY, [4]string{
			"k [0 9] [3 4] @9 early 1/-1", "", "k [0 9] [5] @9 late 2/0", ""}},
		"always on time": {pipepb.AccumulationMode_DISCARDING, pipepb.ClosingBehavior_EMIT_IF_NONEMPTY, pipepb.OnTimeBehavior_FIRE_ALWAYS, [4]string{
			"k [0 9] [3 4] @9 early 1/-1", "k [0 9] [] @9 on time 2/0", "k [0 9] [5] @9 late 3/1", ""}},
		"always at the end": {pipepb.AccumulationMode_DISCARDING, pipepb.ClosingBehavior_EMIT_ALWAYS, pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY, [4]string{
			"k [0 9] [3 4] @9 early 1/-1", "", "k [0 9] [5] @9 late 2/0", "k [0 9] [] @9 late last 3/1"}},
		"accumulating": {pipepb.AccumulationMode_ACCUMULATING, pipepb.ClosingBehavior_EMIT_ALWAYS, pipepb.OnTimeBehavior_FIRE_ALWAYS, [4]string{
			"k [0 9] [1 2 3 4] @9 early 1/-1", "k [0 9] [1 2 3 4] @9 on time 2/0", "k [0 9] [1 2 3 4 5] @9 late 3/1", "k [0 9] [1 2 3 4 5] @9 late last 4/2"}},
	} {
		t.Run(name, func(t *testing.T) {
			ws := fixed(t, 10)
			ws.AccumulationMode, ws.ClosingBehavior, ws.OnTimeBehavior = test.mode, test.closing, test.onTime
			ws.AllowedLateness = 20
			ws.Trigger = afterEnd(count(2), count(1))
			r := newRig(t, ws, 0)
			expect := func(what string, got []pane, want string) {
				t.Helper()
				if want == "" {
					r.expect(what, got)
				} else {
					r.expect(what, got, want)
				}
			}
			expect("first", r.add("k", 1, 2), "k [0 9] [1 2] @9 early first 0/-1")
			expect("third", r.add("k", 3), "")
			expect("fourth", r.add("k", 4), test.want[0])
			expect("end", r.advance(10), test.want[1])
			expect("late", r.add("k", 5), test.want[2])
			expect("not expired", r.advance(29), "")
			expect("expired", r.advance(30), test.want[3])
			expect("too late", r.add("k", 6), "")
			if s := r.p.Stats(); s.LateDropped != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// The watermark may pass the end and the expiry of a window in one step: there is one pane.
func TestEndAndExpiryAtOnce(t *testing.T) {
	ws := fixed(t, 10)
	ws.AllowedLateness = 20
	r := newRig(t, ws, 0)
	r.add("k", 1)
	r.expect("end of time", r.advance(coders.MaxTimestamp), "k [0 9] [1] @9 on time first last 0/0")
}

func TestFinishedTriggersDropWhatComes(t *testing.T) {
	ws := fixed(t, 10)
	ws.Trigger = count(2)
	r := newRig(t, ws, 0)
	r.expect("two", r.add("k", 1, 2, 3), "k [0 9] [1 2] @9 early first last 0/-1")
	r.expect("more", r.add("k", 4, 5))
	r.expect("end of time", r.advance(coders.MaxTimestamp))
	if s := r.p.Stats(); s.Closed != 3 || s.LateDropped != 0 {
		t.Errorf("%+v", s)
	}
}

// The global window is not closed by its trigger: Go's TestTriggerAfterProcessingTime.
func TestFinishedTriggersLeaveTheGlobalWindowOpen(t *testing.T) {
	for _, memory := range []int64{0, 1} {
		ws := global(t)
		ws.Trigger = afterDelay(10)
		r := newRig(t, ws, memory)
		r.clock(1000)
		r.add("k", 1, 2)
		r.add("done", 7)
		r.expect("in time", r.clock(1010),
			"done [0 9223371950454775] [7] @9223371950454775 early first 0/-1",
			"k [0 9223371950454775] [1 2] @9223371950454775 early first 0/-1")
		r.expect("after", r.add("k", 3, 4))
		if at, ok := r.p.NextClock(); ok {
			t.Errorf("to be waked at %v", at)
		}
		r.expect("much later", r.clock(9999))
		r.expect("end of time", r.advance(coders.MaxTimestamp), "k [0 9223371950454775] [3 4] @9223371950454775 on time last 1/0")
		if s := r.p.Stats(); s.Closed != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// Python's test_non_liftable_combine: the SDK asks for empty panes always.
func TestNoEmptyPaneFollowsAFinishedTrigger(t *testing.T) {
	for _, bounded := range []bool{false, true} {
		ws := global(t)
		ws.Trigger = count(2)
		ws.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
		r := newRig(t, ws, 0)
		r.cfg.Bounded = bounded
		r.reopen()
		got := append(r.add("k", 1, 2), r.advance(coders.MaxTimestamp)...)
		r.expect("to the end of time", got, "k [0 9223371950454775] [1 2] @9223371950454775 early first 0/-1")
	}
}

// What is left below a threshold leaves when its window expires, as Java's runners have it;
// one test of the Python SDK would have it lost.
func TestLeftoversAreFlushed(t *testing.T) {
	ws := fixed(t, 10)
	ws.Trigger = repeat(count(2))
	ws.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
	r := newRig(t, ws, 0)
	r.expect("three", r.add("k", 1, 2, 3), "k [0 9] [1 2] @9 early first 0/-1")
	r.expect("end", r.advance(10), "k [0 9] [3] @9 on time last 1/0")
}

func TestNeverFiresWhenWindowsExpire(t *testing.T) {
	ws := fixed(t, 10)
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}
	ws.AllowedLateness = 20
	r := newRig(t, ws, 0)
	r.add("k", 1)
	r.expect("end", r.advance(10))
	r.add("k", 2)
	r.expect("expired", r.advance(30), "k [0 9] [1 2] @9 on time first last 0/0")
}

func TestProcessingTime(t *testing.T) {
	for _, memory := range []int64{0, 1} {
		ws := global(t)
		ws.Trigger = repeat(afterDelay(10))
		r := newRig(t, ws, memory)
		r.clock(1000)
		r.add("k", 1)
		r.clock(1005)
		r.expect("second", r.add("k", 2))
		if at, ok := r.p.NextClock(); !ok || at.UnixMilli() != 1010 {
			t.Errorf("to be waked at %v, %v", at, ok)
		}
		r.expect("before its time", r.clock(1009))
		r.expect("at its time", r.clock(1010), "k [0 9223371950454775] [1 2] @9223371950454775 early first 0/-1")
		r.clock(1011)
		if at, ok := r.p.NextClock(); ok {
			t.Errorf("to be waked at %v", at)
		}
		r.expect("third", r.add("k", 3))
		r.expect("after its time", r.clock(2000), "k [0 9223371950454775] [3] @9223371950454775 early 1/-1")
	}
}

// Elements that come behind the watermark don't hold the output to where it can't be any more.
func TestOutputTimes(t *testing.T) {
	for _, test := range []struct {
		combiner pipepb.OutputTime_Enum
		hold     int64
		want     string
	}{
		{pipepb.OutputTime_END_OF_WINDOW, 9, "k [0 9] [3 5 6] @9 on time first 0/0"},
		{pipepb.OutputTime_EARLIEST_IN_PANE, 5, "k [0 9] [3 5 6] @5 on time first 0/0"},
		{pipepb.OutputTime_LATEST_IN_PANE, 6, "k [0 9] [3 5 6] @6 on time first 0/0"},
	} {
		ws := fixed(t, 10)
		ws.OutputTime = test.combiner
		ws.AllowedLateness = 20
		r := newRig(t, ws, 0)
		r.advance(4)
		r.add("k", 5, 3, 6)
		if h := r.p.Hold(); h != test.hold {
			t.Errorf("%v: holds %d, not %d", test.combiner, h, test.hold)
		}
		r.expect("end", r.advance(10), test.want)
		if h := r.p.Hold(); h != math.MaxInt64 {
			t.Errorf("%v: holds %d", test.combiner, h)
		}
		r.expect("late", r.add("k", 7), "k [0 9] [7] @9 late 1/1")
		r.expect("late and first", r.add("l", 7), "l [0 9] [7] @9 late first 0/0")
	}
}

// hundreds merges windows that begin in the same hundred into one that has them all.
func hundreds(windows [][]byte) ([]windowing.Merged, error) {
	var out []windowing.Merged
	by := map[int64]int{}
	spans := map[int64]windowing.Interval{}
	for _, b := range windows {
		w, _, err := windowing.DecodeInterval(b)
		if err != nil {
			return nil, err
		}
		h := w.Start / 100
		i, ok := by[h]
		if !ok {
			i = len(out)
			by[h], spans[h] = i, w
			out = append(out, windowing.Merged{})
		}
		span := spans[h]
		span.Start, span.End = min(span.Start, w.Start), max(span.End, w.End)
		spans[h] = span
		out[i].From = append(out[i].From, b)
		out[i].Window = span.Append(nil)
	}
	return out, nil
}

// forEach makes a MergeFunc of one for a key.
func forEach(merge func([][]byte) ([]windowing.Merged, error)) MergeFunc {
	return func(keys [][][]byte) ([][]windowing.Merged, error) {
		all := make([][]windowing.Merged, len(keys))
		for i, windows := range keys {
			var err error
			if all[i], err = merge(windows); err != nil {
				return nil, err
			}
		}
		return all, nil
	}
}

// Windows of many keys are merged in one call, as often as one of them has an element in a block,
// and become what they would if each element came alone.
func TestKeysAreMergedTogether(t *testing.T) {
	const keys = 100
	for _, memory := range []int64{0, 1} {
		calls := 0
		merge := func(keys [][][]byte) ([][]windowing.Merged, error) {
			calls++
			return forEach(hundreds)(keys)
		}
		fired := func(together bool) []string {
			calls = 0
			ws := sessions(t, 10)
			ws.Trigger = repeat(count(2))
			r := newRig(t, ws, memory)
			r.cfg.Merge = merge
			r.reopen()
			var block []byte
			for i := range int64(4 * keys) {
				e := r.element(nil, fmt.Sprintf("k%03d", i%keys), i/keys*70+i%3*30)
				if block = append(block, e...); !together {
					r.must(r.p.Add(e, r.time()))
				}
			}
			if together {
				r.must(r.p.Add(block, r.time()))
			}
			var out []string
			for _, p := range append(r.read(), r.advance(coders.MaxTimestamp)...) {
				out = append(out, p.String())
			}
			return out
		}
		alone := fired(false)
		if calls < 2*keys {
			t.Fatalf("%d calls for elements that came alone", calls)
		}
		together := fired(true)
		if calls != 4 {
			t.Errorf("%d calls for 4 elements of each key", calls)
		}
		slices.Sort(alone)
		slices.Sort(together)
		if !slices.Equal(alone, together) {
			t.Errorf("together: %q\nalone: %q", together, alone)
		}
	}
}

func TestCustomMerging(t *testing.T) {
	for _, memory := range []int64{0, 1} {
		ws := sessions(t, 10)
		ws.Trigger = repeat(count(3))
		r := newRig(t, ws, memory)
		r.cfg.Merge = forEach(hundreds)
		r.reopen()
		r.add("k", 1, 50, 120)
		r.expect("third", r.add("k", 80), "k [1 89] [1 50 80] @89 early first 0/-1")
		r.expect("end", r.advance(coders.MaxTimestamp), "k [1 89] [] @89 on time last 1/0", "k [120 129] [120] @129 on time first last 0/0")
	}
}

// A window function can't merge what isn't there, nor into what is there but stays.
func TestMergingOfNonsense(t *testing.T) {
	window := func(start, end int64) []byte { return windowing.Interval{Start: start, End: end}.Append(nil) }
	for name, merged := range map[string]windowing.Merged{
		"unknown":  {Window: window(0, 9), From: [][]byte{window(5, 6)}},
		"occupied": {Window: window(1, 11), From: [][]byte{window(50, 60)}},
		"garbled":  {Window: []byte{1}, From: [][]byte{window(50, 60)}},
	} {
		r := newRig(t, sessions(t, 10), 0)
		r.add("k", 1)
		r.must(r.p.Flush())
		r.cfg.Merge = forEach(func([][]byte) ([]windowing.Merged, error) { return []windowing.Merged{merged}, nil })
		r.reopen()
		err := r.p.Add(r.element(nil, "k", 50), r.time())
		if c := fault.ClassOf(err); c != fault.UserCode && c != fault.Corruption {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := newRig(t, fixed(t, 10), 0).cfg
	for name, change := range map[string]func(*Config){
		"no coder":           func(c *Config) { c.Input = nil },
		"no windowing":       func(c *Config) { c.Windowing = nil },
		"no store":           func(c *Config) { c.Store = nil },
		"negative memory":    func(c *Config) { c.MemoryBytes = -1 },
		"too many groups":    func(c *Config) { c.KeyGroups = statebackend.MaxGroups + 1 },
		"groups of nobody":   func(c *Config) { c.FirstGroup, c.EndGroup = 3, 17 },
		"groups in reverse":  func(c *Config) { c.FirstGroup, c.EndGroup = 3, 2 },
		"merging by nothing": func(c *Config) { s := *c.Windowing; s.Kind, s.Merging = windowing.Custom, true; c.Windowing = &s },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlocksOfNonsense(t *testing.T) {
	r := newRig(t, fixed(t, 10), 0)
	block := r.element(nil, "k", 1)
	if err := r.p.Add(block[:len(block)-1], r.time()); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("%v", err)
	}
}

// Goldens of what the store has: a failure here means that old checkpoints are lost.
func TestLayout(t *testing.T) {
	ws := fixed(t, 10)
	ws.Trigger = afterEnd(count(3), count(1))
	ws.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE
	ws.AllowedLateness = 20
	r := newRig(t, ws, 0)
	r.add("k", 1, 2, 3, 4, 5)
	r.must(r.p.Flush())
	var got []string
	r.must(r.cfg.Store.Scan(nil, nil, func(key, value []byte) bool {
		got = append(got, hex(key)+" "+hex(value))
		return true
	}))
	want := []string{
		// panes: two values of two bytes in cell 0, of five; an early pane before
		"0100030147726f75700001016b00018000ff00ff00ff00ff00ff00ff0a0a000170616e65730001 " +
			"020112feffffffffffffffff01080109800000000000000a0a8d010002000008020202010002",
		// values 0: 4 and 5
		"0100030147726f75700001016b00018000ff00ff00ff00ff00ff00ff0a0a000176616c756573000100 0405",
		// to be waked past 9, and holding 4
		"0100030547726f7570000180000000000000098000ff00ff00ff00ff00ff00ff0a0a0001016b0001 0000000000000004",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func FuzzDecode(f *testing.F) {
	ws := sessions(f, 10)
	ws.Trigger = afterEnd(count(3), count(1))
	r := newRig(f, ws, 0)
	r.add("k", 1, 2, 3, 4, 50)
	for _, u := range r.p.ring {
		f.Add(append([]byte{}, r.p.encode(u)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := newRig(t, ws, 0).p
		u := &unit{}
		if err := p.decode(b, u); err != nil {
			if fault.ClassOf(err) != fault.Corruption {
				t.Fatal(err)
			}
			return
		}
		again := &unit{}
		if err := p.decode(p.encode(u), again); err != nil || len(again.windows) != len(u.windows) || again.record != u.record {
			t.Fatalf("%x is read and written as %x, %v", b, p.encode(u), err)
		}
	})
}

// Of bounded input all is there before triggers are asked: Prism's test_after_count_trigger_batch
// and TriggerPipelineTest of the Python SDK.
func TestBoundedInputIsABatch(t *testing.T) {
	early := func(late *pipepb.Trigger) *pipepb.Trigger {
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{
			EarlyFirings: count(2), LateFirings: late}}}
	}
	for name, test := range map[string]struct {
		trigger      *pipepb.Trigger
		accumulating bool
		want         []string
	}{
		"as many and more": {count(2), false, []string{"k [0 9] [1 2 3] @9 early first last 0/-1", "l [0 9] [4] @9 on time first last 0/0"}},
		"repeatedly":       {repeat(count(2)), false, []string{"k [0 9] [1 2 3] @9 early first 0/-1", "l [0 9] [4] @9 on time first last 0/0"}},
		"early": {early(nil), true, []string{
			"k [0 9] [1 2 3] @9 early first 0/-1", "k [0 9] [1 2 3] @9 on time last 1/0", "l [0 9] [4] @9 on time first last 0/0"}},
		"early and late": {early(count(1)), false, []string{
			"k [0 9] [1 2 3] @9 early first 0/-1", "k [0 9] [] @9 on time last 1/0", "l [0 9] [4] @9 on time first last 0/0"}},
		"a long delay": {afterDelay(1000), false, []string{"k [0 9] [1 2 3] @9 on time first last 0/0", "l [0 9] [4] @9 on time first last 0/0"}},
	} {
		for _, memory := range []int64{0, 1} {
			ws := fixed(t, 10)
			ws.Trigger = test.trigger
			if name == "repeatedly" {
				ws.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
			}
			if test.accumulating {
				ws.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
			}
			r := newRig(t, ws, memory)
			r.cfg.Bounded = true
			r.reopen()
			r.expect(name+": elements", r.add("k", 1, 2, 3))
			r.expect(name+": one more", r.add("l", 4))
			r.expect(name+": later", r.clock(100))
			r.expect(name, r.advance(coders.MaxTimestamp), test.want...)
		}
	}
}

// But time passes in a batch too: Java's testAfterProcessingTimeContinuationTriggerUsingState.
func TestDelaysOfBoundedInput(t *testing.T) {
	for _, memory := range []int64{0, 1} {
		ws := fixed(t, 10)
		ws.Trigger = repeat(afterDelay(10))
		r := newRig(t, ws, memory)
		r.cfg.Bounded = true
		r.reopen()
		r.expect("elements", r.add("k", 1, 2, 3))
		if at, ok := r.p.NextClock(); !ok || at.UnixMilli() != 10 {
			t.Errorf("to be waked at %v, %v", at, ok)
		}
		r.expect("over", r.clock(10), "k [0 9] [1 2 3] @9 early first 0/-1")
		r.expect("more", r.add("k", 4))
		r.expect("the end", r.advance(coders.MaxTimestamp), "k [0 9] [4] @9 on time last 1/0")
	}
}
