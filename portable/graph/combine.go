package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// liftable tells whether a combine_per_key may combine before it groups.
func (g *Graph) liftable(t *pipepb.PTransform) bool {
	if !g.accumulable(t) {
		return false
	}
	in := only(t.GetInputs())
	strategy := g.Strategy(in)
	if !g.Bounded(in) && strategy.GetOutputTime() != pipepb.OutputTime_END_OF_WINDOW {
		// The time of a late element would hide that of those which it is combined with, and
		// which the pane's time is made of.
		return false
	}
	return triggerAllowsLifting(strategy.GetTrigger(), 0)
}

// convertible tells whether a combine_per_key that may not combine before it groups may group
// accumulators, of one element each: panes then keep few of them instead of all elements.
func (g *Graph) convertible(t *pipepb.PTransform) bool {
	return g.accumulable(t) && g.Panes(only(t.GetInputs()))
}

// accumulable tells whether a combine_per_key can be done by way of accumulators, even where a
// pane may have none: then what makes its outputs of accumulators has to make them of nothing too,
// in the same stage (EmptyPanes).
func (g *Graph) accumulable(t *pipepb.PTransform) bool {
	in := g.PCollection(only(t.GetInputs()))
	out := g.PCollection(only(t.GetOutputs()))
	if in == nil || out == nil || g.Components.Environments[t.GetEnvironmentId()] == nil {
		return false // several inputs: side inputs of the CombineFn can't be lifted
	}
	if _, _, ok := g.kv(in.GetCoderId()); !ok {
		return false
	}
	for _, sub := range t.GetSubtransforms() {
		if g.Components.Transforms[sub].GetSpec().GetUrn() == urns.TransformCombinePrecombine {
			return false // the SDK did it already
		}
	}
	payload, err := combinePayload(t)
	return err == nil && g.Components.Coders[payload.GetAccumulatorCoderId()] != nil
}

// EmptyPanes tells whether groups of a PCollection may leave in panes that have no elements. Not
// all CombineFns can merge no accumulators at all (Python's mean can't), but all can combine no
// elements.
func (g *Graph) EmptyPanes(pcollection string) bool {
	ws := g.Strategy(pcollection)
	if !g.repeats(pcollection) || ws.GetAccumulationMode() == pipepb.AccumulationMode_ACCUMULATING {
		return false // there are those of the panes before
	}
	return ws.GetClosingBehavior() == pipepb.ClosingBehavior_EMIT_ALWAYS ||
		ws.GetOnTimeBehavior() == pipepb.OnTimeBehavior_FIRE_ALWAYS && !firesOnce(ws)
}

func combinePayload(t *pipepb.PTransform) (*pipepb.CombinePayload, error) {
	payload := &pipepb.CombinePayload{}
	return payload, proto.Unmarshal(t.GetSpec().GetPayload(), payload)
}

const maxTriggerDepth = 50

// triggerAllowsLifting is false for triggers that need to see each element.
func triggerAllowsLifting(t *pipepb.Trigger, depth int) bool {
	if depth > maxTriggerDepth {
		return false
	}
	switch t := t.GetTrigger().(type) {
	case nil, *pipepb.Trigger_Default_, *pipepb.Trigger_Never_,
		*pipepb.Trigger_AfterProcessingTime_, *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		return true
	case *pipepb.Trigger_ElementCount_:
		return t.ElementCount.GetElementCount() == 1
	case *pipepb.Trigger_AfterEndOfWindow_:
		return triggerAllowsLifting(t.AfterEndOfWindow.GetEarlyFirings(), depth+1) &&
			triggerAllowsLifting(t.AfterEndOfWindow.GetLateFirings(), depth+1)
	case *pipepb.Trigger_Repeat_:
		return triggerAllowsLifting(t.Repeat.GetSubtrigger(), depth+1)
	case *pipepb.Trigger_AfterAny_:
		for _, sub := range t.AfterAny.GetSubtriggers() {
			if !triggerAllowsLifting(sub, depth+1) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// LiftCombines turns each combine_per_key into its parts: precombine, GroupByKey,
// merge_accumulators and extract_outputs. Where combining early isn't legal, and groups leave in
// panes, elements become accumulators one by one instead, as triggers that count want; else
// there are GroupByKey and combine_grouped_values. With separate no two transforms will share a
// stage.
func (g *Graph) LiftCombines(separate bool) error {
	return g.rewrite(func(t *Transform) ([]*Transform, error) {
		switch {
		case t.Kind != Combine:
			return []*Transform{t}, nil
		case separate && g.EmptyPanes(t.Main[0].PCollection):
			return g.groupThenCombine(t)
		case g.liftable(t.Proto):
			return g.lift(t, "Precombine", urns.TransformCombinePrecombine), nil
		case g.convertible(t.Proto):
			return g.lift(t, "Convert", urns.TransformCombineConvertToAccumulators), nil
		default:
			return g.groupThenCombine(t)
		}
	})
}

// lift replaces t by its parts. The first, by its name and URN, makes accumulators of elements.
func (g *Graph) lift(t *Transform, name, urn string) []*Transform {
	payload, _ := combinePayload(t.Proto)
	in, out := t.Main[0].PCollection, only(t.Proto.GetOutputs())
	key, _, _ := g.kv(g.PCollection(in).GetCoderId())
	acc := payload.GetAccumulatorCoderId()
	keyed := g.addCoder(t.ID+"/KeyedAccumulator", urns.CoderKV, key, acc)
	grouped := g.addCoder(t.ID+"/GroupedAccumulators", urns.CoderKV, key, g.addCoder(t.ID+"/Accumulators", urns.CoderIterable, acc))

	accumulators := g.addPCollection(t.ID+"/"+name+".out", g.PCollection(in), keyed)
	groups := g.addPCollection(t.ID+"/Group.out", g.PCollection(out), grouped)
	g.standForGroups(t, groups)
	merged := g.addPCollection(t.ID+"/Merge.out", g.PCollection(out), keyed)
	return []*Transform{
		g.part(t, name, urn, in, accumulators),
		g.part(t, "Group", urns.TransformGroupByKey, accumulators, groups),
		g.part(t, "Merge", urns.TransformCombineMergeAccumulators, groups, merged),
		g.part(t, "ExtractOutputs", urns.TransformCombineExtractOutputs, merged, out),
	}
}

func (g *Graph) groupThenCombine(t *Transform) ([]*Transform, error) {
	in, out := t.Main[0].PCollection, only(t.Proto.GetOutputs())
	key, value, ok := g.kv(g.PCollection(in).GetCoderId())
	if !ok {
		return nil, fault.New(fault.Invalid, "%v: the coder of its input is no KV", t)
	}
	grouped := g.addCoder(t.ID+"/Grouped", urns.CoderKV, key, g.addCoder(t.ID+"/Values", urns.CoderIterable, value))
	groups := g.addPCollection(t.ID+"/Group.out", g.PCollection(out), grouped)
	g.standForGroups(t, groups)
	return []*Transform{
		g.part(t, "Group", urns.TransformGroupByKey, in, groups),
		g.part(t, "Combine", urns.TransformCombineGroupedValues, groups, out),
	}, nil
}

// standForGroups notes that groups are what t's own GroupByKey, if it has one, would
// have made: as many elements, with the same keys and windows.
func (g *Graph) standForGroups(t *Transform, groups string) {
	for _, id := range t.Proto.GetSubtransforms() {
		sub := g.Components.Transforms[id]
		if out := only(sub.GetOutputs()); sub.GetSpec().GetUrn() == urns.TransformGroupByKey && g.PCollection(out) != nil {
			g.Stands[out] = groups
		}
	}
}

// part makes one of the transforms that t is replaced by.
func (g *Graph) part(t *Transform, name, urn, in, out string) *Transform {
	p := &Transform{
		Origin: t.Origin,
		Kind:   kinds[urn],
		Proto: &pipepb.PTransform{
			UniqueName: t.Proto.GetUniqueName() + "/" + name,
			Spec:       &pipepb.FunctionSpec{Urn: urn},
			Inputs:     map[string]string{"i0": in},
			Outputs:    map[string]string{"i0": out},
		},
		Main: []Input{{"i0", in}},
	}
	if p.Kind == SDK {
		p.Environment = t.Environment
		p.Proto.EnvironmentId = t.Environment
		p.Proto.Spec.Payload = t.Proto.GetSpec().GetPayload()
		p.Proto.Annotations = t.Proto.GetAnnotations()
	}
	return g.addTransform(t.ID+"/"+name, p)
}
