package portable_test

import (
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// windowed adds a windowing strategy like the global one with another function.
func windowed(p *Pipeline, id string, fn *pipepb.FunctionSpec, coder string) *pipepb.WindowingStrategy {
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[Global]).(*pipepb.WindowingStrategy)
	ws.WindowFn, ws.WindowCoderId = fn, coder
	p.Proto.Components.WindowingStrategies[id] = ws
	return ws
}

func in(p *Pipeline, strategy string, pcollections ...string) {
	for _, id := range pcollections {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = strategy
	}
}

// groupOf returns what a GroupByKey does.
func groupOf(t *testing.T, p *plan.Plan, transform string) *plan.GroupSpec {
	t.Helper()
	for _, s := range p.Stages {
		if s.Group != nil && s.Transforms[0] == transform {
			return s.Group
		}
	}
	t.Fatalf("no stage groups for %q", transform)
	return nil
}

// wantCall checks the one transform of a call, and what goes in and out.
func wantCall(t *testing.T, c *plan.Call, env, urn string, fn *pipepb.FunctionSpec, input, output string) {
	t.Helper()
	if c == nil {
		t.Fatal("no call")
	}
	if c.Environment != env || len(c.Descriptor.Environments) != 1 || c.Descriptor.Environments[env] == nil {
		t.Errorf("the call is for environment %q, with descriptions of %v", c.Environment, c.Descriptor.Environments)
	}
	call := c.Descriptor.Transforms["call"]
	var got pipepb.FunctionSpec
	if err := proto.Unmarshal(call.GetSpec().GetPayload(), &got); err != nil || !proto.Equal(&got, fn) {
		t.Errorf("the payload is %v, %v", &got, err)
	}
	if call.GetSpec().GetUrn() != urn {
		t.Errorf("the call is of %s", call.GetSpec().GetUrn())
	}
	for id, want := range map[string]string{c.Source: input, c.Sink: output} {
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(c.Descriptor.Transforms[id].GetSpec().GetPayload(), &port); err != nil {
			t.Fatal(err)
		}
		wantCoder(t, id, coderText(c.Descriptor.Coders, port.GetCoderId()), "windowed_value(kv(bytes,"+want+"),global_window)")
	}
}

func TestMergingWindowsOfAnSDK(t *testing.T) {
	p := New()
	p.Environment(Env, "localhost:1", urns.CoderBytes, urns.CoderKV, urns.CoderCustomWindow)
	fn := &pipepb.FunctionSpec{Urn: "test:windows", Payload: []byte("pickled")}
	windowed(p, "own", fn, Opaque).MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	a := p.ParDo("a", Env, KV, p.Impulse("i"))
	p.GroupByKey("g1", a)
	p.GroupByKey("g2", a)
	in(p, "own", a, "g1.out", "g2.out")
	pl := compile(t, p)
	c := groupOf(t, pl, "g1").Merge
	const w = "custom_window(length_prefix(opaque))"
	wantCall(t, c, Env, urns.TransformMergeWindows, fn, "iterable("+w+")", "kv(iterable("+w+"),iterable(kv("+w+",iterable("+w+"))))")
	if other := groupOf(t, pl, "g2").Merge; other != c || len(pl.Calls) != 1 || pl.Calls[0] != c {
		t.Errorf("two groupings in the same windows make the calls %v", pl.Calls)
	}
}

func TestRunnerMergesWhatItKnows(t *testing.T) {
	p := New()
	p.Coder("interval", urns.CoderIntervalWindow)
	windowed(p, "merged", &pipepb.FunctionSpec{Urn: "test:windows"}, "interval").MergeStatus = pipepb.MergeStatus_ALREADY_MERGED
	a := p.ParDo("a", Env, KV, p.Impulse("i"))
	p.GroupByKey("g", a)
	in(p, "merged", a, "g.out")
	if c := groupOf(t, compile(t, p), "g").Merge; c != nil {
		t.Errorf("windows that are merged already are to be merged by %v", c)
	}
}

func TestMappingWindows(t *testing.T) {
	fixed, err := proto.Marshal(&pipepb.FixedWindowsPayload{Size: durationpb.New(10 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	const java = "beam:windowmappingfn:javasdk:0.1"
	for name, test := range map[string]struct {
		strategy, urn  string
		call, identity bool
	}{
		"global, whatever maps": {strategy: Global, urn: java},
		"serialized":            {strategy: "fixed", urn: java, call: true},
		"Go":                    {strategy: "fixed", urn: urns.WindowMappingGoFixed},
		"TypeScript":            {strategy: "fixed", urn: urns.WindowMappingAssignMaxTimestamp},
		"identity":              {strategy: "fixed", urn: urns.WindowMappingIdentity, identity: true},
		"identity of custom":    {strategy: "own", urn: urns.WindowMappingIdentity, identity: true},
		"custom windows":        {strategy: "own", urn: urns.WindowMappingAssignMaxTimestamp, call: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			p.Coder("interval", urns.CoderIntervalWindow)
			windowed(p, "fixed", &pipepb.FunctionSpec{Urn: urns.WindowFnFixed, Payload: fixed}, "interval")
			windowed(p, "own", &pipepb.FunctionSpec{Urn: "test:windows"}, "interval")
			fn := &pipepb.FunctionSpec{Urn: test.urn, Payload: []byte("fn")}
			i := p.Impulse("i")
			s := p.ParDo("s", Env, Bytes, i)
			in(p, test.strategy, s)
			payload := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{
				"i1": {AccessPattern: &pipepb.FunctionSpec{Urn: urns.SideInputIterable}, WindowMappingFn: fn},
			}}
			p.Transform("c", urns.TransformParDo, Other, payload, Bytes, i, s)
			m := stageOf(t, compile(t, p), "c").Exec.SideInputs[0].Mapping
			if (m.Call != nil) != test.call || m.Identity != test.identity {
				t.Fatalf("mapped by %+v", m)
			}
			if test.call {
				wantCall(t, m.Call, Other, urns.TransformMapWindows, fn, "global_window", "interval_window")
			}
		})
	}
}
