package portable

import (
	"maps"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// unbounded tells whether an element may be work without end for a splittable
// DoFn. What a DoFn without outputs does is not known.
func (a *assembler) unbounded(t *graph.Transform) bool {
	if !t.Splittable {
		return false
	}
	none := true
	for out := range t.Outputs() {
		if !a.g.Bounded(out) {
			return true
		}
		none = false
	}
	return none
}

// addDraining makes the descriptor of a splittable root for when the job is
// drained: its restrictions are truncated before they are processed.
func (a *assembler) addDraining(n *node, spec *plan.ExecutableSpec) {
	root := n.fused.Transforms[0]
	capabilities := a.g.Components.Environments[spec.Environment].GetCapabilities()
	if !root.Splittable || !slices.Contains(capabilities, urns.TransformSDFTruncateSized) {
		return
	}
	d := proto.Clone(spec.Descriptor).(*fnpb.ProcessBundleDescriptor)
	process := d.Transforms[root.ID]
	id := a.ids.truncatePrefix + root.ID
	main := root.Main[0]
	truncated := id + ".out"
	d.Pcollections[truncated] = proto.Clone(d.Pcollections[main.PCollection]).(*pipepb.PCollection)
	d.Pcollections[truncated].UniqueName = truncated
	d.Transforms[id] = &pipepb.PTransform{
		UniqueName:    process.GetUniqueName() + "/Truncate",
		Spec:          &pipepb.FunctionSpec{Urn: urns.TransformSDFTruncateSized, Payload: process.GetSpec().GetPayload()},
		Inputs:        maps.Clone(process.GetInputs()),
		Outputs:       map[string]string{"i0": truncated},
		EnvironmentId: process.GetEnvironmentId(),
	}
	process.Inputs[main.Local] = truncated
	spec.Draining = d
	a.plan.Origins[id] = root.Origin
	for _, ref := range slices.Clone(spec.SideInputs) {
		if ref.Transform == root.ID {
			ref.Transform = id
			spec.SideInputs = append(spec.SideInputs, ref)
		}
	}
}
