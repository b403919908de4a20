package portable_test

import (
	"context"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// counting is the payload of a DoFn that keeps a bag.
func counting() *pipepb.ParDoPayload {
	return &pipepb.ParDoPayload{StateSpecs: map[string]*pipepb.StateSpec{
		"seen": {Spec: &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: Bytes}}},
	}}
}

// timing is the payload of a DoFn that sets timers of families by time domain.
func timing(families map[string]pipepb.TimeDomain_Enum) *pipepb.ParDoPayload {
	p := &pipepb.ParDoPayload{TimerFamilySpecs: map[string]*pipepb.TimerFamilySpec{}}
	for name, domain := range families {
		p.TimerFamilySpecs[name] = &pipepb.TimerFamilySpec{TimeDomain: domain, TimerFamilyCoderId: "timer"}
	}
	return p
}

// A stateful DoFn gets its elements by key and begins a stage: neither its
// producer nor a sibling runs with it, as those see elements of all keys on any
// task. What consumes its output may.
func TestStatefulBeginsAStage(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, KV, p.Impulse("impulse"))
	p.ParDo("sibling", Env, Bytes, a)
	s := p.ParDoWith("s", Env, counting(), KV, a)
	p.ParDoWith("twin", Env, counting(), Bytes, a)
	p.ParDo("after", Env, Bytes, s)
	p.ParDoWith("again", Env, counting(), Bytes, s)
	pl := wantShape(t, p, `
s0 impulse
s1 executable a,sibling <forward s0
s2 executable s,after <keyed s1
s3 executable twin <keyed s1
s4 executable again <keyed s2
`)
	for _, s := range pl.Stages {
		want := s.ID == "s2" || s.ID == "s3" || s.ID == "s4"
		if got := s.Exec != nil && s.Exec.Stateful != nil; got != want {
			t.Errorf("%s is stateful: %v", s.ID, got)
		}
	}
}

func TestStatefulBehindRunnerStages(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, KV, p.Impulse("impulse"))
	p.ParDoWith("spread", Env, counting(), Bytes, p.Reshuffle("r", KV, a))
	p.ParDoWith("grouped", Env, counting(), Bytes, p.GroupByKey("g", a))
	p.ParDoWith("none", Env, counting(), Bytes, p.Flatten("f", KV))
	p.ParDoWith("both", Env, counting(), Bytes, p.Flatten("f2", KV, a, a))
	wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 executable spread <keyed s1
s3 group-by-key <keyed s1
s4 executable grouped <keyed s3
s5 executable none
s6 executable both <keyed s1 <keyed s1
`)
}

func TestStatefulSpec(t *testing.T) {
	p := New()
	p.Coder("timer", urns.CoderTimer, Bytes, Global)
	payload := timing(map[string]pipepb.TimeDomain_Enum{
		"b": pipepb.TimeDomain_PROCESSING_TIME, "a": pipepb.TimeDomain_EVENT_TIME, "end": pipepb.TimeDomain_EVENT_TIME})
	payload.OnWindowExpirationTimerFamilySpec = "end"
	p.ParDoWith("s", Env, payload, Bytes, p.ParDo("a", Env, KV, p.Impulse("i")))
	p.Get("s").UniqueName = "My/Stateful"
	got := stageOf(t, compile(t, p), "s").Exec.Stateful
	if got.Transform != "s" || got.Name != "My/Stateful" || got.Expiration != "end" {
		t.Errorf("transform %q, name %q, expiration %q", got.Transform, got.Name, got.Expiration)
	}
	want := []plan.TimerFamily{{Name: "a"}, {Name: "b", ProcessingTime: true}, {Name: "end"}}
	if diff := cmp.Diff(want, got.Timers); diff != "" {
		t.Errorf("families (-want +got):\n%s", diff)
	}
	if end, err := got.Windowing.MaxTimestamp(nil); err != nil || end != 9223371950454775 {
		t.Errorf("the global window ends at %d, %v", end, err)
	}
}

// A key's bytes are its identity, so elements, requests for state and timers
// have to write it alike: with a prefix where its coder is the SDK's own.
func TestKeysOfStateAndTimersAreThoseOfElements(t *testing.T) {
	for name, c := range map[string]struct{ key, window, want string }{
		"known":         {Bytes, Global, "timer(bytes,global_window)"},
		"unknown key":   {Opaque, Global, "timer(length_prefix(opaque),global_window)"},
		"other's key":   {"varint", Global, "timer(length_prefix(varint),global_window)"},
		"unknown parts": {"list", Global, "timer(iterable(length_prefix(opaque)),global_window)"},
		"unknown both":  {Opaque, "opaqueWindow", "timer(length_prefix(opaque),custom_window(length_prefix(opaque)))"},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			p.Coder("varint", urns.CoderVarint)
			p.Coder("list", urns.CoderIterable, Opaque)
			p.Coder("opaqueWindow", "test:coder:opaque")
			p.Coder("input", urns.CoderKV, c.key, Bytes)
			p.Coder("timer", urns.CoderTimer, c.key, c.window)
			p.Proto.Components.WindowingStrategies[Global].WindowCoderId = c.window
			if c.window != Global {
				p.Proto.Components.WindowingStrategies[Global].WindowFn.Urn = "test:windows"
				env := p.Proto.Components.Environments[Env]
				env.Capabilities = append(env.Capabilities, urns.CoderCustomWindow)
			}
			from := Env
			if c.key == "varint" {
				from = Other // which does not know it
			}
			payload := timing(map[string]pipepb.TimeDomain_Enum{"f": pipepb.TimeDomain_EVENT_TIME, "g": pipepb.TimeDomain_PROCESSING_TIME})
			p.ParDoWith("s", Env, payload, Bytes, p.ParDo("a", from, "input", p.Impulse("i")))
			s := stageOf(t, compile(t, p), "s")
			d := s.Exec.Descriptor
			var sent pipepb.ParDoPayload
			if err := proto.Unmarshal(d.Transforms["s"].GetSpec().GetPayload(), &sent); err != nil {
				t.Fatal(err)
			}
			for family, spec := range sent.GetTimerFamilySpecs() {
				wantCoder(t, "timer family "+family, coderText(d.Coders, spec.GetTimerFamilyCoderId()), c.want)
			}
			if len(sent.GetTimerFamilySpecs()) != 2 {
				t.Errorf("families %v", sent.GetTimerFamilySpecs())
			}
			key := c.want[len("timer(") : len(c.want)-len(")")]
			wantCoder(t, "source", "timer("+withoutValue(portCoder(t, s, s.Exec.Source))+")", c.want)
			// StateKeys are written with the key coder that the SDK finds at the input.
			wantCoder(t, "input in the SDK", "windowed_value("+coderText(d.Coders, d.Pcollections["a.out"].CoderId)+")",
				"windowed_value(kv("+key[:len(key)-len(windowOf(key))-1]+",bytes))")
			if p.Proto.Components.Coders["timer"].ComponentCoderIds[0] != c.key {
				t.Error("the pipeline was changed")
			}
		})
	}
}

// withoutValue makes "key,window" of "windowed_value(kv(key,bytes),window)".
func withoutValue(coder string) string {
	inner := coder[len("windowed_value(kv(") : len(coder)-len(")")]
	w := windowOf(inner)
	return inner[:len(inner)-len(",bytes),")-len(w)] + "," + w
}

// windowOf returns what follows the last comma outside of brackets.
func windowOf(s string) string {
	depth := 0
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == ')':
			depth++
		case s[i] == '(':
			depth--
		case s[i] == ',' && depth == 0:
			return s[i+1:]
		}
	}
	return s
}

func TestStateCodersAreDescribed(t *testing.T) {
	p := New()
	for _, id := range []string{"value", "bag", "sum", "mapKey", "mapValue", "set", "ordered", "multiKey", "multiValue"} {
		p.Coder(id, urns.CoderIterable, id+"Part")
		p.Coder(id+"Part", "test:coder:"+id)
	}
	spec := func(s *pipepb.StateSpec) *pipepb.StateSpec { return s }
	payload := &pipepb.ParDoPayload{StateSpecs: map[string]*pipepb.StateSpec{
		"1": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_ReadModifyWriteSpec{ReadModifyWriteSpec: &pipepb.ReadModifyWriteStateSpec{CoderId: "value"}}}),
		"2": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: "bag"}}}),
		"3": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_CombiningSpec{CombiningSpec: &pipepb.CombiningStateSpec{AccumulatorCoderId: "sum"}}}),
		"4": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_MapSpec{MapSpec: &pipepb.MapStateSpec{KeyCoderId: "mapKey", ValueCoderId: "mapValue"}}}),
		"5": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_SetSpec{SetSpec: &pipepb.SetStateSpec{ElementCoderId: "set"}}}),
		"6": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_OrderedListSpec{OrderedListSpec: &pipepb.OrderedListStateSpec{ElementCoderId: "ordered"}}}),
		"7": spec(&pipepb.StateSpec{Spec: &pipepb.StateSpec_MultimapSpec{MultimapSpec: &pipepb.MultimapStateSpec{KeyCoderId: "multiKey", ValueCoderId: "multiValue"}}}),
	}}
	p.ParDoWith("s", Env, payload, Bytes, p.ParDo("a", Env, KV, p.Impulse("i")))
	d := stageOf(t, compile(t, p), "s").Exec.Descriptor
	for _, id := range []string{"value", "bag", "sum", "mapKey", "mapValue", "set", "ordered", "multiKey", "multiValue"} {
		if d.Coders[id] == nil || d.Coders[id+"Part"] == nil {
			t.Errorf("coder %q or its component is not in the descriptor", id)
		}
	}
}

func TestStatefulRefusals(t *testing.T) {
	event := map[string]pipepb.TimeDomain_Enum{"f": pipepb.TimeDomain_EVENT_TIME}
	add := func(payload *pipepb.ParDoPayload, coder string) func(p *Pipeline) {
		return func(p *Pipeline) {
			p.ParDoWith("x", Env, payload, Bytes, p.ParDo("in", Env, coder, p.Impulse("i2")))
		}
	}
	splittable := counting()
	splittable.RestrictionCoderId = Opaque
	broken(t, "splittable", fault.Unsupported, add(splittable, KV), `"x"`, "splittable")
	unspecified := timing(map[string]pipepb.TimeDomain_Enum{"f": pipepb.TimeDomain_UNSPECIFIED})
	broken(t, "time domain", fault.Unsupported, add(unspecified, KV), `"x"`, `"f"`, "UNSPECIFIED")
	broken(t, "state without keys", fault.Invalid, add(counting(), Bytes), `"x"`, `"in.out"`, "KV")
	broken(t, "timers without keys", fault.Invalid, add(timing(event), Opaque), `"x"`, `"in.out"`, "KV")
	expiring := timing(event)
	expiring.OnWindowExpirationTimerFamilySpec = "g"
	broken(t, "expiration", fault.Invalid, add(expiring, KV), `"x"`, `"g"`)
	state := counting()
	state.OnWindowExpirationTimerFamilySpec = "g"
	broken(t, "expiration without families", fault.Invalid, add(state, KV), `"x"`, `"g"`)
	missing := &pipepb.ParDoPayload{StateSpecs: map[string]*pipepb.StateSpec{
		"seen": {Spec: &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: "nowhere"}}}}}
	broken(t, "state coder", fault.Invalid, add(missing, KV), `"x"`, `"seen"`, `"nowhere"`)
	broken(t, "clock for windows", fault.Invalid, func(p *Pipeline) {
		payload := timing(map[string]pipepb.TimeDomain_Enum{"f": pipepb.TimeDomain_PROCESSING_TIME})
		payload.OnWindowExpirationTimerFamilySpec = "f"
		add(payload, KV)(p)
	}, `"x"`, `"f"`)
	if _, err := portable.Compile(context.Background(), New().Proto, portable.Options{}); err != nil {
		t.Error(err)
	}
}
