package portable

import (
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// findMergers finds which groups are of accumulators: those that are read only to be merged.
func (a *assembler) findMergers() {
	readers := map[string]int{}
	for _, t := range a.g.Transforms {
		for in := range t.Inputs() {
			readers[in]++
		}
	}
	for _, t := range a.g.Transforms {
		if t.Kind != graph.SDK || t.URN() != urns.TransformCombineMergeAccumulators || len(t.Main) != 1 || len(t.Sides) > 0 {
			continue
		}
		groups, outputs := t.Main[0].PCollection, 0
		for range t.Outputs() {
			outputs++
		}
		if readers[groups] == 1 && outputs == 1 {
			a.mergers[groups] = t
		}
	}
}

// combining returns the call that merges accumulators which n, a GroupByKey, groups, or nil if
// values are something else. What comes back is encoded as what is grouped.
func (a *assembler) combining(n *node) (*plan.Call, error) {
	groups := n.stage.Output
	t := a.mergers[groups]
	if t == nil {
		return nil, nil
	}
	merged := only(t)
	env := t.Environment
	d := a.newDescriptor(env)
	d.addTransform(t)
	c := &plan.Call{
		ID: a.callID(), Environment: env, Name: t.Proto.GetUniqueName(),
		Descriptor: d.d, Source: a.ids.source, Sink: a.ids.sinkPrefix + merged,
	}
	in, out := a.wire.windowedID(groups), a.wire.windowedBy(a.wire.element(n.input), merged)
	if err := d.addPort(c.Source, urns.TransformSource, groups, in); err != nil {
		return nil, err
	}
	if err := d.addPort(c.Sink, urns.TransformSink, merged, out); err != nil {
		return nil, err
	}
	var err error
	if c.Input, err = a.wire.compileAs(groups, in); err != nil {
		return nil, err
	}
	if c.Output, err = a.wire.compileAs(merged, out); err != nil {
		return nil, err
	}
	a.plan.Environments[env] = a.g.Components.Environments[env]
	a.plan.Calls = append(a.plan.Calls, c)
	return c, nil
}

// only returns the output of a transform that has one.
func only(t *graph.Transform) string {
	for out := range t.Outputs() {
		return out
	}
	return ""
}
