package worker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// hour from now, in ms: a time that no test waits for.
func hour() int64 { return time.Now().Add(time.Hour).UnixMilli() }

// Per key, timers fire after the elements and in order of their times, whatever
// family and tag they are of; what is cleared does not fire, what is set again
// fires once at its last time, and one that is set while others fire takes its
// place among them. At the end of the input processing time does not wait, and
// the end of the window comes last.
func TestTimersFireInOrder(t *testing.T) {
	const n, k = 60, 5
	for _, chunk := range []int{0, 1, 7} { // bytes in a message: timers span messages
		for _, failures := range []int64{0, 2} {
			t.Run(fmt.Sprintf("chunks of %d, %d failures", chunk, failures), func(t *testing.T) {
				s := func(c *call) error {
					f := c.timer
					if f == nil {
						c.set("b", "x", 30, 30)
						c.set("a", "", 40, 40)
						c.set("a", "x", 20, 20)
						c.set("a", "y", 20, 20)
						c.set("a", "never", 10, 10)
						c.unset("a", "never")
						c.unset("b", "not set")
						c.set("a", "moved", 5, 5)
						c.set("a", "moved", 50, 50)
						c.set("b", "back", 15, 15)
						c.unset("b", "back")
						c.set("b", "back", 45, 45)
						c.set("clock", "", hour(), 60)
						c.set("clock", "x", hour()+10, 60)
						return nil
					}
					switch {
					case f.family == "a" && f.tag == "x" && f.fire < 26: // a loop
						c.set("a", "x", f.fire+3, f.fire+3)
					case f.family == "b" && f.tag == "x":
						c.set("b", "late", 1, 1) // due already
						c.unset("a", "moved")
					case f.family == "clock" && f.tag == "x":
						c.set("b", "after the clock", 70, 70)
					}
					return nil
				}
				p := stateful(t, n, k, s, "a", "b", "clock", "end")
				p.chunk = chunk
				var bundles atomic.Int64
				p.after = func(_ *fnapitest.Bundle, s *plan.Stage) error {
					if s.Transforms[0] != "s" {
						return nil
					}
					if b := bundles.Add(1); b > 5 && b <= 5+failures {
						return errors.New("not today")
					}
					return nil
				}
				r := newRig(t, p.script)
				r.deployment.Parallelism = 3
				r.mustRun(p.plan)
				want := slices.Repeat([]string{"element"}, n/k)
				want = append(want, "a x 20", "a y 20", "a x 23", "a x 26", "b x 30", "b late 1", "a  40", "b back 45",
					"clock  99", "clock x 99", "b after the clock 70", "end  99")
				for key := range k {
					if diff := cmp.Diff(want, p.history("s", fmt.Sprint("k", key))); diff != "" {
						t.Errorf("key %d (-want +got):\n%s", key, diff)
					}
				}
			})
		}
	}
}

// What a timer will emit is not late downstream: its hold keeps the watermark
// back there until it has fired.
func TestTimersHoldTheWatermark(t *testing.T) {
	p := portabletest.New()
	kvs := p.ParDo("kv", pEnv, pKV, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse")))
	first := p.ParDoWith("first", pEnv, payloadOf("f"), pKV, kvs)
	p.ParDoWith("second", pEnv, payloadOf("g"), pBytes, first)
	var j journal
	reached := make(chan struct{}) // 40, downstream
	c := compile(t, p, map[string]doFn{
		"split": split(2), "kv": modulo(2),
		"first": func(c *call) error {
			if c.timer == nil {
				c.emit(kvOf(c.key(), "early"))
				c.set("f", "", 500, 50) // goes off after those of second, but holds before one of them
				return nil
			}
			select {
			case <-reached:
			case <-time.After(patience / 2):
				return errors.New("the watermark did not get to the hold")
			}
			c.emit(kvOf("b", "held"))
			if c.timer.fire < 502 {
				c.set("f", "", c.timer.fire+1, 55)
			}
			return nil
		},
		"second": func(c *call) error {
			switch {
			case c.timer != nil && c.timer.fire == 40:
				close(reached)
			case c.timer != nil:
				j.note("b", "timer %d", c.timer.fire)
			case c.key() == "k0":
				c.set("g", "", 40, 40)
			case c.key() == "k1": // of another key, so that it need not wait for the one before
				c.set("g", "", 60, 60)
			default:
				j.note("b", "%s", c.value())
			}
			return nil
		},
	})
	for _, s := range c.plan.Stages {
		s.Bounded = false // there the watermark moves only once
	}
	r := newRig(t, c.script)
	r.deployment.Parallelism = 1
	r.mustRun(c.plan)
	want := append(slices.Repeat([]string{"held"}, 6), "timer 60")
	if got := j.lines["b"]; !slices.Equal(got, want) {
		t.Errorf("downstream came %q, want %q", got, want)
	}
}

// A window expires once for each key that has elements in it, after their
// timers, with its state still there.
func TestWindowsExpire(t *testing.T) {
	p := portabletest.New()
	p.Coder("interval", urns.CoderIntervalWindow)
	fixed := proto.Clone(p.Proto.Components.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	fixed.WindowFn.Urn, fixed.WindowCoderId, fixed.AllowedLateness = "test:windows", "interval", 5
	p.Proto.Components.WindowingStrategies["fixed"] = fixed
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))))
	out := p.ParDoWith("s", pEnv, payloadOf("f", "end"), pBytes, kvs)
	p.ParDo("write", pEnv, pBytes, out)
	for _, id := range []string{kvs, out, "write.out"} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "fixed"
	}
	window := func(i int64) []byte { // [10i, 10i+10)
		return coders.AppendVarint(coders.AppendTimestamp(nil, 10*i+10), 10)
	}
	var j journal
	c := compile(t, p, map[string]doFn{
		"split": split(60),
		"kv": func(c *call) error { // 0 to 59: key i%2, window i%3
			var i int64
			fmt.Sscan(text(c.element), &i)
			c.at(10*(i%3)+1, window(i%3))
			c.emit(kvOf(fmt.Sprint("k", i%2), text(c.element)))
			return nil
		},
		"s": func(c *call) error {
			if c.timer == nil {
				c.set("f", "", 28, 28)
				return c.bundle.StateAppend(c.bag("bag"), []byte{'x'})
			}
			end, err := coders.Timestamp(c.run.window)
			if err != nil {
				return err
			}
			j.note(c.key(), "%s %d of [%d, %d)", c.timer.family, c.timer.fire, end-10, end)
			return c.wantState("the bag", c.bag("bag"), "xxxxxxxxxx")
		},
		"write": collector,
	})
	r := newRig(t, c.script)
	r.deployment.Parallelism = 3
	r.mustRun(c.plan)
	for _, key := range []string{"k0", "k1"} {
		got := j.lines[key]
		if len(got) != 6 {
			t.Fatalf("%s: %q", key, got)
		}
		want := []string{ // no later than the window expires
			"f 14 of [0, 10)", "f 24 of [10, 20)", "f 28 of [20, 30)",
			"end 14 of [0, 10)", "end 24 of [10, 20)", "end 34 of [20, 30)",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
}

func TestGarbageTimers(t *testing.T) {
	timer := func(change func(v *coders.Timer)) []byte {
		v := coders.Timer{Key: bytesOf("k0"), NumWindows: 1, Fire: 5, Hold: 5, Pane: []byte{coders.PaneNoFiring}}
		change(&v)
		return v.Append(nil)
	}
	good := timer(func(*coders.Timer) {})
	for name, g := range map[string]struct {
		data  []byte
		class fault.Class
		text  string
	}{
		"half a timer":      {good[:len(good)/2], fault.Corruption, "end within one"},
		"a timer and a bit": {append(slices.Clone(good), 1), fault.Corruption, "end within one, after 1 bytes"},
		"a pane that there isn't": {timer(func(v *coders.Timer) { v.Pane = []byte{0xff, 0, 0} }),
			fault.Corruption, `timers of family "f"`},
		"no window":   {timer(func(v *coders.Timer) { v.NumWindows = 0 }), fault.Invalid, "in 0 windows"},
		"two windows": {timer(func(v *coders.Timer) { v.NumWindows = 2 }), fault.Invalid, "in 2 windows"},
	} {
		t.Run(name, func(t *testing.T) {
			p := stateful(t, 3, 1, func(*call) error { return nil }, "f")
			p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "s" {
					return b.EmitTimers("s", "f", g.data)
				}
				return nil
			}
			_, err := newRig(t, p.script).run(p.plan)
			wantError(t, err, g.class, g.text, "failed 4 times")
		})
	}
	for name, to := range map[string][2]string{"an unknown family": {"s", "g"}, "another transform": {"kv", "f"}} {
		t.Run(name, func(t *testing.T) {
			p := stateful(t, 3, 1, func(*call) error { return nil }, "f")
			p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "s" {
					return b.EmitTimers(to[0], to[1], good)
				}
				return nil
			}
			_, err := newRig(t, p.script).run(p.plan)
			wantError(t, err, fault.Invalid, to[0], to[1], "failed 4 times")
		})
	}
}

// Of keys whose timers set no others a bundle fires timers of several times; one that turns out
// to have fired some out of their turn leaves no trace.
func TestTimersFireAheadButNotOutOfTurn(t *testing.T) {
	p := portabletest.New()
	kvs := p.ParDo("kv", pEnv, pKV, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse")))
	first := p.ParDoWith("first", pEnv, payloadOf("f"), pKV, kvs)
	p.ParDoWith("second", pEnv, payloadOf("g"), pBytes, first)
	var mu sync.Mutex
	got := map[string][]string{}
	fired := 0
	c := compile(t, p, map[string]doFn{
		"split": split(2), "kv": modulo(2),
		"first": func(c *call) error {
			if c.timer == nil {
				for at := int64(10); at <= 200; at += 10 {
					c.set("f", fmt.Sprint(at), at, at)
				}
				return nil
			}
			mu.Lock()
			fired++
			mu.Unlock()
			if c.timer.fire == 90 {
				c.set("f", "between", 95, 95)
			}
			c.emit(kvOf(c.key(), fmt.Sprint(c.timer.fire)))
			return nil
		},
		"second": func(c *call) error {
			mu.Lock()
			defer mu.Unlock()
			got[c.key()] = append(got[c.key()], c.value())
			return nil
		},
	})
	r := newRig(t, c.script)
	r.deployment.Parallelism = 1
	r.mustRun(c.plan)
	var want []string
	for at := 10; at <= 200; at += 10 {
		if want = append(want, fmt.Sprint(at)); at == 90 {
			want = append(want, "95")
		}
	}
	if len(got) != 2 {
		t.Fatalf("output of %d keys", len(got))
	}
	for key := range got {
		if diff := cmp.Diff(want, got[key]); diff != "" {
			t.Errorf("key %s (-want +got):\n%s", key, diff)
		}
	}
	if fired <= 2*len(want) {
		t.Errorf("%d timers have fired, each once: no bundle has fired ahead", fired)
	}
}
