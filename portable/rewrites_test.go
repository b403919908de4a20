package portable_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// compile makes the plan of a pipeline that is well made.
func compile(t *testing.T, p *Pipeline) *plan.Plan {
	t.Helper()
	pl, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, pl)
	return pl
}

// shape writes a plan as lines of: kind transforms <- inputs.
func shape(p *plan.Plan) string {
	var lines []string
	for _, s := range p.Stages {
		line := s.ID + " " + s.Kind.String()
		if s.Exec != nil {
			line += " " + strings.Join(s.Exec.Transforms, ",")
		}
		for _, e := range s.In {
			line += " <" + e.Kind.String() + " " + e.From.ID
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n"
}

func wantShape(t *testing.T, p *Pipeline, want string) *plan.Plan {
	t.Helper()
	pl := compile(t, p)
	if diff := cmp.Diff(strings.TrimLeft(want, "\n"), shape(pl)); diff != "" {
		t.Errorf("shape (-want +got):\n%s", diff)
	}
	return pl
}

// stageOf returns the stage that runs a transform.
func stageOf(t *testing.T, p *plan.Plan, transform string) *plan.Stage {
	t.Helper()
	for _, s := range p.Stages {
		if s.Exec != nil && slices.Contains(s.Exec.Transforms, transform) {
			return s
		}
	}
	t.Fatalf("no stage runs %q:\n%s", transform, p.Text())
	return nil
}

func TestFuseProducersAndSiblings(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, KV, p.Impulse("impulse"))
	p.ParDo("b", Env, Bytes, a)
	g := p.GroupByKey("gbk", a)
	p.ParDo("c", Env, Bytes, g)
	p.ParDo("d", Env, Bytes, g)
	p.ParDo("e", Other, Bytes, a)
	wantShape(t, p, `
s0 impulse
s1 executable a,b <forward s0
s2 group-by-key <keyed s1
s3 executable c,d <forward s2
s4 executable e <forward s1
`)
}

func TestSeparateStages(t *testing.T) {
	p := New()
	p.ParDo("b", Env, Bytes, p.ParDo("a", Env, Bytes, p.Impulse("impulse")))
	pl, err := portable.Compile(context.Background(), p.Proto, portable.Options{SeparateStages: true})
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, pl)
	if n := len(pl.Stages); n != 3 {
		t.Errorf("%d stages:\n%s", n, pl.Text())
	}
}

// One may wait for ever while the other fails.
func TestSiblingsOfAnImpulseRunSideBySide(t *testing.T) {
	p := New()
	impulse := p.Impulse("impulse")
	p.ParDo("a", Env, Bytes, impulse)
	p.ParDo("b", Env, Bytes, impulse)
	wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 executable b <forward s0
`)
}

func TestSiblingsOfAnImpulseShareTheOnlyTask(t *testing.T) {
	p := New()
	impulse := p.Impulse("impulse")
	p.ParDo("both", Env, Bytes, p.Flatten("flatten", Bytes, p.ParDo("a", Env, Bytes, impulse), p.ParDo("b", Env, Bytes, impulse)))
	pl, err := portable.Compile(context.Background(), p.Proto, portable.Options{OneTask: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(pl.Stages); n != 2 {
		t.Errorf("%d stages:\n%s", n, pl.Text())
	}
}

func TestSideInputsSplitStages(t *testing.T) {
	p := New()
	main := p.ParDo("main", Env, Bytes, p.Impulse("impulse"))
	side := p.ParDo("side", Env, Bytes, main)
	p.ParDo("direct", Env, Bytes, main, side)
	joined := p.ParDo("joined", Env, Bytes, side, main)
	p.ParDo("transitive", Env, Bytes, main, joined)
	wantShape(t, p, `
s0 impulse
s1 executable main,side <forward s0
s2 side-input <forward s1
s3 side-input <forward s1
s4 executable joined <forward s1 <broadcast s3
s5 side-input <forward s4
s6 executable direct,transitive <forward s1 <broadcast s2 <broadcast s5
`)
}

func TestOneSideInputStagePerAccessPattern(t *testing.T) {
	p := New()
	side := p.ParDo("side", Env, KV, p.Impulse("i1"))
	main := p.ParDo("main", Env, Bytes, p.Impulse("i2"))
	p.ParDo("list", Env, Bytes, main, side)
	p.ParDo("again", Env, Bytes, main, side)
	multimap := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{"i1": {AccessPattern: &pipepb.FunctionSpec{Urn: urns.SideInputMultimap}}}}
	p.Transform("map", urns.TransformParDo, Env, multimap, Bytes, main, side)
	pl := wantShape(t, p, `
s0 impulse
s1 executable side <forward s0
s2 impulse
s3 side-input <forward s1
s4 side-input <forward s1
s5 executable main,list,again,map <forward s2 <broadcast s3 <broadcast s4
`)
	refs := map[string]bool{}
	for _, ref := range pl.Stages[5].Exec.SideInputs {
		refs[ref.Transform] = ref.Stage.Side.Multimap
		if ref.Name != "i1" || ref.Stage.Parallelism != 1 {
			t.Errorf("side input %q at parallelism %d", ref.Name, ref.Stage.Parallelism)
		}
	}
	if diff := cmp.Diff(map[string]bool{"list": false, "again": false, "map": true}, refs); diff != "" {
		t.Error(diff)
	}
}

func TestFlattens(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, Bytes, p.Impulse("i1"))
	b := p.ParDo("b", Other, Bytes, p.Impulse("i2"))
	both := p.Flatten("both", Bytes, a, b, a)
	none := p.Flatten("none", Bytes)
	p.ParDo("c", Env, Bytes, p.Flatten("all", Bytes, both, none))
	p.ParDo("d", Env, Bytes, none)
	wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 impulse
s3 executable b <forward s2
s4 executable c <forward s1 <forward s3 <forward s1
s5 executable d
`)
}

func TestFlattenWithinAStage(t *testing.T) {
	p := New()
	in := p.ParDo("in", Env, Bytes, p.Impulse("i1"))
	a, b := p.ParDo("a", Env, Bytes, in), p.ParDo("b", Env, Bytes, in)
	p.ParDo("c", Env, Bytes, p.Flatten("both", Bytes, a, b))
	p.ParDo("d", Env, Bytes, p.Flatten("twice", Bytes, a, a))
	wantShape(t, p, `
s0 impulse
s1 executable in,a,b,both,c <forward s0
s2 executable d <forward s1 <forward s1
`)
}

func TestFlattenedInputsLeaveInTheEncodingOfTheOutput(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, Bytes, p.Impulse("i1"))
	b := p.ParDo("b", Env, Opaque, p.Impulse("i2"))
	p.ParDo("c", Env, Bytes, p.Flatten("both", Opaque, a, b))
	p.ParDo("d", Other, Bytes, a)
	pl := wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 impulse
s3 executable b <forward s2
s4 executable c <forward s1 <forward s3
s5 executable d <forward s1
`)
	for stage, want := range map[string]string{"c": "length_prefix(opaque)", "d": "bytes"} {
		for _, e := range stageOf(t, pl, stage).In {
			wantCoder(t, "sink to "+stage, portCoder(t, e.From, e.Sink), "windowed_value("+want+",global_window)")
		}
	}
}

func TestFlattenTranscodesWhatTheRunnerMakes(t *testing.T) {
	p := New()
	g := p.GroupByKey("gbk", p.ParDo("a", Env, KV, p.Impulse("i1")))
	p.ParDo("c", Env, Bytes, p.Flatten("both", Opaque, g))
	pl := wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 group-by-key <keyed s1
s3 executable both/Transcode/i0,both,c <forward s2
`)
	if got := pl.Origins["both/Transcode/i0"]; got != "both" {
		t.Errorf("origin %q", got)
	}
}

func TestGroupsAreEncodedAsWhatGoesIn(t *testing.T) {
	for reader, want := range map[string]string{Env: "opaque", Other: "bytes"} {
		p := New()
		p.Coder("kvOpaque", urns.CoderKV, Bytes, Opaque)
		p.ParDo("b", reader, Bytes, p.GroupByKey("gbk", p.ParDo("a", Env, "kvOpaque", p.Impulse("i1"))))
		pl := wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 group-by-key <keyed s1
s3 executable b <forward s2
`)
		if want == "opaque" {
			want = "length_prefix(opaque)"
		}
		wantCoder(t, "input", portCoder(t, pl.Stages[1], pl.Stages[1].Exec.Sinks[0]), "windowed_value(kv(bytes,"+want+"),global_window)")
		wantCoder(t, "output", portCoder(t, pl.Stages[3], pl.Stages[3].Exec.Source), "windowed_value(kv(bytes,iterable("+want+")),global_window)")
	}
}

func TestReshuffleIsAnEdge(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, Bytes, p.Impulse("i1"))
	r := p.Reshuffle("reshuffle", Bytes, a)
	p.ParDo("b", Env, Bytes, r)
	p.ParDo("c", Env, Bytes, r)
	wantShape(t, p, `
s0 impulse
s1 executable a <forward s0
s2 executable b,c <rebalance s1
`)
}

func TestReshuffleComposites(t *testing.T) {
	for name, test := range map[string]struct {
		coder, strategy, want string
	}{
		"same coders":   {Bytes, Global, "s0 impulse\ns1 executable a <forward s0\ns2 executable b <rebalance s1\n"},
		"other coders":  {Opaque, Global, "s0 impulse\ns1 executable a <forward s0\ns2 executable b <rebalance s1\n"},
		"other windows": {Bytes, "own", "s0 impulse\ns1 executable a,inner,b <forward s0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			own := proto.Clone(p.Proto.Components.WindowingStrategies[Global]).(*pipepb.WindowingStrategy)
			own.WindowCoderId = Opaque
			p.Proto.Components.WindowingStrategies["own"] = own
			a := p.ParDo("a", Env, Bytes, p.Impulse("i1"))
			out := p.ParDo("inner", Env, test.coder, a)
			p.Proto.Components.Pcollections[out].WindowingStrategyId = test.strategy
			p.Composite("reshuffle", urns.TransformReshuffle, map[string]string{"i": a}, map[string]string{"o": out}, "inner")
			p.ParDo("b", Env, Bytes, out)
			wantShape(t, p, test.want)
		})
	}
}

func TestCompositesThatHandOnAreNothing(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, Bytes, p.Impulse("i1"))
	p.Composite("nothing", "beam:transform:maybe:v1", map[string]string{"i": a}, map[string]string{"o": a})
	p.ParDo("b", Env, Bytes, a)
	wantShape(t, p, `
s0 impulse
s1 executable a,b <forward s0
`)
}

func TestCombineIsLifted(t *testing.T) {
	p := New()
	p.Combine("combine", Env, p.ParDo("a", Env, KV, p.Impulse("i1")))
	pl := wantShape(t, p, `
s0 impulse
s1 executable a,combine/Precombine <forward s0
s2 group-by-key <keyed s1
s3 executable combine/Merge,combine/ExtractOutputs <forward s2
`)
	if got := pl.Origins["combine/Merge"]; got != "combine" {
		t.Errorf("origin %q", got)
	}
}

// TestTriggeredCombineIsLifted pins that accumulators, not elements, are kept for triggers which
// don't look at single elements. Each element is in one accumulator, so that panes which
// accumulate, and merge all of them again, are as right as those that discard and are never empty.
func TestTriggeredCombineIsLifted(t *testing.T) {
	one := &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}
	later := &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{}}}
	for name, trigger := range map[string]*pipepb.Trigger{
		"repeated":        {Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: one}}},
		"end of window":   {Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{EarlyFirings: later}}},
		"whichever first": {Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: []*pipepb.Trigger{one, later}}}},
	} {
		for _, mode := range []pipepb.AccumulationMode_Enum{pipepb.AccumulationMode_ACCUMULATING, pipepb.AccumulationMode_DISCARDING} {
			p := New()
			p.Combine("combine", Env, p.ParDo("a", Env, KV, p.Impulse("i1")))
			for _, pc := range p.Proto.Components.Pcollections {
				pc.IsBounded = pipepb.IsBounded_UNBOUNDED
			}
			ws := p.Proto.Components.WindowingStrategies[Global]
			ws.Trigger, ws.AccumulationMode = trigger, mode
			if mode == pipepb.AccumulationMode_DISCARDING {
				ws.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
			}
			wantAccumulatorsInPanes(t, name, compile(t, p), "combine/Precombine")
		}
	}
}

// TestCountingTriggerConvertsElements pins that where combining before grouping would hide
// elements from the trigger, each becomes an accumulator of its own.
func TestCountingTriggerConvertsElements(t *testing.T) {
	two := &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 2}}}
	p := New()
	p.Combine("combine", Env, p.ParDo("a", Env, KV, p.Impulse("i1")))
	ws := p.Proto.Components.WindowingStrategies[Global]
	ws.Trigger, ws.AccumulationMode = two, pipepb.AccumulationMode_ACCUMULATING
	pl := wantShape(t, p, `
s0 impulse
s1 executable a,combine/Convert <forward s0
s2 group-by-key <keyed s1
s3 executable combine/Merge,combine/ExtractOutputs <forward s2
`)
	wantAccumulatorsInPanes(t, "count", pl, "combine/Convert")

	// Also where panes discard, and may be empty.
	discarding := New()
	discarding.Combine("combine", Env, discarding.ParDo("a", Env, KV, discarding.Impulse("i1")))
	for name, trigger := range map[string]*pipepb.Trigger{"two": two, "after all": {Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{}}}} {
		discarding.Proto.Components.WindowingStrategies[Global].Trigger = trigger
		made := compile(t, discarding)
		wantAccumulatorsInPanes(t, name, made, "combine/Convert")
		if stageOf(t, made, "combine/Merge").Exec.Empty == nil {
			t.Errorf("%s: no accumulators are merged in empty panes", name)
		}
	}

	// In place of what the SDK makes of it.
	q := New()
	grouped := q.GroupByKey("gbk", q.ParDo("a", Env, KV, q.Impulse("i1")))
	values := q.Transform("values", urns.TransformCombineGroupedValues, Env, nil, KV, grouped)
	q.Composite("combine", urns.TransformCombinePerKey, map[string]string{"i0": "a.out"}, map[string]string{"o": values}, "gbk", "values").Spec = p.Get("combine").Spec
	q.Proto.Components.WindowingStrategies[Global] = ws
	wantAccumulatorsInPanes(t, "composite", compile(t, q), "combine/Convert")

	// As unbounded input whose panes have the times of elements.
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
	ws.OutputTime = pipepb.OutputTime_LATEST_IN_PANE
	for _, pc := range p.Proto.Components.Pcollections {
		pc.IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	wantAccumulatorsInPanes(t, "latest", compile(t, p), "combine/Convert")
}

// wantAccumulatorsInPanes checks that accumulators are made where their elements are, leave
// in panes, and can be merged before that.
func wantAccumulatorsInPanes(t *testing.T, what string, pl *plan.Plan, maker string) {
	t.Helper()
	if s := stageOf(t, pl, maker); !slices.Contains(s.Exec.Transforms, "a") {
		t.Errorf("%s: accumulators are made in another stage than their elements", what)
	}
	g := stageOf(t, pl, "combine/Merge").In[0].From.Group
	if !g.Panes || g.Combine == nil {
		t.Fatalf("%s: accumulators leave at the end only, or are not merged before", what)
	}
	c := g.Combine
	if c.Environment != Env || !slices.Contains(pl.Calls, c) || c.Descriptor.Transforms["combine/Merge"].GetSpec().GetUrn() != urns.TransformCombineMergeAccumulators {
		t.Errorf("%s: merged by %v", what, c)
	}
	const kv = "kv(bytes,%s)"
	for id, want := range map[string]string{c.Source: "iterable(length_prefix(opaque))", c.Sink: "length_prefix(opaque)"} {
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(c.Descriptor.Transforms[id].GetSpec().GetPayload(), &port); err != nil {
			t.Fatal(err)
		}
		want = "windowed_value(" + fmt.Sprintf(kv, want) + ",global_window)"
		if got := coderText(c.Descriptor.Coders, port.GetCoderId()); got != want {
			t.Errorf("%s: port %s is encoded as %s, want %s", what, id, got, want)
		}
	}
}

// TestEmptyPanesCombineNothing pins that no SDK is asked to merge no accumulators at all: groups
// without values are combined as elements are that were not made accumulators of.
func TestEmptyPanesCombineNothing(t *testing.T) {
	one := &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}
	early := &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{EarlyFirings: one}}}
	for name, change := range map[string]func(ws *pipepb.WindowingStrategy){
		"on time": func(ws *pipepb.WindowingStrategy) { ws.Trigger = early },
		"closing": func(ws *pipepb.WindowingStrategy) { ws.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS },
	} {
		p := New()
		p.ParDo("b", Env, KV, p.Combine("combine", Env, p.ParDo("a", Env, KV, p.Impulse("i1"))))
		for _, pc := range p.Proto.Components.Pcollections {
			pc.IsBounded = pipepb.IsBounded_UNBOUNDED
		}
		change(p.Proto.Components.WindowingStrategies[Global])
		made := compile(t, p)
		wantAccumulatorsInPanes(t, name, made, "combine/Precombine")
		wantCombinesNothing(t, name, made, stageOf(t, made, "combine/Merge").Exec)

		ws := p.Proto.Components.WindowingStrategies[Global]
		ws.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
		if stageOf(t, compile(t, p), "combine/Merge").Exec.Empty != nil {
			t.Errorf("%s: panes that accumulate are never empty", name)
		}
		ws.AccumulationMode = pipepb.AccumulationMode_DISCARDING
		apart, err := portable.Compile(t.Context(), p.Proto, portable.Options{SeparateStages: true})
		if err != nil {
			t.Fatal(err)
		}
		if s := stageOf(t, apart, "combine/Combine"); s.In[0].From.Group.Combine != nil {
			t.Errorf("%s: elements are merged as if they were accumulators", name)
		}
	}
}

// wantCombinesNothing checks that a stage which merges, extracts and goes on has a descriptor
// that combines in place of the first two.
func wantCombinesNothing(t *testing.T, what string, pl *plan.Plan, x *plan.ExecutableSpec) {
	t.Helper()
	if x.Empty == nil {
		t.Fatalf("%s: nothing is combined where there are no accumulators", what)
	}
	was, is := x.Descriptor.Transforms, maps.Clone(x.Empty.Transforms)
	merge, extract := was["combine/Merge"], was["combine/ExtractOutputs"]
	for id, tr := range was {
		switch same := proto.Equal(is[id], tr); {
		case tr == merge || tr == extract:
			if is[id] != nil {
				t.Errorf("%s: %s is there still", what, id)
			}
		case !same:
			t.Errorf("%s: %s is %v, was %v", what, id, is[id], tr)
		}
		delete(is, id)
	}
	if len(is) != 1 {
		t.Fatalf("%s: new are %v", what, is)
	}
	for id, tr := range is {
		if tr.GetSpec().GetUrn() != urns.TransformCombineGroupedValues || !bytes.Equal(tr.GetSpec().GetPayload(), merge.GetSpec().GetPayload()) ||
			tr.GetEnvironmentId() != merge.GetEnvironmentId() ||
			!maps.Equal(tr.GetInputs(), merge.GetInputs()) || !maps.Equal(tr.GetOutputs(), extract.GetOutputs()) {
			t.Errorf("%s: %v is to be both of %v and %v", what, tr, merge, extract)
		}
		if pl.Origins[id] != "combine" {
			t.Errorf("%s: %s is of %q", what, id, pl.Origins[id])
		}
	}
}

// TestSiblingCombinesShareStages pins what takes the place of packing them.
func TestSiblingCombinesShareStages(t *testing.T) {
	p := New()
	a := p.ParDo("a", Env, KV, p.Impulse("i1"))
	p.Combine("c", Env, a)
	p.Combine("d", Env, a)
	wantShape(t, p, `
s0 impulse
s1 executable a,c/Precombine,d/Precombine <forward s0
s2 group-by-key <keyed s1
s3 executable c/Merge,c/ExtractOutputs <forward s2
s4 group-by-key <keyed s1
s5 executable d/Merge,d/ExtractOutputs <forward s4
`)
}

func TestCombineIsNotLifted(t *testing.T) {
	const grouped = `
s0 impulse
s1 executable a <forward s0
s2 group-by-key <keyed s1
s3 executable combine/Combine <forward s2
`
	t.Run("no accumulator coder", func(t *testing.T) {
		p := New()
		p.Combine("combine", Env, p.ParDo("a", Env, KV, p.Impulse("i1")))
		p.Get("combine").Spec.Payload = nil
		wantShape(t, p, grouped)
	})
	t.Run("lifted by the SDK", func(t *testing.T) {
		p := New()
		a := p.ParDo("a", Env, KV, p.Impulse("i1"))
		pre := p.Transform("pre", urns.TransformCombinePrecombine, Env, nil, KV, a)
		merge := p.Transform("merge", urns.TransformCombineMergeAccumulators, Env, nil, KV, p.GroupByKey("gbk", pre))
		c := p.Composite("combine", urns.TransformCombinePerKey, map[string]string{"i": a}, map[string]string{"o": merge}, "pre", "gbk", "merge")
		q := New()
		q.Combine("c", Env, a)
		c.Spec.Payload = q.Get("c").Spec.Payload
		wantShape(t, p, `
s0 impulse
s1 executable a,pre <forward s0
s2 group-by-key <keyed s1
s3 executable merge <forward s2
`)
	})
}

func TestSplittableDoFn(t *testing.T) {
	p := New()
	in, side := p.Impulse("i1"), p.Impulse("i2")
	sdf := p.ParDoWith("sdf", Env, &pipepb.ParDoPayload{RestrictionCoderId: Opaque}, Bytes, in, side)
	p.ParDo("after", Env, Bytes, sdf)
	pl := wantShape(t, p, `
s0 impulse
s1 impulse
s2 side-input <forward s1
s3 executable sdf/PairWithRestriction,sdf/SplitAndSize <forward s0 <broadcast s2
s4 executable sdf,after <rebalance s3 <broadcast s2
`)
	process := pl.Stages[4]
	if !process.Exec.Splittable || pl.Stages[3].Exec.Splittable {
		t.Error("only the process stage is splittable")
	}
	d := process.Exec.Descriptor
	in = d.Transforms["sdf"].Inputs["i0"]
	if got := coderText(d.Coders, d.Pcollections[in].CoderId); got != "kv(kv(bytes,length_prefix(opaque)),double)" {
		t.Errorf("residuals are encoded as %s", got)
	}
}

func TestSplittableDoFnsShareNoStage(t *testing.T) {
	p := New()
	for _, name := range []string{"a", "b"} {
		p.ParDoWith(name, Env, &pipepb.ParDoPayload{RestrictionCoderId: Bytes}, Bytes, p.Impulse("i"+name))
	}
	pl := compile(t, p)
	if stageOf(t, pl, "a") == stageOf(t, pl, "b") {
		t.Error("two splittable DoFns in one stage")
	}
}

// coderText writes a coder without what URNs share.
func coderText(coders map[string]*pipepb.Coder, id string) string {
	c := coders[id]
	urn := strings.TrimSuffix(c.GetSpec().GetUrn(), ":v1")
	text := urn[strings.LastIndexByte(urn, ':')+1:]
	var comps []string
	for _, comp := range c.GetComponentCoderIds() {
		comps = append(comps, coderText(coders, comp))
	}
	if comps == nil {
		return text
	}
	return text + "(" + strings.Join(comps, ",") + ")"
}
