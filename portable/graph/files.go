package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/urns"
)

// findFileWriters notes the parts of transforms that write files, of which the runner
// determines how many there are (WriteFilesPayload): one for each bundle.
func (g *Graph) findFileWriters() {
	for _, t := range g.Components.Transforms {
		if t.GetSpec().GetUrn() == urns.TransformWriteFiles && runnerSharded(t) {
			g.noteParts(t)
		}
	}
}

func (g *Graph) noteParts(t *pipepb.PTransform) {
	for _, id := range t.GetSubtransforms() {
		if !g.fileWriters[id] { // also ends where a transform is a part of itself, which is refused later
			g.fileWriters[id] = true
			g.noteParts(g.Components.Transforms[id])
		}
	}
}

// runnerSharded reads the hint; what can't be read gives none.
func runnerSharded(t *pipepb.PTransform) bool {
	var p pipepb.WriteFilesPayload
	return proto.Unmarshal(t.GetSpec().GetPayload(), &p) == nil && (p.GetRunnerDeterminedSharding() || p.GetAutoSharded())
}
