package coordinator

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/runner/rpc"
)

// counted is what the tasks of a generation have counted.
type counted struct {
	before []*pipepb.MonitoringInfo                    // in the checkpoint that it went on from
	ended  map[int][]*pipepb.MonitoringInfo            // by task
	by     map[uint64]map[int][]*pipepb.MonitoringInfo // by epoch under way and task
}

func newCounted(before []*pipepb.MonitoringInfo) counted {
	return counted{before: before, ended: map[int][]*pipepb.MonitoringInfo{}, by: map[uint64]map[int][]*pipepb.MonitoringInfo{}}
}

// add notes a task's answer to an epoch.
func (c *counted) add(a rpc.Answer) {
	if c.by[a.Epoch] == nil {
		c.by[a.Epoch] = map[int][]*pipepb.MonitoringInfo{}
	}
	c.by[a.Epoch][a.Task] = a.Metrics
}

// at is what the job had counted at an epoch of which all snapshots have come.
func (c *counted) at(e *protocol.Completed) *metrics.Totals {
	all := metrics.NewTotals()
	all.Add(c.before)
	for task, s := range e.Snapshots {
		if s == nil {
			all.Add(c.ended[task])
		} else {
			all.Add(c.by[e.Epoch][task])
		}
	}
	return all
}

// encodeMetrics returns metrics as manifests have them.
func encodeMetrics(infos []*pipepb.MonitoringInfo) ([]string, error) {
	all := make([]string, len(infos))
	for i, info := range infos {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(info)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		all[i] = string(b)
	}
	return all, nil
}

// decodeMetrics reads the metrics of a manifest.
func decodeMetrics(m *protocol.Manifest) ([]*pipepb.MonitoringInfo, error) {
	all := make([]*pipepb.MonitoringInfo, len(m.Metrics))
	for i, b := range m.Metrics {
		all[i] = &pipepb.MonitoringInfo{}
		if err := proto.Unmarshal([]byte(b), all[i]); err != nil {
			return nil, fault.New(fault.Corruption, "metric %d of checkpoint %d: %w", i, m.Epoch, err)
		}
	}
	return all, nil
}
