package metrics

import (
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
)

// labelPCollection names the PCollection that a metric is about.
const labelPCollection = "PCOLLECTION"

// ElementCount says how many elements a PCollection has (beam:metric:element_count:v1).
func ElementCount(pcollection string, n int64) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: urns.MetricElementCount, Type: urns.MetricTypeSumInt64,
		Labels:  map[string]string{labelPCollection: pcollection},
		Payload: coders.AppendVarint(nil, n),
	}
}

// SampledByteSize says how many bytes the encoded elements of a PCollection have
// (beam:metric:sampled_byte_size:v1): count of them together have sum bytes, one has
// from low to high.
func SampledByteSize(pcollection string, count, sum, low, high int64) *pipepb.MonitoringInfo {
	var payload []byte
	for _, v := range []int64{count, sum, low, high} {
		payload = coders.AppendVarint(payload, v)
	}
	return &pipepb.MonitoringInfo{
		Urn: urns.MetricSampledByteSize, Type: urns.MetricTypeDistributionInt64,
		Labels:  map[string]string{labelPCollection: pcollection},
		Payload: payload,
	}
}

// LateDropped says how many elements a transform has dropped, once for each of their
// windows, because they came too late. The model has no metric for it: it is a counter of
// the name that Beam's Java runners give theirs.
func LateDropped(transform string, n int64) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: urns.MetricUserSumInt64, Type: urns.MetricTypeSumInt64,
		Labels:  map[string]string{"PTRANSFORM": transform, "NAMESPACE": "lintel", "NAME": "droppedDueToLateness"},
		Payload: coders.AppendVarint(nil, n),
	}
}

// CountsOf reports whether a metric is the element count or byte size of a PCollection: as
// both ends of an edge count what travels there, one of them must not count.
func CountsOf(info *pipepb.MonitoringInfo, pcollection string) bool {
	return counts(info) && info.GetLabels()[labelPCollection] == pcollection
}

// Wire adds the counts and byte sizes of PCollections that are made up of others, as
// plan.Plan.Wired tells. One with parts that nobody has counted gets none; one that
// has no parts has no elements.
func (t *Totals) Wire(wired map[string][]string) {
	known := map[string][]*pipepb.MonitoringInfo{}
	for _, total := range t.byKey {
		if info := total.info; counts(info) && total.payload != nil {
			id := info.GetLabels()[labelPCollection]
			known[id] = append(known[id], total.asInfo())
		}
	}
	for out, sources := range wired {
		if slices.ContainsFunc(sources, func(source string) bool { return len(known[source]) == 0 }) {
			continue
		}
		t.Add([]*pipepb.MonitoringInfo{ElementCount(out, 0)})
		for _, source := range sources {
			for _, info := range known[source] {
				t.Add([]*pipepb.MonitoringInfo{{
					Urn: info.GetUrn(), Type: info.GetType(), Payload: info.GetPayload(),
					Labels: map[string]string{labelPCollection: out},
				}})
			}
		}
	}
}

func counts(info *pipepb.MonitoringInfo) bool {
	return info.GetUrn() == urns.MetricElementCount || info.GetUrn() == urns.MetricSampledByteSize
}
