package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi/data"
)

// Progress is how far a running bundle is.
type Progress struct {
	// Metrics are its metrics so far, as Bundle.Metrics gives them.
	Metrics []Metric
	// Consuming says that the harness is working on input it has received, not
	// waiting for more; true as well if the SDK doesn't say.
	Consuming bool
}

// Progress asks how far the bundle is. It is nil if the bundle has ended or
// the harness doesn't know it (any more, or yet). An error says nothing of how
// the bundle will end.
func (b *Bundle) Progress(ctx context.Context) (*Progress, error) {
	if b.isOver() {
		return nil, nil
	}
	resp, err := b.harness.call(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_ProcessBundleProgress{ProcessBundleProgress: &fnpb.ProcessBundleProgressRequest{
			InstructionId: b.id,
		}},
	})
	if err != nil {
		if b.isOver() {
			return nil, nil
		}
		return nil, err
	}
	p := resp.GetProcessBundleProgress()
	if p == nil || len(p.GetMonitoringInfos()) == 0 && len(p.GetMonitoringData()) == 0 && p.ConsumingReceivedData == nil {
		return nil, nil
	}
	var monitoring []data.MonitoringData
	for id, payload := range p.GetMonitoringData() {
		monitoring = append(monitoring, data.MonitoringData{ID: []byte(id), Payload: payload})
	}
	metrics, err := b.harness.resolve(ctx, p.GetMonitoringInfos(), monitoring)
	if err != nil {
		return nil, err
	}
	return &Progress{Metrics: metrics, Consuming: p.ConsumingReceivedData == nil || p.GetConsumingReceivedData()}, nil
}

// Split asks the harness to give back a part of the bundle's input: it keeps
// fraction of the remainder, 0 meaning to stop as soon as it can.
// estimatedInputElements counts all the elements the bundle will be given, those
// not yet sent included; allowed, if not empty, are the element indices it may
// split at. A response without channel splits means that it could not be split,
// which is also the answer for a bundle that has ended. After a response with
// channel splits, elements from first_residual_element on need not be sent any more.
// An error says nothing of how the bundle will end, or has ended, and but for one of
// class UserCode, with which the harness refuses, the harness may have given work away.
func (b *Bundle) Split(ctx context.Context, fraction float64, estimatedInputElements int64, allowed []int64) (*fnpb.ProcessBundleSplitResponse, error) {
	none := &fnpb.ProcessBundleSplitResponse{}
	b.mu.Lock()
	b.splitAsked = true
	ended := b.ended
	b.mu.Unlock()
	if ended {
		return none, nil
	}
	resp, err := b.harness.call(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_ProcessBundleSplit{ProcessBundleSplit: &fnpb.ProcessBundleSplitRequest{
			InstructionId: b.id,
			DesiredSplits: map[string]*fnpb.ProcessBundleSplitRequest_DesiredSplit{
				b.spec.Source: {
					FractionOfRemainder:    fraction,
					EstimatedInputElements: estimatedInputElements,
					AllowedSplitPoints:     allowed,
				},
			},
		}},
	})
	if err != nil {
		if b.failure() != nil {
			return none, nil // nobody will miss what it gave away
		}
		return nil, err
	}
	if split := resp.GetProcessBundleSplit(); split != nil {
		return split, nil
	}
	return none, nil
}

// Finalize tells the harness that the bundle's results are durable. It is for
// bundles whose response requires finalization, and best effort: if the harness
// is lost, so are its callbacks.
func (b *Bundle) Finalize(ctx context.Context) error {
	_, err := b.harness.call(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_FinalizeBundle{FinalizeBundle: &fnpb.FinalizeBundleRequest{
			InstructionId: b.id,
		}},
	})
	return err
}
