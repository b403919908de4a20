package worker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// sorted is a payload that wants its input sorted.
func sorted(families ...string) *pipepb.ParDoPayload {
	p := payloadOf(families...)
	p.RequiresTimeSortedInput = true
	return p
}

// A stage that wants its input sorted gets an element when no earlier one can come any more:
// after the watermark and the lateness allowed. What comes later still is dropped. Timers
// wait for the elements before them.
func TestTimeSortedInput(t *testing.T) {
	p := portabletest.New()
	late := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	late.AllowedLateness = 5
	p.Proto.Components.WindowingStrategies["late"] = late
	out := testStream(p, "test", []string{"o"},
		elements("", "k=d@40", "k=a@10", "j=b@20", "k=b@20"),
		watermark("", 16),
		elements("", "k=a again@15"),
		watermark("", 26),
		elements("", "k=too late@20", "k=c@22"),
		watermark("", 35),
		elements("", "k=e@41", "k=d too@40"),
	)[0]
	p.ParDo("write", pEnv, pBytes, p.ParDoWith("s", pEnv, sorted("f"), pBytes, out))
	for _, id := range []string{out, "s.out", "write.out"} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "late"
	}
	var j journal
	c := compile(t, p, map[string]doFn{
		"test/Encode/o": unprefix, "write": collector,
		"s": func(c *call) error {
			if c.timer != nil {
				j.note(c.key(), "timer %d", c.timer.fire)
				return nil
			}
			j.note(c.key(), "%s", c.value())
			if c.value() == "a" {
				c.set("f", "", 21, 21)
			}
			return nil
		},
	})
	e := newRig(t, c.script).mustRun(c.plan)
	for key, want := range map[string][]string{
		"k": {"a", "a again", "b", "timer 21", "c", "d", "d too", "e"},
		"j": {"b"},
	} {
		if diff := cmp.Diff(want, j.lines[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if n := counted(t, e, "droppedDueToLateness"); n != 1 {
		t.Errorf("%d elements were dropped as late, not 1", n)
	}
}

// Bounded input comes sorted too, whatever order its parts arrive in.
func TestTimeSortedBoundedInput(t *testing.T) {
	p := portabletest.New()
	const n, k = 500, 7
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	p.ParDo("write", pEnv, pBytes, p.ParDoWith("s", pEnv, sorted(), pBytes, kvs))
	var j journal
	c := compile(t, p, map[string]doFn{
		"split": split(n), "write": collector,
		"kv": func(c *call) error {
			var i int64
			fmt.Sscan(text(c.element), &i)
			c.at(i*7919%n, nil)
			c.emit(kvOf(fmt.Sprint("k", i%k), fmt.Sprint(i*7919%n)))
			return nil
		},
		"s": func(c *call) error {
			j.note(c.key(), "%3s", c.value())
			return nil
		},
	})
	r := newRig(t, c.script)
	r.deployment.Parallelism = 3
	r.mustRun(c.plan)
	total := 0
	for key, lines := range j.lines {
		total += len(lines)
		if !slices.IsSorted(lines) {
			t.Errorf("%s: %v", key, lines)
		}
	}
	if total != n {
		t.Errorf("%d elements came, not %d", total, n)
	}
}

// Whatever comes when, and restored at any time: all that is not late leaves once, each key's in
// order, none before its time and none after a watermark that it is behind.
func TestSorterLosesNothing(t *testing.T) {
	const lateness = 10
	layout := kvLayout(t)
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		store, err := memstate.New().Open("x")
		if err != nil {
			t.Fatal(err)
		}
		spec := &plan.StatefulSpec{Name: "s", Windowing: &windowing.Strategy{AllowedLateness: lateness}}
		reopened := func() *sorter {
			s, err := newSorter(spec, layout, store, [2]int{0, keygroup.DefaultMax})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := reopened()
		left := 0
		last := map[string]int64{}
		wm := int64(0)
		drain := func(size int) {
			for {
				f, ok, err := s.take(wm, size)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				var el coders.Element
				for off := 0; off < len(f.Data); off += el.Size {
					if err := layout.Next(f.Data[off:], &el); err != nil {
						t.Fatal(err)
					}
					if el.Timestamp < last[string(el.Key)] || el.Timestamp < f.MinTimestamp || el.Timestamp+lateness >= wm && wm < frame.MaxTimestamp {
						t.Fatalf("seed %d: %s of %d came at watermark %d after one of %d", seed, el.Key, el.Timestamp, wm, last[string(el.Key)])
					}
					last[string(el.Key)] = el.Timestamp
					left--
				}
			}
		}
		for range 300 {
			var block []byte
			n := rnd.IntN(5)
			for range n {
				block = coders.AppendHeader(block, rnd.Int64N(2000), 1, nil, []byte{coders.PaneNoFiring})
				block = append(block, kvOf(fmt.Sprint(rnd.IntN(10)), "v")...)
			}
			late, err := s.add(block, wm)
			if err != nil {
				t.Fatal(err)
			}
			left += n - int(late)
			if rnd.IntN(3) == 0 {
				wm += rnd.Int64N(20)
				drain(1 + rnd.IntN(200))
			}
			if rnd.IntN(20) == 0 { // it goes on from the store, and knows what it knew
				again := reopened()
				if diff := cmp.Diff(s.heads, again.heads); diff != "" {
					t.Fatalf("seed %d: heads (-before +after the restore):\n%s", seed, diff)
				}
				s = again
			}
		}
		if left == 0 || s.earliest() > 2000 {
			t.Fatal("nothing is kept: the test tests little")
		}
		wm = frame.MaxTimestamp
		drain(1 << 20)
		if left != 0 {
			t.Errorf("seed %d: %d elements are missing", seed, left)
		}
		if err := store.Scan(nil, nil, func(key, _ []byte) bool {
			t.Errorf("seed %d: %x is left", seed, key)
			return true
		}); err != nil {
			t.Error(err)
		}
		store.Close()
	}
}
