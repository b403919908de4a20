package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// windowFn answers a call of a window function: the windows that it is about, in one block,
// with what ParseMerged reads, or with a window.
type windowFn func(windows []byte) ([]byte, error)

// windowCalls wraps the script of a program's harnesses: bundles of window calls are
// answered by fn. They are counted, and the calls in them.
type windowCalls struct {
	p              *program
	fn             windowFn
	bundles, calls atomic.Int64
	// reverse has answers sent last first, and one byte at a time.
	reverse bool
	// before each bundle of calls, with its number from 1; nil for nothing.
	before func(me *process, n int64) error
}

func (w *windowCalls) script(me *process) fnapitest.Script {
	return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
		i := slices.IndexFunc(w.p.plan.Calls, func(c *plan.Call) bool {
			return strings.HasSuffix(b.Descriptor.GetId(), "/"+c.ID)
		})
		if i < 0 {
			return w.p.process(b)
		}
		n := w.bundles.Add(1)
		if w.before != nil {
			if err := w.before(me, n); err != nil {
				return err
			}
		}
		return w.answer(b, w.p.plan.Calls[i])
	}}
}

func (w *windowCalls) answer(b *fnapitest.Bundle, c *plan.Call) error {
	var answers [][]byte
	for in, err := range b.Input() {
		if err != nil {
			return err
		}
		var el coders.Element
		for rest := in.Data; len(rest) > 0; rest = rest[el.Size:] {
			if err := c.Input.Next(rest, &el); err != nil {
				return err
			}
			w.calls.Add(1)
			answer, err := w.fn(el.Value)
			if err != nil {
				return err
			}
			header := el.Size - len(el.Value)
			answers = append(answers, slices.Concat(rest[:header], answer))
		}
	}
	size := 1 << 20
	if w.reverse {
		slices.Reverse(answers)
		size = 1
	}
	for chunk := range slices.Chunk(slices.Concat(answers...), size) {
		if err := b.Emit(c.Sink, chunk); err != nil {
			return err
		}
	}
	return nil
}

// intersecting merges windows that intersect.
func intersecting(windows []byte) ([]byte, error) {
	n := binary.BigEndian.Uint32(windows)
	var sorted []windowing.Interval
	for rest := windows[4:]; len(rest) > 0; {
		w, size, err := windowing.DecodeInterval(rest)
		if err != nil {
			return nil, err
		}
		sorted = append(sorted, w)
		rest = rest[size:]
	}
	if len(sorted) != int(n) {
		return nil, fmt.Errorf("%d windows, not %d", len(sorted), n)
	}
	slices.SortFunc(sorted, func(a, b windowing.Interval) int { return int(a.Start - b.Start) })
	var stays, made []byte
	var staying, results uint32
	windowing.MergeSessions(sorted, func(to windowing.Interval, first, end int) {
		if end-first == 1 {
			stays = to.Append(stays)
			staying++
			return
		}
		results++
		made = binary.BigEndian.AppendUint32(to.Append(made), uint32(end-first))
		for _, w := range sorted[first:end] {
			made = w.Append(made)
		}
	})
	out := append(binary.BigEndian.AppendUint32(nil, staying), stays...)
	return append(binary.BigEndian.AppendUint32(out, results), made...), nil
}

// withWindows puts PCollections into windows of a function of the SDK's own.
func withWindows(p *portabletest.Pipeline, status pipepb.MergeStatus_Enum, fn string, pcollections ...string) {
	all := p.Proto.Components
	p.Coder("interval", urns.CoderIntervalWindow)
	ws := proto.Clone(all.WindowingStrategies[portabletest.Global]).(*pipepb.WindowingStrategy)
	ws.WindowFn, ws.WindowCoderId, ws.MergeStatus = &pipepb.FunctionSpec{Urn: fn}, "interval", status
	all.WindowingStrategies[fn] = ws
	for _, id := range pcollections {
		all.Pcollections[id].WindowingStrategyId = fn
	}
}

// mergingJob groups the numbers below n by their remainder by 10, each in the windows [i, i+2).
func mergingJob(t *testing.T, n int, fn windowFn) *windowCalls {
	p := portabletest.New()
	kv := p.ParDo("kv", pEnv, pKV, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse")))
	groups := p.GroupByKey("gbk", kv)
	p.ParDo("write", pEnv, pBytes, p.ParDo("show", pEnv, pBytes, groups))
	withWindows(p, pipepb.MergeStatus_NEEDS_MERGE, "test:windows", kv, groups)
	c := compile(t, p, map[string]doFn{
		"split": split(n),
		"kv": func(c *call) error {
			var i int64
			if _, err := fmt.Sscan(text(c.element), &i); err != nil {
				return err
			}
			at := i / 10 // of the 10 keys, each has one of these
			if at%5 == 4 {
				at += 1000 // and some far away
			}
			c.at(at, windowing.Interval{Start: at, End: at + 2}.Append(nil))
			c.emit(kvOf(fmt.Sprint("k", i%10), "v"))
			return nil
		},
		"show": func(c *call) error {
			key, values := group(c.element)
			w, _, err := windowing.DecodeInterval(c.run.header[coders.TimestampSize+4:])
			if err != nil {
				return err
			}
			ts, err := coders.Timestamp(c.run.header)
			if err != nil {
				return err
			}
			c.at(0, nil)
			c.emit(bytesOf(fmt.Sprintf("%s [%d,%d) at %d: %d", key, w.Start, w.End, ts, len(values))))
			return nil
		},
		"write": collector,
	})
	return &windowCalls{p: c, fn: fn}
}

func (w *windowCalls) written() []string {
	var all []string
	for _, e := range w.p.got("write") {
		all = append(all, text([]byte(e)))
	}
	slices.Sort(all)
	return all
}

func TestCustomWindowsAreMergedByTheSDK(t *testing.T) {
	w := mergingJob(t, 120, intersecting)
	w.reverse = true
	newRig(t, w.script).mustRun(w.p.plan)
	var want []string
	for k := range 10 {
		// The windows [3,5) and [5,7) only touch.
		for _, group := range []string{"[0,5) at 4: 4", "[1004,1006) at 1005: 1", "[1009,1011) at 1010: 1", "[10,13) at 12: 2", "[5,10) at 9: 4"} {
			want = append(want, fmt.Sprintf("k%d %s", k, group))
		}
	}
	slices.Sort(want)
	if got := w.written(); !slices.Equal(got, want) {
		t.Errorf("groups\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if calls, bundles := w.calls.Load(), w.bundles.Load(); bundles > 2 || calls > bundles {
		t.Errorf("%d bundles with %d calls for keys that all have the same windows, in 2 tasks", bundles, calls)
	}
}

func TestFailingWindowFunctions(t *testing.T) {
	for name, c := range map[string]struct {
		fn    windowFn
		class fault.Class
		text  string
	}{
		"user's error": {func([]byte) ([]byte, error) { return nil, errors.New("the user's own words") }, fault.UserCode, "the user's own words"},
		"left out":     {func([]byte) ([]byte, error) { return make([]byte, 8), nil }, fault.Invalid, "left it out"},
		"garbage":      {func([]byte) ([]byte, error) { return []byte("??"), nil }, fault.Corruption, "answer"},
	} {
		t.Run(name, func(t *testing.T) {
			w := mergingJob(t, 30, c.fn)
			r := newRig(t, w.script)
			r.deployment.Parallelism = 1
			_, err := r.run(w.p.plan)
			wantError(t, err, c.class, c.text, "merging windows", "4 times")
			if n := w.bundles.Load(); n != 4 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

func TestWindowCallsSurviveALostHarness(t *testing.T) {
	w := mergingJob(t, 30, intersecting)
	w.before = func(me *process, n int64) error {
		if n <= 2 {
			me.die(errCrash)
			<-me.stop
		}
		return nil
	}
	r := newRig(t, w.script)
	r.deployment.Parallelism = 1
	r.mustRun(w.p.plan)
	if got := w.written(); len(got) != 10 {
		t.Errorf("groups %q", got)
	}
}

func TestCancelDuringAWindowCall(t *testing.T) {
	w := mergingJob(t, 30, intersecting)
	cancelled(t, w.p, func(r *rig, cancel func()) {
		w.before = func(me *process, _ int64) error {
			cancel()
			<-me.stop
			return nil
		}
		r.launcher.script = w.script
	})
}

// The job waits while its windows are mapped.
func TestMappingWindows(t *testing.T) {
	p := portabletest.New()
	in := p.ParDo("in", pEnv, pBytes, p.Impulse("impulse"))
	side := p.ParDo("side", pEnv, pBytes, p.Impulse("another impulse"))
	withWindows(p, pipepb.MergeStatus_NON_MERGING, "test:windows", in, side)
	payload := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{"i1": {
		AccessPattern:   &pipepb.FunctionSpec{Urn: urns.SideInputIterable},
		WindowMappingFn: &pipepb.FunctionSpec{Urn: "test:mapping"},
	}}}
	p.Transform("use", urns.TransformParDo, pEnv, payload, pBytes, in, side)
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := &windowCalls{fn: func(window []byte) ([]byte, error) {
		d, _, err := windowing.DecodeInterval(window)
		if err != nil || d.Start < 0 {
			return nil, fmt.Errorf("no window before %d: %w", d.Start, err)
		}
		return windowing.Interval{Start: d.Start / 100 * 100, End: d.Start/100*100 + 100}.Append(nil), nil
	}}
	w.p = compile(t, p, map[string]doFn{
		"in": func(*call) error {
			once.Do(func() { close(held) })
			<-hold
			return nil
		},
		"side": func(*call) error { return nil },
		"use":  collector,
	})
	r := newRig(t, w.script)
	e := r.deploy(t.Context(), w.p.plan)
	<-held
	var mapping plan.WindowMapping
	for _, s := range w.p.plan.Stages {
		if s.Exec != nil && len(s.Exec.SideInputs) > 0 {
			mapping = s.Exec.SideInputs[0].Mapping
		}
	}
	windows := map[int64]string{5: "[0,100)", 99: "[0,100)", 250: "[200,300)"}
	for range 2 {
		for _, start := range slices.Sorted(maps.Keys(windows)) {
			mapped, err := e.(*execution).mapWindow(t.Context(), mapping, windowing.Interval{Start: start, End: start + 1}.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			d, _, err := windowing.DecodeInterval(mapped)
			if got := fmt.Sprintf("[%d,%d)", d.Start, d.End); err != nil || got != windows[start] {
				t.Errorf("a window at %d is mapped to %s, %v", start, got, err)
			}
		}
	}
	if n := w.calls.Load(); n != 3 {
		t.Errorf("%d calls for 3 windows", n)
	}
	_, err := e.(*execution).mapWindow(t.Context(), mapping, windowing.Interval{Start: -1, End: 1}.Append(nil))
	wantError(t, err, fault.UserCode, "no window before -1", "4 times")
	close(hold)
	if err := r.wait(e); err != nil {
		t.Error(err)
	}
}

func TestMappingWindowsWithoutTheSDK(t *testing.T) {
	interval := windowing.Interval{Start: 10, End: 25}.Append(nil)
	all := map[string]*pipepb.Coder{"w": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderIntervalWindow}}}
	coder, err := coders.Compile("w", all)
	if err != nil {
		t.Fatal(err)
	}
	main := &windowing.Strategy{Kind: windowing.Custom, WindowCoder: coder}
	fixed := &windowing.Strategy{Kind: windowing.Fixed, Size: 10}
	var e execution
	for name, c := range map[string]struct {
		mapping plan.WindowMapping
		want    []byte
	}{
		"global":   {plan.WindowMapping{Main: main, Windowing: &windowing.Strategy{Kind: windowing.Global}}, nil},
		"identity": {plan.WindowMapping{Identity: true, Main: main, Windowing: fixed}, interval},
		"fixed":    {plan.WindowMapping{Main: main, Windowing: fixed}, windowing.Interval{Start: 20, End: 30}.Append(nil)},
	} {
		got, err := e.mapWindow(context.Background(), c.mapping, interval)
		if err != nil || string(got) != string(c.want) {
			t.Errorf("%s: %x, %v, want %x", name, got, err, c.want)
		}
	}
	sparse := &windowing.Strategy{Kind: windowing.Sliding, Size: 1, Period: 1000}
	_, err = e.mapWindow(context.Background(), plan.WindowMapping{Main: main, Windowing: sparse}, interval)
	wantError(t, err, fault.Invalid, "24 ms")
}
