package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
)

// Metrics returns the monitoring infos of the response, short ids resolved,
// once Recv has returned io.EOF. It asks the harness for ids it sees for the
// first time. Infos may share their labels with others: read only.
func (b *Bundle) Metrics(ctx context.Context) ([]*pipepb.MonitoringInfo, error) {
	resp := b.Response()
	return b.harness.resolve(ctx, resp.GetMonitoringInfos(), resp.GetMonitoringData())
}

// resolve puts infos together from payloads by short id. Python, Java and
// TypeScript send the same metrics in both forms, the whole set in each; then the
// full one is taken: it needs no more, and TypeScript can't explain its short ids.
func (h *Harness) resolve(ctx context.Context, full []*pipepb.MonitoringInfo, byID map[string][]byte) ([]*pipepb.MonitoringInfo, error) {
	if len(full) >= len(byID) {
		return full, nil
	}
	if err := h.learn(ctx, byID); err != nil {
		return nil, err
	}
	infos := make([]*pipepb.MonitoringInfo, 0, len(byID))
	h.infosMu.Lock()
	defer h.infosMu.Unlock()
	for id, payload := range byID {
		info := h.infos[id]
		if info == nil {
			return nil, fault.New(fault.Invalid, "harness %s cannot explain its short metric id %q", h.id, id)
		}
		infos = append(infos, &pipepb.MonitoringInfo{
			Urn:       info.GetUrn(),
			Type:      info.GetType(),
			Labels:    info.GetLabels(),
			StartTime: info.GetStartTime(),
			Payload:   payload,
		})
	}
	return infos, nil
}

// learn asks the harness for the short ids it has not explained yet.
func (h *Harness) learn(ctx context.Context, byID map[string][]byte) error {
	var unknown []string
	h.infosMu.Lock()
	for id := range byID {
		if h.infos[id] == nil {
			unknown = append(unknown, id)
		}
	}
	h.infosMu.Unlock()
	if len(unknown) == 0 {
		return nil
	}
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
		h.infos[id] = info
	}
	return nil
}
