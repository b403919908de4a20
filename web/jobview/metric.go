package jobview

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const userPrefix = "beam:metric:user:"

// Metric is one figure of a job, identified by its URN and labels.
type Metric struct {
	URN string `json:"urn"`
	// Type is the monitoring info's type URN, which says what the values look like.
	Type string `json:"type"`
	// Labels are as on the wire: PTRANSFORM, PCOLLECTION, NAMESPACE, NAME and others.
	Labels map[string]string `json:"labels,omitempty"`
	// Step is what people call the transform or PCollection of the labels:
	// the transform's unique name, if the pipeline tells it.
	Step string `json:"step,omitempty"`
	// Attempted counts all work, Committed only that whose result stands.
	// A nil value was not reported.
	Attempted Value `json:"attempted,omitempty"`
	Committed Value `json:"committed,omitempty"`
}

// User tells whether the pipeline's author defined the metric.
func (m Metric) User() bool { return strings.HasPrefix(m.URN, userPrefix) }

// Name is what the author called a user metric ("namespace:name"), or the URN
// without its prefix and version for others.
func (m Metric) Name() string {
	if m.User() {
		return m.Labels["NAMESPACE"] + ":" + m.Labels["NAME"]
	}
	name := strings.TrimPrefix(m.URN, "beam:metric:")
	return strings.TrimSuffix(name, ":v1")
}

// Best is the committed value, or the attempted one where nothing is committed.
func (m Metric) Best() Value {
	if m.Committed != nil {
		return m.Committed
	}
	return m.Attempted
}

// OfMetrics pairs the attempted and committed values of r and decodes them; p gives
// names to steps and may be nil. The result is in order of kind (user metrics
// first), step and name. A payload that can't be decoded becomes an Undecoded value.
func OfMetrics(r *jobpb.MetricResults, p *pipepb.Pipeline) []Metric {
	byKey := map[string]*Metric{}
	at := func(mi *pipepb.MonitoringInfo) *Metric {
		k := keyOf(mi)
		m := byKey[k]
		if m == nil {
			m = &Metric{URN: mi.GetUrn(), Type: mi.GetType(), Labels: mi.GetLabels(), Step: stepOf(mi.GetLabels(), p)}
			byKey[k] = m
		}
		return m
	}
	for _, mi := range r.GetAttempted() {
		at(mi).Attempted = decode(mi)
	}
	for _, mi := range r.GetCommitted() {
		at(mi).Committed = decode(mi)
	}
	ms := make([]Metric, 0, len(byKey))
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		ms = append(ms, *byKey[k])
	}
	slices.SortStableFunc(ms, func(a, b Metric) int {
		if a.User() != b.User() {
			if a.User() {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Step, b.Step), strings.Compare(a.Name(), b.Name()))
	})
	return ms
}

func keyOf(mi *pipepb.MonitoringInfo) string {
	var b strings.Builder
	b.WriteString(mi.GetUrn())
	for _, k := range slices.Sorted(maps.Keys(mi.GetLabels())) {
		b.WriteString("\x00" + k + "\x00" + mi.GetLabels()[k])
	}
	return b.String()
}

func stepOf(labels map[string]string, p *pipepb.Pipeline) string {
	if id := labels["PTRANSFORM"]; id != "" {
		return cmp.Or(p.GetComponents().GetTransforms()[id].GetUniqueName(), id)
	}
	id := labels["PCOLLECTION"]
	return cmp.Or(p.GetComponents().GetPcollections()[id].GetUniqueName(), id)
}
