package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/internal/fault"
)

// Metric is a value that a bundle reports.
type Metric struct {
	// Info says of what, its own payload apart. Read only.
	Info *pipepb.MonitoringInfo
	// Lasting is true where the harness's later bundles have the same Info, to be known by its pointer.
	Lasting bool
	Payload []byte
}

// Metrics returns what the response reports, short ids resolved,
// once Recv has returned io.EOF. It asks the harness for ids it sees for the
// first time.
func (b *Bundle) Metrics(ctx context.Context) ([]Metric, error) {
	resp := b.Response()
	return b.harness.resolve(ctx, resp.GetMonitoringInfos(), b.monitoring)
}

// resolve puts metrics together from payloads by short id. Python, Java and
// TypeScript send the same metrics in both forms, the whole set in each; then the
// full one is taken: it needs no more, and TypeScript can't explain its short ids.
func (h *Harness) resolve(ctx context.Context, full []*pipepb.MonitoringInfo, byID []data.MonitoringData) ([]Metric, error) {
	if len(full) >= len(byID) {
		metrics := make([]Metric, len(full))
		for i, info := range full {
			metrics[i] = Metric{Info: info, Payload: info.GetPayload()}
		}
		return metrics, nil
	}
	metrics, unknown := h.known(byID)
	if len(unknown) == 0 {
		return metrics, nil
	}
	if err := h.learn(ctx, unknown); err != nil {
		return nil, err
	}
	if metrics, unknown = h.known(byID); len(unknown) > 0 {
		return nil, fault.New(fault.Invalid, "harness %s cannot explain its short metric id %q", h.id, unknown[0])
	}
	return metrics, nil
}

// known resolves the short ids that the harness has explained.
func (h *Harness) known(byID []data.MonitoringData) (metrics []Metric, unknown []string) {
	metrics = make([]Metric, 0, len(byID))
	h.infosMu.RLock()
	defer h.infosMu.RUnlock()
	for _, m := range byID {
		if info := h.infos[string(m.ID)]; info != nil { // no allocation
			metrics = append(metrics, Metric{Info: info, Lasting: true, Payload: m.Payload})
		} else {
			unknown = append(unknown, string(m.ID))
		}
	}
	return metrics, unknown
}

// learn asks the harness for short ids that it has not explained yet.
func (h *Harness) learn(ctx context.Context, unknown []string) error {
	resp, err := h.call(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_MonitoringInfos{MonitoringInfos: &fnpb.MonitoringInfosMetadataRequest{
			MonitoringInfoId: unknown,
		}},
	})
	if err != nil {
		return err
	}
	h.infosMu.Lock()
	defer h.infosMu.Unlock()
	for id, info := range resp.GetMonitoringInfos().GetMonitoringInfo() {
		if h.infos[id] == nil { // it may have been asked twice
			h.infos[id] = info
		}
	}
	return nil
}
