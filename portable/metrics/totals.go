// Package metrics adds up what bundles report: MonitoringInfos of the types
// that metrics.proto defines.
package metrics

import (
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/urns"
)

// Totals holds one value per metric and labels. Not safe for concurrent use.
type Totals struct {
	byKey map[string]*pipepb.MonitoringInfo
}

// NewTotals returns empty totals.
func NewTotals() *Totals { return &Totals{byKey: map[string]*pipepb.MonitoringInfo{}} }

// Add takes the values of one bundle. Metrics that only describe a moment of a
// bundle (progress, the read index) have no total and are passed over. A value
// of unknown type or in disorder replaces the one before: what we can't add we
// still show. The infos are kept, not changed.
func (t *Totals) Add(infos []*pipepb.MonitoringInfo) {
	for _, info := range infos {
		if momentary(info) {
			continue
		}
		key := keyOf(info)
		old := t.byKey[key]
		if old == nil {
			t.byKey[key] = info
			continue
		}
		payload, err := merge(info.GetType(), old.GetPayload(), info.GetPayload())
		if err != nil {
			payload = info.GetPayload()
		}
		t.byKey[key] = &pipepb.MonitoringInfo{
			Urn: info.GetUrn(), Type: info.GetType(), Labels: info.GetLabels(), StartTime: old.GetStartTime(), Payload: payload,
		}
	}
}

// Clone returns a copy that may be added to without changing t.
func (t *Totals) Clone() *Totals { return &Totals{byKey: maps.Clone(t.byKey)} }

// Infos returns all values, ordered by name and labels.
func (t *Totals) Infos() []*pipepb.MonitoringInfo {
	out := make([]*pipepb.MonitoringInfo, 0, len(t.byKey))
	for _, k := range slices.Sorted(maps.Keys(t.byKey)) {
		out = append(out, t.byKey[k])
	}
	return out
}

// Without returns the infos of all that are about other metrics, or have other
// labels, than those of known.
func Without(all, known []*pipepb.MonitoringInfo) []*pipepb.MonitoringInfo {
	keys := make(map[string]bool, len(known))
	for _, info := range known {
		keys[keyOf(info)] = true
	}
	var out []*pipepb.MonitoringInfo
	for _, info := range all {
		if !keys[keyOf(info)] {
			out = append(out, info)
		}
	}
	return out
}

func momentary(info *pipepb.MonitoringInfo) bool {
	switch info.GetUrn() {
	case urns.MetricDataChannelReadIndex, urns.MetricWorkCompleted, urns.MetricWorkRemaining:
		return true
	}
	return info.GetType() == urns.MetricTypeProgress
}

// keyOf joins URN and labels so that they sort, and that no two metrics share a key.
func keyOf(info *pipepb.MonitoringInfo) string {
	var b strings.Builder
	add := func(s string) {
		b.WriteString("\x00\x00")
		b.WriteString(strings.ReplaceAll(s, "\x00", "\x00\x01"))
	}
	add(info.GetUrn())
	for _, l := range slices.Sorted(maps.Keys(info.GetLabels())) {
		add(l)
		add(info.GetLabels()[l])
	}
	return b.String()
}
