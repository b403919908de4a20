package metrics

import (
	"testing"

	"github.com/lintelrun/lintel/portable/urns"
)

var types = []string{
	urns.MetricTypeSumInt64, urns.MetricTypeSumDouble, urns.MetricTypeDistributionInt64, urns.MetricTypeDistributionDouble,
	urns.MetricTypeLatestInt64, urns.MetricTypeLatestDouble, urns.MetricTypeTopNInt64, urns.MetricTypeTopNDouble,
	urns.MetricTypeBottomNInt64, urns.MetricTypeBottomNDouble, urns.MetricTypeSetString, urns.MetricTypeBoundedTrie,
	urns.MetricTypeHistogramInt64, "unknown",
}

// FuzzMerge: no payload makes us panic, and what was added up can be added to.
func FuzzMerge(f *testing.F) {
	f.Add(uint8(2), varintsOf(1, 2, 3, 4), varintsOf(0, 0, 0, 0))
	f.Add(uint8(3), append(varintsOf(1), doublesOf(1, 2, 3)...), append(varintsOf(0), doublesOf(0, 0, 0)...))
	f.Add(uint8(6), listOf(varintsOf(1), varintsOf(300)), listOf())
	f.Add(uint8(10), listOf([]byte("\x01a")), listOf([]byte("\x01b"), []byte("\x00")))
	f.Add(uint8(11), trieOf(2, "a/b", "a/c"), trieOf(2, "a/d"))
	f.Add(uint8(12), histogramOf([]int64{1, 2}), histogramOf(nil))
	f.Fuzz(func(t *testing.T, typ uint8, a, b []byte) {
		urn := types[int(typ)%len(types)]
		merged, err := merge(urn, a, b)
		if err != nil {
			return
		}
		if _, err := merge(urn, merged, b); err != nil {
			t.Errorf("%s: what was added up is not good to add to: %v", urn, err)
		}
	})
}
