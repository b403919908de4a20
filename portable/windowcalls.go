package portable

import (
	"fmt"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// merging returns the call that merges windows of a PCollection, or nil where the runner
// does or none merge.
func (a *assembler) merging(pcollection string, s *windowing.Strategy) (*plan.Call, error) {
	if !s.Merging || s.Kind != windowing.Custom {
		return nil, nil
	}
	ws := a.g.Strategy(pcollection)
	env := a.g.Environment(ws.GetEnvironmentId())
	if env == "" {
		return nil, fault.New(fault.Invalid, "windowing strategy %q merges windows in environment %q, which doesn't exist",
			a.g.PCollection(pcollection).GetWindowingStrategyId(), ws.GetEnvironmentId())
	}
	w := a.wire
	window := w.window(ws.GetWindowCoderId())
	windows := w.add("call:windows:"+window, urns.CoderIterable, nil, window)
	made := w.add("call:made:"+window, urns.CoderKV, nil, window, windows)
	all := w.add("call:all:"+window, urns.CoderIterable, nil, made)
	merged := w.add("call:merged:"+window, urns.CoderKV, nil, windows, all)
	return a.windowCall(urns.TransformMergeWindows, env, ws.GetWindowFn(), windows, merged)
}

// mapping returns how windows of t's main input are mapped to those of a side input.
func (a *assembler) mapping(t *graph.Transform, side graph.SideInput) (plan.WindowMapping, error) {
	var m plan.WindowMapping
	var err error
	if m.Windowing, err = a.wire.windowing(side.PCollection); err != nil {
		return m, err
	}
	main := t.Main[0].PCollection
	of := a.wire.windowing
	if side.Live { // elements wait by their windows, until those end
		of = a.wire.endingWindows
	}
	if m.Main, err = of(main); err != nil {
		return m, err
	}
	if m.Windowing.Kind == windowing.Global {
		return m, nil // whatever the function is, there is only one window
	}
	fn := t.ParDo.GetSideInputs()[side.Local].GetWindowMappingFn()
	switch fn.GetUrn() {
	case urns.WindowMappingGlobal, urns.WindowMappingGoGlobal:
		return m, fault.New(fault.Invalid, "%v: side input %q is mapped to the global window, but its windows are %s", t, side.Local, m.Windowing.Kind)
	case urns.WindowMappingAssignMaxTimestamp, urns.WindowMappingGoFixed, urns.WindowMappingGoSliding:
		if m.Windowing.Kind != windowing.Session && m.Windowing.Kind != windowing.Custom {
			return m, nil
		}
	case urns.WindowMappingIdentity:
		m.Identity = true
		return m, nil
	}
	m.Call, err = a.windowCall(urns.TransformMapWindows, t.Environment, fn,
		a.wire.window(a.g.Strategy(main).GetWindowCoderId()), a.wire.window(a.g.Strategy(side.PCollection).GetWindowCoderId()))
	return m, err
}

// callKey is what makes calls the same.
type callKey struct{ urn, environment, fn, fnPayload, in, out string }

// windowCall returns a call of a function in an environment, which takes KV<nonce, in> to
// KV<nonce, out>, given by their coders' ids.
func (a *assembler) windowCall(urn, env string, fn *pipepb.FunctionSpec, in, out string) (*plan.Call, error) {
	key := callKey{urn, env, fn.GetUrn(), string(fn.GetPayload()), in, out}
	if c := a.calls[key]; c != nil {
		return c, nil
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(fn)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the payload of %s: %w", fn.GetUrn(), err)
	}
	const strategy = "global" // no clash: the descriptor has nothing of the pipeline's
	global := a.wire.add("call:global", urns.CoderGlobalWindow, nil)
	d := a.newDescriptor(env)
	d.d.Transforms["call"] = &pipepb.PTransform{
		UniqueName:    strings.TrimSuffix(strings.TrimPrefix(urn, "beam:transform:"), ":v1"),
		Spec:          &pipepb.FunctionSpec{Urn: urn, Payload: payload},
		Inputs:        map[string]string{"i0": "in"},
		Outputs:       map[string]string{"o0": "out"},
		EnvironmentId: env,
	}
	d.d.WindowingStrategies[strategy] = globalWindows(global, env)
	d.addCoder(global)
	nonce := a.wire.add("call:nonce", urns.CoderBytes, nil)
	port := func(id, urn, pcollection, coder string) (*coders.Windowed, error) {
		kv := a.wire.add("call:"+coder, urns.CoderKV, nil, nonce, coder)
		windowed := a.wire.add("call:windowed:"+coder, urns.CoderWindowedValue, nil, kv, global)
		d.d.Pcollections[pcollection] = &pipepb.PCollection{
			UniqueName: pcollection, CoderId: kv, WindowingStrategyId: strategy, IsBounded: pipepb.IsBounded_BOUNDED,
		}
		if err := d.addEnd(id, urn, pcollection, windowed); err != nil {
			return nil, err
		}
		return coders.CompileWindowed(windowed, a.g.Components.Coders)
	}
	c := &plan.Call{
		ID: a.callID(), Environment: env, Name: "a window function",
		Descriptor: d.d, Source: "source", Sink: "sink",
	}
	if c.Input, err = port(c.Source, urns.TransformSource, "in", in); err != nil {
		return nil, err
	}
	if c.Output, err = port(c.Sink, urns.TransformSink, "out", out); err != nil {
		return nil, err
	}
	a.plan.Environments[env] = a.g.Components.Environments[env]
	a.plan.Calls = append(a.plan.Calls, c)
	a.calls[key] = c
	return c, nil
}

func (a *assembler) callID() string { return fmt.Sprintf("c%d", len(a.plan.Calls)) }

// globalWindows is the windowing of PCollections in the global window.
func globalWindows(coder, env string) *pipepb.WindowingStrategy {
	return &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urns.WindowFnGlobal},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    coder,
		Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
		EnvironmentId:    env,
	}
}
