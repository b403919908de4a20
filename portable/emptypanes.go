package portable

import (
	"maps"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// addEmpty makes the descriptor of a stage that merges accumulators for groups without any: in
// place of merging them and extracting an output it combines no values.
func (a *assembler) addEmpty(n *node, spec *plan.ExecutableSpec) error {
	merge := n.fused.Transforms[0]
	group := a.g.Producer(n.input)
	if a.mergers[n.input] != merge || group.Kind != graph.GroupByKey || !a.g.EmptyPanes(group.Main[0].PCollection) {
		return nil
	}
	merged := only(merge)
	at := slices.IndexFunc(n.fused.Transforms, func(t *graph.Transform) bool {
		return t.URN() == urns.TransformCombineExtractOutputs && t.Main[0].PCollection == merged
	})
	if at < 0 {
		return fault.New(fault.Internal, "%v: panes may be empty, and outputs are extracted in another stage", merge)
	}
	extract := n.fused.Transforms[at]
	d := proto.Clone(spec.Descriptor).(*fnpb.ProcessBundleDescriptor)
	delete(d.Transforms, extract.ID)
	delete(d.Transforms, merge.ID)
	delete(d.Pcollections, merged)
	id := a.ids.emptyPrefix + merge.ID
	// Groups keep the coder that says their values are accumulators: there are none.
	d.Transforms[id] = &pipepb.PTransform{
		UniqueName:    a.g.Components.Transforms[merge.Origin].GetUniqueName() + "/Combine",
		Spec:          &pipepb.FunctionSpec{Urn: urns.TransformCombineGroupedValues, Payload: merge.Proto.GetSpec().GetPayload()},
		Inputs:        maps.Clone(merge.Proto.GetInputs()),
		Outputs:       maps.Clone(extract.Proto.GetOutputs()),
		EnvironmentId: merge.Environment,
		Annotations:   merge.Proto.GetAnnotations(),
	}
	spec.Empty = d
	a.plan.Origins[id] = merge.Origin
	return nil
}
