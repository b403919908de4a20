package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// parse makes a leaf of the transform called id and checks what it refers to.
func (g *Graph) parse(id string) (*Transform, error) {
	p := g.Components.Transforms[id]
	t := &Transform{ID: id, Origin: id, Proto: p, Kind: kinds[p.GetSpec().GetUrn()], FewBundles: g.fileWriters[id]}
	if err := g.checkEnds(t); err != nil {
		return nil, err
	}
	switch t.URN() {
	case urns.TransformGroupIntoBatches:
		t.BatchSize, _ = g.batchSize(p)
	case urns.TransformParDo, urns.TransformSDFPairWithRestriction, urns.TransformSDFSplitAndSize,
		urns.TransformSDFTruncateSized, urns.TransformSDFProcessSized:
		if err := g.parseParDo(t); err != nil {
			return nil, err
		}
	}
	if t.Kind == TestStream {
		if err := g.parseTest(t); err != nil {
			return nil, err
		}
	}
	for _, local := range sortedKeys(p.GetInputs()) {
		if _, side := t.ParDo.GetSideInputs()[local]; !side {
			t.Main = append(t.Main, Input{local, p.Inputs[local]})
		}
	}
	if err := g.checkCounts(t); err != nil {
		return nil, err
	}
	if t.Kind == SDK || t.Kind == Combine {
		return t, g.parseEnvironment(t)
	}
	return t, nil
}

func (g *Graph) checkEnds(t *Transform) error {
	for _, ends := range []map[string]string{t.Proto.GetInputs(), t.Proto.GetOutputs()} {
		for _, local := range sortedKeys(ends) {
			if g.PCollection(ends[local]) == nil {
				return fault.New(fault.Invalid, "%v: %q is PCollection %q, which doesn't exist", t, local, ends[local])
			}
		}
	}
	return nil
}

// checkCounts checks how many main inputs and outputs there are.
func (g *Graph) checkCounts(t *Transform) error {
	in, out := len(t.Main), len(t.Proto.GetOutputs())
	inOK := in == 1
	switch t.Kind {
	case Impulse, TestStream:
		inOK = in == 0
	case Flatten:
		inOK = true
	}
	if !inOK {
		return fault.New(fault.Invalid, "%v has %d main inputs", t, in)
	}
	if many := t.ParDo != nil || t.Kind == TestStream; !many && out != 1 {
		return fault.New(fault.Invalid, "%v has %d outputs, not one", t, out)
	}
	return nil
}

func (g *Graph) parseParDo(t *Transform) error {
	t.ParDo = &pipepb.ParDoPayload{}
	if err := proto.Unmarshal(t.Proto.GetSpec().GetPayload(), t.ParDo); err != nil {
		return fault.New(fault.Invalid, "%v: payload is no ParDoPayload: %w", t, err)
	}
	t.Splittable = t.URN() == urns.TransformSDFProcessSized
	for _, local := range sortedKeys(t.ParDo.GetSideInputs()) {
		in, ok := t.Proto.GetInputs()[local]
		if !ok {
			return fault.New(fault.Invalid, "%v: side input %q is none of the inputs", t, local)
		}
		side := SideInput{Local: local, PCollection: in, Live: g.Panes(in)}
		switch urn := t.ParDo.SideInputs[local].GetAccessPattern().GetUrn(); urn {
		case urns.SideInputIterable:
		case urns.SideInputMultimap:
			side.Multimap = true
			if _, _, ok := g.kv(g.PCollection(in).GetCoderId()); !ok {
				return fault.New(fault.Invalid, "%v: side input %q is a multimap, but the coder of PCollection %q is no KV", t, local, in)
			}
		default:
			return fault.New(fault.Unsupported, "%v: side input %q has the unknown access pattern %q", t, local, urn)
		}
		t.Sides = append(t.Sides, side)
	}
	if t.Stateful() {
		if err := g.checkStateful(t); err != nil {
			return err
		}
	}
	if id := t.ParDo.GetRestrictionCoderId(); id != "" && g.Components.Coders[id] == nil {
		return fault.New(fault.Invalid, "%v: there is no restriction coder %q", t, id)
	}
	return nil
}

// Panes tells whether groups of a PCollection leave in panes, and what its windows have so may
// change while they are read as a side input.
func (g *Graph) Panes(pcollection string) bool {
	return g.allPanes || g.repeats(pcollection)
}

// repeats tells whether groups of a PCollection may leave in several panes.
func (g *Graph) repeats(pcollection string) bool {
	return !g.Bounded(pcollection) || !firesOnce(g.Strategy(pcollection))
}

// firesOnce is windowing.Strategy.FiresOnceOnBoundedInput.
func firesOnce(ws *pipepb.WindowingStrategy) bool {
	s := windowing.Strategy{Trigger: ws.GetTrigger()}
	return s.FiresOnceOnBoundedInput()
}

// checkStateful checks what state and timers need: keys, and families that exist.
func (g *Graph) checkStateful(t *Transform) error {
	for local, in := range t.Proto.GetInputs() {
		if _, side := t.ParDo.GetSideInputs()[local]; side {
			continue
		}
		if _, _, ok := g.kv(g.PCollection(in).GetCoderId()); !ok {
			return fault.New(fault.Invalid, "%v keeps state, sets timers or wants its input sorted, but the coder of its input PCollection %q is no KV", t, in)
		}
	}
	if f := t.ParDo.GetOnWindowExpirationTimerFamilySpec(); f != "" && t.ParDo.GetTimerFamilySpecs()[f] == nil {
		return fault.New(fault.Invalid, "%v: there is no timer family %q, which is to fire when windows expire", t, f)
	}
	return nil
}

func (g *Graph) parseEnvironment(t *Transform) error {
	id := t.Proto.GetEnvironmentId()
	env := g.Components.Environments[id]
	if env == nil {
		return fault.New(fault.Invalid, "%v: there is no environment %q", t, id)
	}
	switch urn := env.GetUrn(); urn {
	case urns.EnvironmentDocker, urns.EnvironmentProcess, urns.EnvironmentExternal, urns.EnvironmentAnyOf, urns.EnvironmentDefault:
	default:
		return fault.New(fault.Unsupported, "%v: environment %q is of the unknown kind %q", t, id, urn)
	}
	t.Environment = g.environmentAlias[id]
	return nil
}
