package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/urns"
)

// Bounded tells whether a PCollection ends by itself.
func (g *Graph) Bounded(pcollection string) bool {
	return g.PCollection(pcollection).GetIsBounded() != pipepb.IsBounded_UNBOUNDED
}

// spreadUnbounded makes unbounded what is made of unbounded input. SDKs don't all say so:
// Go's TestStreams make bounded PCollections.
func (g *Graph) spreadUnbounded() {
	var unbounded []string
	mark := func(id string) {
		if pc := g.PCollection(id); pc != nil && g.Bounded(id) {
			pc = proto.Clone(pc).(*pipepb.PCollection)
			pc.IsBounded = pipepb.IsBounded_UNBOUNDED
			g.Components.Pcollections[id] = pc
			unbounded = append(unbounded, id)
		}
	}
	for id := range g.Components.Pcollections {
		if !g.Bounded(id) {
			unbounded = append(unbounded, id)
		}
	}
	for _, t := range g.Components.Transforms {
		if t.GetSpec().GetUrn() == urns.TransformTestStream {
			for _, out := range t.GetOutputs() {
				mark(out)
			}
		}
	}
	if len(unbounded) == 0 {
		return
	}
	readers := map[string][]*pipepb.PTransform{}
	for _, t := range g.Components.Transforms {
		for in := range mainInputs(t) {
			readers[in] = append(readers[in], t)
		}
	}
	for len(unbounded) > 0 {
		id := unbounded[len(unbounded)-1]
		unbounded = unbounded[:len(unbounded)-1]
		for _, t := range readers[id] {
			for _, out := range t.GetOutputs() {
				mark(out)
			}
		}
	}
}

// mainInputs are those inputs of a transform without parts that are no side inputs.
func mainInputs(t *pipepb.PTransform) map[string]bool {
	in := map[string]bool{}
	if len(t.GetSubtransforms()) > 0 {
		return in
	}
	var sides map[string]*pipepb.SideInput
	switch t.GetSpec().GetUrn() {
	case urns.TransformParDo, urns.TransformSDFPairWithRestriction, urns.TransformSDFSplitAndSize,
		urns.TransformSDFTruncateSized, urns.TransformSDFProcessSized:
		payload := &pipepb.ParDoPayload{}
		if len(t.GetInputs()) > 1 && proto.Unmarshal(t.GetSpec().GetPayload(), payload) == nil {
			sides = payload.GetSideInputs()
		}
	}
	for local, id := range t.GetInputs() {
		if sides[local] == nil {
			in[id] = true
		}
	}
	return in
}
