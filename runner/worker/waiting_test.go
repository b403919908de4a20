package worker

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/sideinput"
)

// tens are windows of 10 ms, encoded.
func tens(n int64) []byte { return windowing.Interval{Start: 10 * n, End: 10*n + 10}.Append(nil) }

// newWaitingTens returns a waiting for bytes in windows of 10 ms that reads one side input of
// the same windows, and a function that gives that a pane.
func newWaitingTens(t testing.TB, mapWindow func([]byte) []byte) (*waiting, func(window int64)) {
	layout := func(element *pipepb.Coder, parts map[string]*pipepb.Coder) *coders.Windowed {
		parts["element"] = element
		parts["bytes"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderBytes}}
		parts["interval"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderIntervalWindow}}
		parts["windowed"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderWindowedValue}, ComponentCoderIds: []string{"element", "interval"}}
		w, err := coders.CompileWindowed("windowed", parts)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	element := layout(&pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderBytes}}, map[string]*pipepb.Coder{})
	panes := layout(&pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderKV}, ComponentCoderIds: []string{"bytes", "values"}}, map[string]*pipepb.Coder{
		"values": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderIterable}, ComponentCoderIds: []string{"bytes"}},
	})
	strategy := &windowing.Strategy{Kind: windowing.Fixed, Size: 10, Trigger: onceAndAgain, WindowCoder: element.Window()}
	live, err := sideinput.NewLive(sideinput.Config{Input: element, Dir: t.TempDir()}, panes, strategy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := live.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &waiting{
		coder: element, main: strategy, windows: map[string]*mainWindow{}, firstTo: math.MaxInt64, released: math.MinInt64,
		spill:     spiller{dir: t.TempDir(), budget: newBudget(100<<10, new(atomic.Int64))},
		mapWindow: func(_ plan.WindowMapping, window []byte) ([]byte, error) { return mapWindow(window), nil },
		sides: []waitedSide{{
			live: &liveSide{Live: live}, reader: live.NewReader(), mapping: plan.WindowMapping{Main: strategy, Windowing: strategy},
		}},
	}
	return w, func(window int64) {
		pane := coders.AppendHeader(nil, 0, 1, tens(window), []byte{coders.PaneNoFiring})
		if err := live.Replace(append(pane, 0, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		w.changed = true
	}
}

func identity(window []byte) []byte { return window }

// Whatever comes when: each element comes out once for each of its windows, those of a
// window in order, none before its window is ready; and what waits is known by its time.
func TestWaitingAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w, ready := newWaitingTens(t, identity)
		defer w.close()
		open := map[int64]bool{}
		waits, passed := map[int64][]string{}, map[int64][]string{}
		holds := map[string]int64{}
		watermark := int64(0)
		out := func(f frame.Frame, hold int64) {
			var el coders.Element
			n := 0
			for at := 0; at < len(f.Data); at += el.Size {
				if err := w.coder.Next(f.Data[at:], &el); err != nil {
					rt.Fatal(err)
				}
				n++
				if f.MinTimestamp > el.Timestamp {
					rt.Fatalf("an element at %d in a frame that begins at %d", el.Timestamp, f.MinTimestamp)
				}
				if held := holds[text(el.Value)[:8]]; hold > held {
					rt.Fatalf("a frame holds %d, with an element that holds %d", hold, held)
				}
				for rest := el.Windows; len(rest) > 0; {
					in, size, err := windowing.DecodeInterval(rest)
					if err != nil {
						rt.Fatal(err)
					}
					rest = rest[size:]
					passed[in.Start/10] = append(passed[in.Start/10], text(el.Value)[:8])
				}
			}
			if n != f.Elements {
				rt.Fatalf("%d elements in a frame of %d", n, f.Elements)
			}
		}
		next := 0
		rt.Repeat(map[string]func(*rapid.T){
			"frame": func(rt *rapid.T) {
				f := frame.Frame{MinTimestamp: math.MaxInt64}
				watermark += rapid.Int64Range(0, 20).Draw(rt, "watermark")
				for range rapid.IntRange(0, 5).Draw(rt, "elements") {
					windows := rapid.SliceOfNDistinct(rapid.Int64Range(0, 4), 0, 3, rapid.ID).Draw(rt, "windows")
					ts := rapid.Int64Range(0, 100).Draw(rt, "time")
					value := fmt.Sprintf("%08d%0*d", next, rapid.SampledFrom([]int{1, 40 << 10}).Draw(rt, "size"), 0)
					var encoded []byte
					for _, n := range windows {
						encoded = append(encoded, tens(n)...)
						waits[n] = append(waits[n], value[:8])
					}
					holds[value[:8]] = max(ts, watermark) // if it is late it holds no earlier
					f.Data = append(coders.AppendHeader(f.Data, ts, len(windows), encoded, []byte{coders.PaneNoFiring}), bytesOf(value)...)
					f.Elements++
					f.MinTimestamp = min(f.MinTimestamp, ts)
					next++
				}
				got, err := w.admit(f, watermark)
				if err != nil {
					rt.Fatal(err)
				}
				out(got, watermark)
			},
			"pane": func(rt *rapid.T) {
				n := rapid.Int64Range(0, 4).Draw(rt, "window")
				ready(n)
				open[n] = true
			},
			"take": func(rt *rapid.T) {
				if err := w.look(); err != nil {
					rt.Fatal(err)
				}
				f, hold, ok, err := w.take()
				if err != nil {
					rt.Fatal(err)
				}
				if ok {
					out(f, hold)
				}
			},
			"": func(rt *rapid.T) {
				least := int64(math.MaxInt64)
				for n, all := range waits {
					if !open[n] && len(passed[n]) > 0 {
						rt.Fatalf("elements of window %d have not waited: %q", n, passed[n])
					}
					if !slices.Equal(passed[n], all[:len(passed[n])]) {
						rt.Fatalf("window %d: %q, want %q first", n, passed[n], all)
					}
					for _, value := range all[len(passed[n]):] {
						least = min(least, holds[value])
					}
				}
				if got := w.hold(); got != least {
					rt.Fatalf("what waits holds %d, want %d", got, least)
				}
			},
		})
		for n := range int64(5) {
			ready(n)
		}
		if err := w.look(); err != nil {
			rt.Fatal(err)
		}
		for f, hold, ok, err := w.take(); ok || err != nil; f, hold, ok, err = w.take() {
			if err != nil {
				rt.Fatal(err)
			}
			out(f, hold)
		}
		if !maps.EqualFunc(waits, passed, slices.Equal[[]string]) {
			rt.Fatalf("got %v, want %v", passed, waits)
		}
	})
}

// Elements that are too late for their window and for that of the side input are dropped and
// counted. A window that has not ended and yet reads what is gone is an error.
func TestWaitingForWhatIsGone(t *testing.T) {
	element := func(n int64) frame.Frame {
		data := append(coders.AppendHeader(nil, 10*n, 1, tens(n), []byte{coders.PaneNoFiring}), bytesOf("x")...)
		return frame.Frame{Data: data, Elements: 1, MinTimestamp: 10 * n}
	}
	back := false
	w, ready := newWaitingTens(t, func(window []byte) []byte {
		if back {
			return tens(0)
		}
		return window
	})
	defer w.close()
	ready(0)
	for step, test := range []struct{ watermark, elements, late int64 }{{5, 1, 0}, {9, 1, 0}, {10, 0, 1}} {
		if err := w.release(test.watermark); err != nil {
			t.Fatal(err)
		}
		w.late = 0
		if f, err := w.admit(element(0), 0); int64(f.Elements) != test.elements || w.late != test.late || err != nil {
			t.Errorf("step %d: %d elements, %d late, %v; want %+v", step, f.Elements, w.late, err, test)
		}
	}
	back = true
	if _, err := w.admit(element(7), 0); fault.ClassOf(err) != fault.Unsupported {
		t.Errorf("a mapping that looks back to what is gone: %v", err)
	}
}

// Once a mapping looks back, windows of the side input are kept: another may look back further.
func TestMappingsThatLookBackKeepWindows(t *testing.T) {
	w, ready := newWaitingTens(t, func([]byte) []byte { return tens(0) })
	defer w.close()
	ready(0)
	for n := range int64(50) {
		data := append(coders.AppendHeader(nil, 10*n+1, 1, tens(n+1), []byte{coders.PaneNoFiring}), bytesOf("x")...)
		if f, err := w.admit(frame.Frame{Data: data, Elements: 1}, 0); f.Elements != 1 || err != nil {
			t.Fatalf("window %d: %d elements, %v", n, f.Elements, err)
		}
		if err := w.release(10 * n); err != nil {
			t.Fatal(err)
		}
	}
}

// Harnesses may keep what they have read of a side input as long as that is the same, and only
// where they declare to cache by token if it changes.
func TestCacheTokensOfSideInputs(t *testing.T) {
	for _, caches := range []bool{false, true} {
		p := portabletest.New()
		outs := testStream(p, "test", []string{"main", "side"},
			elements("side", "k=x@2"), elements("main", "a=1@1"), elements("main", "b=2@1"),
			elements("side", "k=y@3"), elements("main", "c=3@1"))
		fixed := p.ParDo("fixed", pEnv, pBytes, p.Impulse("impulse"))
		ws := fixedWindows(p, "again", 1000, onceAndAgain)
		p.Proto.Components.WindowingStrategies[ws].WindowFn = &pipepb.FunctionSpec{Urn: urns.WindowFnGlobal}
		p.Proto.Components.WindowingStrategies[ws].WindowCoderId = portabletest.Global
		side := p.ParDo("side", pEnv, pKV, outs[1])
		p.Proto.Components.Pcollections[side].WindowingStrategyId = ws
		p.ParDo("use", pEnv, pBytes, outs[0], side, fixed)
		if caches {
			env := p.Proto.Components.Environments[pEnv]
			env.Capabilities = append(env.Capabilities, urns.CapabilityStateCaching)
		}
		forward := func(c *call) error { c.emit(c.element); return nil }
		var j journal
		c := compile(t, p, map[string]doFn{
			"test/Encode/main": unprefix, "test/Encode/side": unprefix, "fixed": forward, "side": forward,
			"use": func(c *call) error {
				tokens := map[string]string{}
				for _, token := range c.bundle.CacheTokens {
					of := token.GetType().(*fnpb.ProcessBundleRequest_CacheToken_SideInput_).SideInput
					if of.GetTransformId() != "use" {
						return fmt.Errorf("a token of %q", of.GetTransformId())
					}
					tokens[of.GetSideInputId()] = string(token.GetToken())
				}
				j.note("live", "%s", tokens["i1"])
				j.note("fixed", "%s", tokens["i2"])
				return nil
			},
		})
		newRig(t, func(p *process) fnapitest.Script { return c.script(p) }).mustRun(c.plan)
		fixedTokens, live := j.lines["fixed"], j.lines["live"]
		if len(live) != 3 {
			t.Fatalf("%d elements", len(live))
		}
		if fixedTokens[0] == "" || fixedTokens[0] != fixedTokens[1] || fixedTokens[1] != fixedTokens[2] {
			t.Errorf("tokens of what never changes: %q", fixedTokens)
		}
		if caches && (live[0] == "" || live[0] != live[1] || live[2] == live[1]) || !caches && live[0]+live[1]+live[2] != "" {
			t.Errorf("caches: %v; tokens of what changes: %q", caches, live)
		}
	}
}
