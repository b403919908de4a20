package panes

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

var components = map[string]*pipepb.Coder{
	"bytes":    {Spec: &pipepb.FunctionSpec{Urn: urns.CoderBytes}},
	"varint":   {Spec: &pipepb.FunctionSpec{Urn: urns.CoderVarint}},
	"global":   {Spec: &pipepb.FunctionSpec{Urn: urns.CoderGlobalWindow}},
	"interval": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderIntervalWindow}},
	"kv":       {Spec: &pipepb.FunctionSpec{Urn: urns.CoderKV}, ComponentCoderIds: []string{"bytes", "varint"}},
	"values":   {Spec: &pipepb.FunctionSpec{Urn: urns.CoderIterable}, ComponentCoderIds: []string{"varint"}},
	"groups":   {Spec: &pipepb.FunctionSpec{Urn: urns.CoderKV}, ComponentCoderIds: []string{"bytes", "values"}},
}

func compile(t testing.TB, id string) *coders.Coder {
	t.Helper()
	c, err := coders.Compile(id, components)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Strategies of tests.

type strategy = pipepb.WindowingStrategy

func strategyOf(t testing.TB, urn string, payload proto.Message, window string) *strategy {
	t.Helper()
	ws := &strategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urn},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    window,
		Trigger:          atEnd(),
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_ALWAYS,
	}
	if payload != nil {
		b, err := proto.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		ws.WindowFn.Payload = b
	}
	return ws
}

func fixed(t testing.TB, ms int64) *strategy {
	return strategyOf(t, urns.WindowFnFixed, &pipepb.FixedWindowsPayload{Size: durationpb.New(time.Duration(ms) * time.Millisecond)}, "interval")
}

func sessions(t testing.TB, ms int64) *strategy {
	ws := strategyOf(t, urns.WindowFnSession, &pipepb.SessionWindowsPayload{GapSize: durationpb.New(time.Duration(ms) * time.Millisecond)}, "interval")
	ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	return ws
}

func global(t testing.TB) *strategy { return strategyOf(t, urns.WindowFnGlobal, nil, "global") }

func atEnd() *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
}

func count(n int32) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: n}}}
}

func repeat(sub *pipepb.Trigger) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: sub}}}
}

func afterEnd(early, late *pipepb.Trigger) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{
		AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{EarlyFirings: early, LateFirings: late}}}
}

func afterDelay(ms int64) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{
		TimestampTransforms: []*pipepb.TimestampTransform{{TimestampTransform: &pipepb.TimestampTransform_Delay_{
			Delay: &pipepb.TimestampTransform_Delay{DelayMillis: ms}}}}}}}
}

// rig drives a Panes.
type rig struct {
	t         testing.TB
	p         *Panes
	cfg       Config
	strategy  *windowing.Strategy
	groups    *coders.Windowed
	watermark int64
	now       int64
	// restoring: wherever it can, the rig goes on from a snapshot.
	restoring bool
}

func newRig(t testing.TB, ws *strategy, memory int64) *rig {
	t.Helper()
	s, err := windowing.FromProto(ws, components)
	if err != nil {
		t.Fatal(err)
	}
	in, err := coders.NewWindowed(compile(t, "kv"), s.WindowCoder)
	if err != nil {
		t.Fatal(err)
	}
	out, err := coders.NewWindowed(compile(t, "groups"), s.WindowCoder)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, strategy: s, groups: out, watermark: coders.MinTimestamp}
	r.cfg = Config{Input: in, Windowing: s, Scope: "Group", Store: newMemory(t), MemoryBytes: memory, KeyGroups: 16}
	r.reopen()
	return r
}

func newMemory(t testing.TB) statebackend.Store {
	store, err := memstate.New().Open("test")
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// reopen makes a new Panes of what the store has.
func (r *rig) reopen() {
	r.t.Helper()
	p, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.p = p
	r.must(p.Advance(r.watermark, r.time()))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// windows returns the windows that the strategy's function assigns.
func (r *rig) windows(timestamp int64) [][]byte {
	switch s := r.strategy; s.Kind {
	case windowing.Global:
		return [][]byte{{}}
	case windowing.Session:
		return [][]byte{windowing.Interval{Start: timestamp, End: timestamp + s.Gap}.Append(nil)}
	case windowing.Sliding:
		var out [][]byte
		start := timestamp - timestamp%s.Period
		for ; start > timestamp-s.Size; start -= s.Period {
			out = append(out, windowing.Interval{Start: start, End: start + s.Size}.Append(nil))
		}
		return out
	default:
		w, ok := s.WindowAt(nil, timestamp)
		if !ok {
			r.t.Fatalf("no window at %d", timestamp)
		}
		return [][]byte{w}
	}
}

// element is an input with a timestamp, which is its value too.
func (r *rig) element(dst []byte, key string, timestamp int64) []byte {
	windows := r.windows(timestamp)
	dst = coders.AppendHeader(dst, timestamp, len(windows), slices.Concat(windows...), []byte{coders.PaneNoFiring})
	dst = coders.AppendBytes(dst, []byte(key))
	return coders.AppendVarint(dst, timestamp)
}

func (r *rig) add(key string, timestamps ...int64) []pane {
	r.t.Helper()
	var block []byte
	for _, ts := range timestamps {
		block = r.element(block, key, ts)
	}
	r.must(r.p.Add(block, r.time()))
	r.restored()
	return r.read()
}

func (r *rig) advance(watermark int64) []pane {
	r.t.Helper()
	r.watermark = max(r.watermark, watermark)
	r.must(r.p.Advance(r.watermark, r.time()))
	r.restored()
	return r.read()
}

func (r *rig) clock(now int64) []pane {
	r.t.Helper()
	r.now = max(r.now, now)
	return r.advance(r.watermark)
}

// pane is what was read.
type pane struct {
	Key       string
	Window    [2]int64 // start and maximum timestamp
	Values    []int64  // sorted
	Timestamp int64
	Info      coders.Pane
}

func (p pane) String() string {
	flags := [...]string{"early", "on time", "late", "unknown"}[p.Info.Timing]
	if p.Info.First {
		flags += " first"
	}
	if p.Info.Last {
		flags += " last"
	}
	return fmt.Sprintf("%s [%d %d] %v @%d %s %d/%d", p.Key, p.Window[0], p.Window[1], p.Values, p.Timestamp, flags, p.Info.Index, p.Info.OnTimeIndex)
}

// read reads what has fired, by key, window and index.
func (r *rig) read() []pane {
	r.t.Helper()
	var out []pane
	for {
		f, ok, err := r.p.Next(100)
		r.must(err)
		r.restored()
		if !ok {
			break
		}
		n, least, err := r.groups.Count(f.Data)
		r.must(err)
		if n != f.Elements || least != f.MinTimestamp {
			r.t.Fatalf("a frame of %d elements from %d on says %d from %d on", n, least, f.Elements, f.MinTimestamp)
		}
		for rest := f.Data; len(rest) > 0; {
			var e coders.Element
			r.must(r.groups.Next(rest, &e))
			out = append(out, r.pane(&e))
			rest = rest[e.Size:]
		}
	}
	slices.SortStableFunc(out, func(a, b pane) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), slices.Compare(a.Window[:], b.Window[:]), cmp.Compare(a.Info.Index, b.Info.Index))
	})
	return out
}

func (r *rig) pane(e *coders.Element) pane {
	r.t.Helper()
	out := pane{Key: string(e.Key[1:]), Timestamp: e.Timestamp}
	var err error
	out.Info, _, err = coders.DecodePane(e.Pane)
	r.must(err)
	if len(e.Windows) == 0 {
		out.Window[1] = coders.EndOfGlobalWindow
	} else {
		w, _, err := windowing.DecodeInterval(e.Windows)
		r.must(err)
		out.Window = [2]int64{w.Start, w.MaxTimestamp()}
	}
	n := binary.BigEndian.Uint32(e.Value)
	for rest := e.Value[4:]; len(rest) > 0; n-- {
		v, size, err := coders.Varint(rest)
		r.must(err)
		out.Values = append(out.Values, v)
		rest = rest[size:]
	}
	if n != 0 {
		r.t.Fatalf("%d values too few", n)
	}
	slices.Sort(out.Values)
	return out
}

func (r *rig) expect(what string, got []pane, want ...string) {
	r.t.Helper()
	var text []string
	for _, p := range got {
		text = append(text, p.String())
	}
	if !slices.Equal(text, want) {
		r.t.Errorf("%s: %q, not %q", what, text, want)
	}
}

func TestDefaultTriggerInFixedWindows(t *testing.T) {
	ws := fixed(t, 10)
	ws.AllowedLateness = 20
	r := newRig(t, ws, 0)
	r.expect("input", r.add("k", 1, 2, 12))
	r.expect("input", r.add("l", 3))
	if h := r.p.Hold(); h != 9 {
		t.Errorf("holds %d", h)
	}
	r.expect("at the end", r.advance(9))
	r.expect("past the end", r.advance(10), "k [0 9] [1 2] @9 on time first 0/0", "l [0 9] [3] @9 on time first 0/0")
	if h := r.p.Hold(); h != 19 {
		t.Errorf("holds %d", h)
	}
	r.expect("late", r.add("k", 4, 5), "k [0 9] [4] @9 late 1/1", "k [0 9] [5] @9 late 2/2")
	r.expect("end", r.advance(coders.MaxTimestamp), "k [10 19] [12] @19 on time first last 0/0")
	r.expect("too late", r.add("k", 4))
	if s := r.p.Stats(); s.LateDropped != 1 || s.MemoryBytes != 0 || s.Fired != 5 {
		t.Errorf("%+v", s)
	}
	if h := r.p.Hold(); h != none {
		t.Errorf("holds %d", h)
	}
}

func (r *rig) time() time.Time { return time.UnixMilli(r.now) }

func hex(b []byte) string { return fmt.Sprintf("%x", b) }
