package windowing

import (
	"math"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
)

var (
	defaultTrigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
	always         = &pipepb.Trigger{Trigger: &pipepb.Trigger_Always_{Always: &pipepb.Trigger_Always{}}}
)

func afterEnd(early, late *pipepb.Trigger) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{
		AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{EarlyFirings: early, LateFirings: late}}}
}

func coder(urn string, components ...string) *pipepb.Coder {
	return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
}

var components = map[string]*pipepb.Coder{
	"global":   coder(urns.CoderGlobalWindow),
	"interval": coder(urns.CoderIntervalWindow),
	"opaque":   coder(urns.CoderLengthPrefix, "mine"),
	"custom":   coder(urns.CoderCustomWindow, "opaque"),
	"mine":     coder("beam:coder:mine:v1"),
}

// strategy returns a well-formed strategy that tests may change.
func strategy(t testing.TB, urn string, payload proto.Message, windowCoder string) *pipepb.WindowingStrategy {
	ws := &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urn},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    windowCoder,
		Trigger:          defaultTrigger,
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
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

func global(t testing.TB) *pipepb.WindowingStrategy {
	return strategy(t, urns.WindowFnGlobal, nil, "global")
}

func fixed(t testing.TB, p *pipepb.FixedWindowsPayload) *pipepb.WindowingStrategy {
	return strategy(t, urns.WindowFnFixed, p, "interval")
}

func sessions(t testing.TB) *pipepb.WindowingStrategy {
	ws := strategy(t, urns.WindowFnSession, &pipepb.SessionWindowsPayload{GapSize: durationpb.New(time.Minute)}, "interval")
	ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	return ws
}

func TestFromProto(t *testing.T) {
	rich := fixed(t, &pipepb.FixedWindowsPayload{Size: durationpb.New(time.Minute), Offset: timestamppb.New(time.UnixMilli(-1500))})
	rich.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	rich.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE
	rich.AllowedLateness = 7
	rich.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
	rich.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_ALWAYS
	rich.Trigger = always
	sliding := strategy(t, urns.WindowFnSliding, &pipepb.SlidingWindowsPayload{
		Size: durationpb.New(time.Minute), Period: durationpb.New(250 * time.Millisecond), Offset: timestamppb.New(time.UnixMilli(5))}, "interval")
	sliding.OutputTime = pipepb.OutputTime_LATEST_IN_PANE
	merged := sessions(t)
	merged.MergeStatus = pipepb.MergeStatus_ALREADY_MERGED
	custom := strategy(t, "my:window_fn", nil, "custom")
	custom.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	for name, test := range map[string]struct {
		ws   *pipepb.WindowingStrategy
		want Strategy
	}{
		"global":  {global(t), Strategy{Kind: Global, DefaultTrigger: true}},
		"fixed":   {rich, Strategy{Kind: Fixed, Size: 60000, Offset: -1500, Accumulating: true, Combiner: Earliest, AllowedLateness: 7, EmptyFinal: true, EmptyOnTime: true}},
		"sliding": {sliding, Strategy{Kind: Sliding, Size: 60000, Period: 250, Offset: 5, Combiner: Latest, DefaultTrigger: true}},
		"session": {sessions(t), Strategy{Kind: Session, Merging: true, Gap: 60000, DefaultTrigger: true}},
		"merged":  {merged, Strategy{Kind: Session, Gap: 60000, DefaultTrigger: true}},
		"custom":  {custom, Strategy{Kind: Custom, Merging: true, DefaultTrigger: true}},
	} {
		got, err := FromProto(test.ws, components)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Trigger != test.ws.GetTrigger() || got.WindowCoder.URN() != components[test.ws.GetWindowCoderId()].GetSpec().GetUrn() {
			t.Errorf("%s: trigger %v, window coder %s", name, got.Trigger, got.WindowCoder.URN())
		}
		got.Trigger, got.WindowCoder = nil, nil
		if *got != test.want {
			t.Errorf("%s: %+v, not %+v", name, *got, test.want)
		}
	}
}

func TestFromProtoRefuses(t *testing.T) {
	minute := durationpb.New(time.Minute)
	valid := &pipepb.FixedWindowsPayload{Size: minute}
	for name, test := range map[string]struct {
		ws     *pipepb.WindowingStrategy
		change func(*pipepb.WindowingStrategy)
		class  fault.Class
	}{
		"nothing":           {&pipepb.WindowingStrategy{}, nil, fault.Invalid},
		"no trigger":        {global(t), func(ws *pipepb.WindowingStrategy) { ws.Trigger = &pipepb.Trigger{} }, fault.Invalid},
		"negative lateness": {global(t), func(ws *pipepb.WindowingStrategy) { ws.AllowedLateness = -1 }, fault.Invalid},
		"no window fn":      {global(t), func(ws *pipepb.WindowingStrategy) { ws.WindowFn = nil }, fault.Invalid},
		"no merge status":   {global(t), func(ws *pipepb.WindowingStrategy) { ws.MergeStatus = 0 }, fault.Invalid},
		"merging global":    {global(t), func(ws *pipepb.WindowingStrategy) { ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE }, fault.Invalid},
		"lonely sessions":   {sessions(t), func(ws *pipepb.WindowingStrategy) { ws.MergeStatus = pipepb.MergeStatus_NON_MERGING }, fault.Invalid},
		"no mode":           {global(t), func(ws *pipepb.WindowingStrategy) { ws.AccumulationMode = 0 }, fault.Invalid},
		"retracting": {global(t), func(ws *pipepb.WindowingStrategy) {
			ws.AccumulationMode = pipepb.AccumulationMode_RETRACTING
		}, fault.Unsupported},
		"no output time":       {global(t), func(ws *pipepb.WindowingStrategy) { ws.OutputTime = 0 }, fault.Invalid},
		"missing coder":        {global(t), func(ws *pipepb.WindowingStrategy) { ws.WindowCoderId = "?" }, fault.Invalid},
		"unknown coder":        {strategy(t, "my:window_fn", nil, "mine"), nil, fault.Unsupported},
		"wrong coder":          {global(t), func(ws *pipepb.WindowingStrategy) { ws.WindowCoderId = "interval" }, fault.Invalid},
		"fixed of global":      {fixed(t, valid), func(ws *pipepb.WindowingStrategy) { ws.WindowCoderId = "global" }, fault.Invalid},
		"no payload":           {fixed(t, nil), nil, fault.Invalid},
		"payload of nonsense":  {fixed(t, valid), func(ws *pipepb.WindowingStrategy) { ws.WindowFn.Payload = []byte{0xFF} }, fault.Invalid},
		"negative size":        {fixed(t, &pipepb.FixedWindowsPayload{Size: durationpb.New(-time.Minute)}), nil, fault.Invalid},
		"microseconds":         {fixed(t, &pipepb.FixedWindowsPayload{Size: durationpb.New(1500 * time.Microsecond)}), nil, fault.Unsupported},
		"size out of range":    {fixed(t, &pipepb.FixedWindowsPayload{Size: &durationpb.Duration{Seconds: math.MaxInt64}}), nil, fault.Invalid},
		"offset out of range":  {fixed(t, &pipepb.FixedWindowsPayload{Size: minute, Offset: &timestamppb.Timestamp{Seconds: math.MinInt64}}), nil, fault.Invalid},
		"nanos out of range":   {fixed(t, &pipepb.FixedWindowsPayload{Size: &durationpb.Duration{Nanos: 2e9}}), nil, fault.Invalid},
		"sliding by nothing":   {strategy(t, urns.WindowFnSliding, &pipepb.SlidingWindowsPayload{Size: minute}, "interval"), nil, fault.Invalid},
		"sessions without gap": {strategy(t, urns.WindowFnSession, nil, "interval"), nil, fault.Invalid},
	} {
		if test.change != nil {
			test.change(test.ws)
		}
		if _, err := FromProto(test.ws, components); err == nil || fault.ClassOf(err) != test.class {
			t.Errorf("%s: %v (%v), want %v", name, err, fault.ClassOf(err), test.class)
		}
	}
}

func TestMaxTimestamp(t *testing.T) {
	read := func(ws *pipepb.WindowingStrategy) *Strategy {
		s, err := FromProto(ws, components)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	minutes := read(fixed(t, &pipepb.FixedWindowsPayload{Size: durationpb.New(time.Minute)}))
	custom := read(strategy(t, "my:window_fn", nil, "custom"))
	opaque := read(strategy(t, "my:window_fn", nil, "opaque"))
	interval := Interval{0, 60000}.Append(nil)
	for name, test := range map[string]struct {
		s      *Strategy
		window []byte
		want   int64
		class  fault.Class
	}{
		"global":       {s: read(global(t)), want: 9223371950454775},
		"interval":     {s: minutes, window: interval, want: 59999},
		"custom":       {s: custom, window: coders.AppendBytes(coders.AppendTimestamp(nil, 1234), []byte("w")), want: 1234},
		"opaque":       {s: opaque, window: []byte{1, 'w'}, class: fault.Unsupported},
		"cut":          {s: minutes, window: interval[:9], class: fault.Corruption},
		"two":          {s: minutes, window: append(interval, interval...), class: fault.Corruption},
		"not global":   {s: read(global(t)), window: []byte{0}, class: fault.Corruption},
		"out of order": {s: minutes, window: coders.AppendVarint(coders.AppendTimestamp(nil, 0), -1), class: fault.Corruption},
	} {
		got, err := test.s.MaxTimestamp(test.window)
		if err == nil && (test.class != 0 || got != test.want) || err != nil && fault.ClassOf(err) != test.class {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

func TestTimestampCombiners(t *testing.T) {
	for c, want := range map[TimestampCombiner]int64{EndOfWindow: 99, Earliest: -3, Latest: 20} {
		acc := int64(5)
		for _, ts := range []int64{20, -3, 7} {
			acc = c.Combine(acc, ts)
		}
		if got := c.Finish(acc, 99); got != want {
			t.Errorf("combiner %d: %d, not %d", c, got, want)
		}
	}
}

func TestFiresOnceOnBoundedInput(t *testing.T) {
	repeat := func(sub *pipepb.Trigger) *pipepb.Trigger {
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: sub}}}
	}
	for name, test := range map[string]struct {
		trigger *pipepb.Trigger
		want    bool
	}{
		"default":                 {defaultTrigger, true},
		"never":                   {&pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}, true},
		"after the end":           {afterEnd(nil, nil), true},
		"after the end, and late": {afterEnd(nil, always), true},
		"early":                   {afterEnd(always, nil), false},
		"always":                  {always, false},
		"repeated":                {repeat(afterEnd(nil, nil)), false},
	} {
		ws := global(t)
		ws.Trigger = test.trigger
		s, err := FromProto(ws, components)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.FiresOnceOnBoundedInput(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
