// Package portabletest builds small pipelines for tests.
package portabletest

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/urns"
)

// Ids that New puts into a pipeline.
const (
	Env    = "env"    // an environment that knows the standard coders
	Other  = "other"  // another one
	Bytes  = "bytes"  // beam:coder:bytes
	Opaque = "opaque" // a coder that only its SDK knows
	KV     = "kv"     // kv<bytes, bytes>
	Groups = "groups" // kv<bytes, iterable<bytes>>
	Global = "global" // the windowing strategy, and the window coder
)

// Pipeline is a pipeline in the making. Its methods add a transform whose id and
// unique name are name, and return the PCollection that it makes: name + ".out".
// Bad arguments make a bad pipeline, which may be what a test wants.
type Pipeline struct{ Proto *pipepb.Pipeline }

// New returns a pipeline with two environments, some coders and global windows.
func New() *Pipeline {
	p := &Pipeline{&pipepb.Pipeline{Components: &pipepb.Components{
		Transforms:          map[string]*pipepb.PTransform{},
		Pcollections:        map[string]*pipepb.PCollection{},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{},
		Coders:              map[string]*pipepb.Coder{},
		Environments:        map[string]*pipepb.Environment{},
	}}}
	p.Environment(Env, "localhost:1", urns.CoderBytes, urns.CoderKV, urns.CoderIterable, urns.CoderVarint, urns.CoderDouble)
	p.Environment(Other, "localhost:2", urns.CoderBytes, urns.CoderKV, urns.CoderIterable)
	p.Coder(Bytes, urns.CoderBytes)
	p.Coder(Opaque, "test:coder:opaque")
	p.Coder(KV, urns.CoderKV, Bytes, Bytes)
	p.Coder("iterable", urns.CoderIterable, Bytes)
	p.Coder(Groups, urns.CoderKV, Bytes, "iterable")
	p.Coder(Global, urns.CoderGlobalWindow)
	p.Proto.Components.WindowingStrategies[Global] = &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urns.WindowFnGlobal},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    Global,
		Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_ALWAYS,
		EnvironmentId:    Env,
	}
	return p
}

// Environment adds an external environment with capabilities.
func (p *Pipeline) Environment(id, endpoint string, capabilities ...string) *pipepb.Environment {
	env := &pipepb.Environment{Urn: urns.EnvironmentExternal, Payload: []byte(endpoint), Capabilities: capabilities}
	p.Proto.Components.Environments[id] = env
	return env
}

// Coder adds a coder.
func (p *Pipeline) Coder(id, urn string, components ...string) string {
	p.Proto.Components.Coders[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	return id
}

// PCollection adds a bounded PCollection in the global window.
func (p *Pipeline) PCollection(id, coder string) *pipepb.PCollection {
	pc := &pipepb.PCollection{UniqueName: id, CoderId: coder, WindowingStrategyId: Global, IsBounded: pipepb.IsBounded_BOUNDED}
	p.Proto.Components.Pcollections[id] = pc
	return pc
}

// Transform adds a root transform with one output of a coder. Its inputs are
// called i0, i1 and so on. A payload may be nil.
func (p *Pipeline) Transform(name, urn, env string, payload proto.Message, coder string, inputs ...string) string {
	out := name + ".out"
	p.PCollection(out, coder)
	t := &pipepb.PTransform{
		UniqueName:    name,
		Spec:          &pipepb.FunctionSpec{Urn: urn},
		Inputs:        map[string]string{},
		Outputs:       map[string]string{"o0": out},
		EnvironmentId: env,
	}
	for i, in := range inputs {
		t.Inputs[fmt.Sprintf("i%d", i)] = in
	}
	if payload != nil {
		data, err := proto.Marshal(payload)
		if err != nil {
			panic(err) // a test's own mistake
		}
		t.Spec.Payload = data
	}
	p.Proto.Components.Transforms[name] = t
	p.Proto.RootTransformIds = append(p.Proto.RootTransformIds, name)
	return out
}

// Get returns a transform that was added, to change it.
func (p *Pipeline) Get(name string) *pipepb.PTransform { return p.Proto.Components.Transforms[name] }

// Impulse adds an Impulse.
func (p *Pipeline) Impulse(name string) string {
	return p.Transform(name, urns.TransformImpulse, "", nil, Bytes)
}

// ParDo adds a ParDo; inputs after the first are iterable side inputs.
func (p *Pipeline) ParDo(name, env, coder, in string, sides ...string) string {
	return p.ParDoWith(name, env, &pipepb.ParDoPayload{}, coder, in, sides...)
}

// ParDoWith adds a ParDo with a payload, to which side inputs are added.
func (p *Pipeline) ParDoWith(name, env string, payload *pipepb.ParDoPayload, coder, in string, sides ...string) string {
	for i := range sides {
		if payload.SideInputs == nil {
			payload.SideInputs = map[string]*pipepb.SideInput{}
		}
		payload.SideInputs[fmt.Sprintf("i%d", i+1)] = &pipepb.SideInput{AccessPattern: &pipepb.FunctionSpec{Urn: urns.SideInputIterable}}
	}
	return p.Transform(name, urns.TransformParDo, env, payload, coder, append([]string{in}, sides...)...)
}

// GroupByKey adds a GroupByKey of kv<bytes, bytes>.
func (p *Pipeline) GroupByKey(name, in string) string {
	return p.Transform(name, urns.TransformGroupByKey, "", nil, Groups, in)
}

// Flatten adds a Flatten of Env.
func (p *Pipeline) Flatten(name, coder string, inputs ...string) string {
	return p.Transform(name, urns.TransformFlatten, Env, nil, coder, inputs...)
}

// Reshuffle adds a Reshuffle.
func (p *Pipeline) Reshuffle(name, coder, in string) string {
	return p.Transform(name, urns.TransformReshuffle, Env, nil, coder, in)
}

// Combine adds a combine_per_key of kv<bytes, bytes> with opaque accumulators.
func (p *Pipeline) Combine(name, env, in string) string {
	payload := &pipepb.CombinePayload{CombineFn: &pipepb.FunctionSpec{Urn: "test:combine"}, AccumulatorCoderId: Opaque}
	return p.Transform(name, urns.TransformCombinePerKey, env, payload, KV, in)
}

// Composite makes a composite of root transforms that were added.
func (p *Pipeline) Composite(name, urn string, inputs, outputs map[string]string, parts ...string) *pipepb.PTransform {
	t := &pipepb.PTransform{
		UniqueName: name, Spec: &pipepb.FunctionSpec{Urn: urn}, Subtransforms: parts,
		Inputs: inputs, Outputs: outputs, EnvironmentId: Env,
	}
	p.Proto.Components.Transforms[name] = t
	part := map[string]bool{}
	for _, id := range parts {
		part[id] = true
	}
	roots := []string{}
	for _, id := range p.Proto.RootTransformIds {
		if !part[id] {
			roots = append(roots, id)
		}
	}
	p.Proto.RootTransformIds = append(roots, name)
	return t
}
