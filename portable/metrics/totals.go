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
	byKey map[string]*Total
}

// Total is the value of one metric with its labels.
type Total struct {
	info *pipepb.MonitoringInfo // the first one, as it came
	// payload is not changed once it is here; nil while nothing has been added.
	payload []byte
}

// NewTotals returns empty totals.
func NewTotals() *Totals { return &Totals{byKey: map[string]*Total{}} }

// Add takes the values of one bundle. Metrics that only describe a moment of a
// bundle (progress, the read index) have no total and are passed over. A value
// of unknown type or in disorder replaces the one before: what we can't add we
// still show. The infos are kept, not changed.
func (t *Totals) Add(infos []*pipepb.MonitoringInfo) {
	for _, info := range infos {
		t.Total(info).Add(info.GetPayload())
	}
}

// Total returns the total of a metric with its labels, for Total.Add; nil if it has none. What else there is in
// info counts if it is the first one; it is kept, not changed.
func (t *Totals) Total(info *pipepb.MonitoringInfo) *Total {
	if momentary(info) {
		return nil
	}
	key := keyOf(info)
	total := t.byKey[key]
	if total == nil {
		total = &Total{info: info}
		t.byKey[key] = total
	}
	return total
}

// Add adds a value, as Totals.Add does; of nil, nothing. The payload is kept, not changed.
func (t *Total) Add(payload []byte) {
	if t == nil {
		return
	}
	if t.payload != nil {
		if sum, err := merge(t.info.GetType(), t.payload, payload); err == nil {
			payload = sum
		}
	}
	if payload == nil {
		payload = []byte{}
	}
	t.payload = payload
}

// Clone returns a copy that may be added to without changing t.
func (t *Totals) Clone() *Totals {
	clone := &Totals{byKey: make(map[string]*Total, len(t.byKey))}
	for key, total := range t.byKey {
		copied := *total
		clone.byKey[key] = &copied
	}
	return clone
}

// Merge adds all values of other totals, which it doesn't change.
func (t *Totals) Merge(other *Totals) {
	for key, total := range other.byKey {
		if total.payload == nil {
			continue
		}
		mine := t.byKey[key]
		if mine == nil {
			mine = &Total{info: total.info}
			t.byKey[key] = mine
		}
		mine.Add(total.payload)
	}
}

// Infos returns all values, ordered by name and labels.
func (t *Totals) Infos() []*pipepb.MonitoringInfo {
	out := make([]*pipepb.MonitoringInfo, 0, len(t.byKey))
	for _, k := range slices.Sorted(maps.Keys(t.byKey)) {
		if total := t.byKey[k]; total.payload != nil {
			out = append(out, total.asInfo())
		}
	}
	return out
}

func (t *Total) asInfo() *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: t.info.GetUrn(), Type: t.info.GetType(), Labels: t.info.GetLabels(), StartTime: t.info.GetStartTime(), Payload: t.payload,
	}
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
