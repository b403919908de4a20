package portable

import (
	"strings"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// endpointIDs makes the ids of sources and sinks, which no pipeline's transform has.
type endpointIDs struct {
	source         string
	sinkPrefix     string
	truncatePrefix string
	emptyPrefix    string
}

func newEndpointIDs(g *graph.Graph) endpointIDs {
	prefix := "lintel/"
	for clash := true; clash; {
		clash = false
		for id := range g.Components.Transforms {
			if strings.HasPrefix(id, prefix) {
				prefix, clash = prefix+"/", true
			}
		}
	}
	return endpointIDs{
		source: prefix + "source", sinkPrefix: prefix + "sink/",
		truncatePrefix: prefix + "truncate/", emptyPrefix: prefix + "empty/",
	}
}

// describe writes what a harness needs to run a stage. PCollections keep the
// pipeline's coders, as SDKs look at them to see what their functions take,
// but where the SDK talks with the runner in terms of a PCollection's coder, it
// is the one on the wire: for side inputs, for splits of restrictions, and for
// the keys of state and timers.
func (a *assembler) describe(n *node, spec *plan.ExecutableSpec) (*fnpb.ProcessBundleDescriptor, error) {
	d := a.newDescriptor(spec.Environment)
	if err := d.addPort(spec.Source, urns.TransformSource, n.input, n.source); err != nil {
		return nil, err
	}
	for _, s := range n.sinks {
		if err := d.addPort(s.id, urns.TransformSink, s.pcollection, s.coder); err != nil {
			return nil, err
		}
	}
	for _, t := range n.fused.Transforms {
		d.addTransform(t)
	}
	for _, t := range n.fused.Transforms {
		for _, in := range t.Sides {
			d.wireCoder(in.PCollection)
		}
	}
	if spec.Splittable || spec.Stateful != nil {
		d.wireCoder(n.input)
	}
	if spec.Stateful != nil {
		if err := d.wireTimers(n); err != nil {
			return nil, err
		}
	}
	return d.d, nil
}

// descriptor is one in the making.
type descriptor struct {
	a *assembler
	d *fnpb.ProcessBundleDescriptor
}

// newDescriptor begins one of an environment.
func (a *assembler) newDescriptor(env string) *descriptor {
	d := &descriptor{a: a, d: &fnpb.ProcessBundleDescriptor{
		Transforms:          map[string]*pipepb.PTransform{},
		Pcollections:        map[string]*pipepb.PCollection{},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{},
		Coders:              map[string]*pipepb.Coder{},
		Environments:        map[string]*pipepb.Environment{},
	}}
	d.addEnvironment(env)
	return d
}

// addPort adds the source or a sink of a PCollection, encoded by a windowed coder.
func (d *descriptor) addPort(id, urn, pcollection, coder string) error {
	d.addPCollection(pcollection)
	return d.addEnd(id, urn, pcollection, coder)
}

// addEnd adds a source or sink of a PCollection that the descriptor has.
func (d *descriptor) addEnd(id, urn, pcollection, coder string) error {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&fnpb.RemoteGrpcPort{CoderId: coder})
	if err != nil {
		return fault.New(fault.Invalid, "PCollection %q: coder id %q: %w", pcollection, coder, err)
	}
	t := &pipepb.PTransform{UniqueName: id, Spec: &pipepb.FunctionSpec{Urn: urn, Payload: payload}}
	ends := map[string]string{"i0": pcollection}
	if urn == urns.TransformSource {
		t.Outputs = ends
	} else {
		t.Inputs = ends
	}
	d.d.Transforms[id] = t
	d.addCoder(coder)
	return nil
}

func (d *descriptor) addTransform(t *graph.Transform) {
	p := t.Proto
	d.d.Transforms[t.ID] = &pipepb.PTransform{
		UniqueName:    p.GetUniqueName(),
		Spec:          p.GetSpec(),
		Inputs:        p.GetInputs(),
		Outputs:       p.GetOutputs(),
		DisplayData:   p.GetDisplayData(),
		EnvironmentId: t.Environment,
		Annotations:   p.GetAnnotations(),
	}
	for in := range t.Inputs() {
		d.addPCollection(in)
	}
	for out := range t.Outputs() {
		d.addPCollection(out)
	}
	if id := t.ParDo.GetRestrictionCoderId(); id != "" {
		d.addCoder(id)
	}
	if strings.HasPrefix(t.URN(), "beam:transform:combine_") {
		var payload pipepb.CombinePayload
		if proto.Unmarshal(p.GetSpec().GetPayload(), &payload) == nil {
			d.addCoder(payload.GetAccumulatorCoderId())
		}
	}
}

func (d *descriptor) addPCollection(id string) {
	if d.d.Pcollections[id] != nil {
		return
	}
	p := d.a.g.PCollection(id)
	d.setPCollection(id, p.GetCoderId())
	ws := p.GetWindowingStrategyId()
	if d.d.WindowingStrategies[ws] == nil {
		s := d.a.wire.strategy(ws)
		d.d.WindowingStrategies[ws] = s
		d.addCoder(s.GetWindowCoderId())
		d.addEnvironment(s.GetEnvironmentId())
	}
}

// wireCoder gives a PCollection the coder that its elements have on the wire.
func (d *descriptor) wireCoder(id string) { d.setPCollection(id, d.a.wire.element(id)) }

// setPCollection adds a PCollection, its elements encoded by coder. SDKs take a
// windowed coder for that of elements and their windows; so where the elements
// themselves are windowed values, such as those of Java's Create.windowedValues,
// it is wrapped in another.
func (d *descriptor) setPCollection(id, coder string) {
	p := d.a.g.PCollection(id)
	switch d.a.g.Components.Coders[coder].GetSpec().GetUrn() {
	case urns.CoderWindowedValue, urns.CoderParamWindowedValue:
		coder = d.a.wire.windowedBy(coder, id)
	}
	if coder != p.GetCoderId() {
		p = &pipepb.PCollection{
			UniqueName:          p.GetUniqueName(),
			CoderId:             coder,
			IsBounded:           p.GetIsBounded(),
			WindowingStrategyId: p.GetWindowingStrategyId(),
			DisplayData:         p.GetDisplayData(),
		}
	}
	d.d.Pcollections[id] = p
	d.addCoder(coder)
}

// addCoder adds a coder with its components; their depth was checked at the start.
func (d *descriptor) addCoder(id string) {
	c := d.a.g.Components.Coders[id]
	if c == nil || d.d.Coders[id] != nil {
		return
	}
	d.d.Coders[id] = c
	for _, comp := range c.GetComponentCoderIds() {
		d.addCoder(comp)
	}
}

func (d *descriptor) addEnvironment(id string) {
	if env := d.a.g.Components.Environments[id]; env != nil {
		d.d.Environments[id] = env
	}
}
