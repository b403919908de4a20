package graph

import (
	"maps"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/urns"
)

// ExpandSDFs turns each ParDo of a splittable DoFn into pair_with_restriction,
// split_and_size_restrictions, a redistribution, without which all work would
// stay where the elements came from, and process_sized_element_and_restrictions.
// All parts have the ParDo's payload and its side inputs; the last one keeps its
// id, so that its metrics do.
func (g *Graph) ExpandSDFs() error {
	return g.rewrite(func(t *Transform) ([]*Transform, error) {
		if t.URN() != urns.TransformParDo || t.ParDo.GetRestrictionCoderId() == "" {
			return []*Transform{t}, nil
		}
		return g.expandSDF(t), nil
	})
}

func (g *Graph) expandSDF(t *Transform) []*Transform {
	in := t.Main[0].PCollection
	like := g.PCollection(in)
	paired := g.addCoder(t.ID+"/Paired", urns.CoderKV, like.GetCoderId(), t.ParDo.GetRestrictionCoderId())
	sized := g.addCoder(t.ID+"/Sized", urns.CoderKV, paired, g.addCoder(t.ID+"/Size", urns.CoderDouble))

	pairs := g.addPCollection(t.ID+"/PairWithRestriction.out", like, paired)
	splits := g.addPCollection(t.ID+"/SplitAndSize.out", like, sized)
	spread := g.addPCollection(t.ID+"/Redistribute.out", like, sized)

	pair := g.sdfPart(t, "/PairWithRestriction", urns.TransformSDFPairWithRestriction, in, map[string]string{"i0": pairs})
	split := g.sdfPart(t, "/SplitAndSize", urns.TransformSDFSplitAndSize, pairs, map[string]string{"i0": splits})
	redistribute := g.part(t, "Redistribute", urns.TransformRedistributeArbitrarily, splits, spread)
	process := g.sdfPart(t, "", urns.TransformSDFProcessSized, spread, t.Proto.GetOutputs())
	process.ID = t.ID
	process.Splittable = true
	return []*Transform{
		g.addTransform(t.ID+"/PairWithRestriction", pair),
		g.addTransform(t.ID+"/SplitAndSize", split),
		redistribute,
		process,
	}
}

func (g *Graph) sdfPart(t *Transform, name, urn, in string, outputs map[string]string) *Transform {
	p := *t
	main := t.Main[0].Local
	p.Main = []Input{{main, in}}
	inputs := maps.Clone(t.Proto.GetInputs())
	inputs[main] = in
	p.Proto = &pipepb.PTransform{
		UniqueName:    t.Proto.GetUniqueName() + name,
		Spec:          &pipepb.FunctionSpec{Urn: urn, Payload: t.Proto.GetSpec().GetPayload()},
		Inputs:        inputs,
		Outputs:       outputs,
		Annotations:   t.Proto.GetAnnotations(),
		EnvironmentId: t.Proto.GetEnvironmentId(),
	}
	return &p
}
