package graph

import (
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// batchSize returns the size of the batches of a GroupIntoBatches that the runner can make
// itself, by grouping. SDKs expand it into a ParDo that keeps the elements in state, at the
// cost of state and a timer for each. That is left where batches are bounded by bytes,
// which may be measured by a function of the user's, or by the time that they may wait, and where
// input is unbounded, so that batches can't wait for its end.
func (g *Graph) batchSize(t *pipepb.PTransform) (uint64, bool) {
	payload := &pipepb.GroupIntoBatchesPayload{}
	if proto.Unmarshal(t.GetSpec().GetPayload(), payload) != nil || payload.GetBatchSize() < 1 || payload.GetBatchSize() > math.MaxInt32 ||
		payload.GetBatchSizeBytes() != 0 || payload.GetMaxBufferingDurationMillis() != 0 {
		return 0, false
	}
	in, out := only(t.GetInputs()), only(t.GetOutputs())
	if !g.Bounded(in) || !g.sameWindows(in, out) ||
		g.Strategy(in).GetMergeStatus() != pipepb.MergeStatus_NON_MERGING {
		return 0, false
	}
	_, _, kv := g.kv(g.PCollection(in).GetCoderId())
	_, _, groups := g.grouped(g.PCollection(out).GetCoderId())
	return uint64(payload.GetBatchSize()), kv && groups
}
