package jobview

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

func varints(ns ...int64) []byte {
	var b []byte
	for _, n := range ns {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

func doubles(fs ...float64) []byte {
	var b []byte
	for _, f := range fs {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(f))
	}
	return b
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	trie := marshal(t, &pipepb.BoundedTrie{Root: &pipepb.BoundedTrieNode{Children: map[string]*pipepb.BoundedTrieNode{
		"a/": {Children: map[string]*pipepb.BoundedTrieNode{"x": {}}}, "b/": {Truncated: true}}}})
	histogram := marshal(t, &pipepb.HistogramValue{
		Count: proto.Int64(5),
		BucketOptions: &pipepb.HistogramValue_BucketOptions{BucketType: &pipepb.HistogramValue_BucketOptions_Linear_{
			Linear: &pipepb.HistogramValue_BucketOptions_Linear{Start: proto.Float64(10), Width: proto.Float64(5)}}},
		BucketCounts: []int64{2, 0, 3}})
	exponential := marshal(t, &pipepb.HistogramValue{
		Count: proto.Int64(2),
		BucketOptions: &pipepb.HistogramValue_BucketOptions{BucketType: &pipepb.HistogramValue_BucketOptions_Exponential{
			Exponential: &pipepb.HistogramValue_BucketOptions_Base2Exponent{Scale: proto.Int32(0)}}},
		BucketCounts: []int64{1, 0, 1}})

	for _, c := range []struct{ kind, payload, text, json string }{
		{"sum_int64", string(varints(-3)), "-3", `-3`},
		{"sum_double", string(doubles(1.5)), "1.5", `1.5`},
		{"sum_double", string(doubles(math.Inf(1))), "+Inf", `"+Inf"`},
		{"distribution_int64", string(varints(2, 10, 4, 6)), "count 2, sum 10, min 4, max 6, mean 5", `{"count":2,"sum":10,"min":4,"max":6}`},
		{"distribution_int64", string(varints(0, 0, math.MaxInt64, math.MinInt64)), "count 0", `{"count":0,"sum":0,"min":9223372036854775807,"max":-9223372036854775808}`},
		{"distribution_double", string(append(varints(2), doubles(1, .25, .75)...)), "count 2, sum 1, min 0.25, max 0.75, mean 0.5", `{"count":2,"sum":1,"min":0.25,"max":0.75}`},
		{"latest_int64", string(varints(1000, 7)), "7 at 1970-01-01T00:00:01Z", `{"value":7,"time":"1970-01-01T00:00:01Z"}`},
		{"latest_double", string(append(varints(1000), doubles(.5)...)), "0.5 at 1970-01-01T00:00:01Z", `{"value":0.5,"time":"1970-01-01T00:00:01Z"}`},
		{"top_n_int64", "\x00\x00\x00\x02" + string(varints(9, 8)), "[9, 8]", `[9,8]`},
		{"bottom_n_double", "\x00\x00\x00\x01" + string(doubles(.5)), "[0.5]", `[0.5]`},
		{"progress", "\xff\xff\xff\xff\x01" + string(doubles(.25)) + "\x01" + string(doubles(.5)) + "\x00", "[0.25, 0.5]", `[0.25,0.5]`},
		{"set_string", "\x00\x00\x00\x02\x01b\x01a", "{a, b}", `["a","b"]`},
		{"bounded_trie", string(trie), "{a/x, b/*}", `[["a/","x"],["b/","*"]]`},
		{"histogram_int64", string(histogram), "count 5, [10, 15) 2, [20, 25) 3", `{"count":5,"buckets":[{"low":10,"high":15,"count":2},{"low":20,"high":25,"count":3}]}`},
		{"histogram_int64", string(exponential), "count 2, [0, 2) 1, [4, 8) 1", `{"count":2,"buckets":[{"low":0,"high":2,"count":1},{"low":4,"high":8,"count":1}]}`},
		{"sum_int64", "\x80", "undecodable: beam:metrics:sum_int64:v1: bad varint", `{"reason":"beam:metrics:sum_int64:v1: bad varint","payload":"gA=="}`},
		{"sum_int64", "\x01\x02", "undecodable: beam:metrics:sum_int64:v1: 1 bytes too many", `{"reason":"beam:metrics:sum_int64:v1: 1 bytes too many","payload":"AQI="}`},
		{"top_n_int64", "\x7f\xff\xff\xff\x01", "undecodable: beam:metrics:top_n_int64:v1: bad varint", `{"reason":"beam:metrics:top_n_int64:v1: bad varint","payload":"f////wE="}`},
		{"moon_phase", "x", "undecodable: beam:metrics:moon_phase:v1: unknown type", `{"reason":"beam:metrics:moon_phase:v1: unknown type","payload":"eA=="}`},
	} {
		v := decode(&pipepb.MonitoringInfo{Type: "beam:metrics:" + c.kind + ":v1", Payload: []byte(c.payload)})
		if got := v.String(); got != c.text {
			t.Errorf("%s %x as text: %s, want %s", c.kind, c.payload, got, c.text)
		}
		if got, err := json.Marshal(v); err != nil || string(got) != c.json {
			t.Errorf("%s %x as JSON: %s, %v, want %s", c.kind, c.payload, got, err, c.json)
		}
	}
}

func FuzzDecode(f *testing.F) {
	kinds := []string{"sum_int64", "sum_double", "distribution_int64", "distribution_double", "latest_int64",
		"top_n_int64", "progress", "set_string", "bounded_trie", "histogram_int64"}
	for i := range kinds {
		f.Add(i, []byte("\x00\x00\x00\x02\x01b\x01a"))
	}
	f.Fuzz(func(t *testing.T, i int, payload []byte) {
		kind := kinds[uint(i)%uint(len(kinds))]
		v := decode(&pipepb.MonitoringInfo{Type: "beam:metrics:" + kind + ":v1", Payload: payload})
		_ = v.String()
		if _, err := json.Marshal(v); err != nil {
			t.Errorf("%s %x: %v", kind, payload, err)
		}
	})
}

func TestOfMetricsPairsNamesAndSorts(t *testing.T) {
	info := func(urn, kind string, payload []byte, labels ...string) *pipepb.MonitoringInfo {
		mi := &pipepb.MonitoringInfo{Urn: "beam:metric:" + urn + ":v1", Type: "beam:metrics:" + kind + ":v1", Payload: payload, Labels: map[string]string{}}
		for i := 0; i < len(labels); i += 2 {
			mi.Labels[labels[i]] = labels[i+1]
		}
		return mi
	}
	user := []string{"PTRANSFORM", "t1", "NAMESPACE", "wc", "NAME", "words"}
	r := &jobpb.MetricResults{
		Attempted: []*pipepb.MonitoringInfo{
			info("element_count", "sum_int64", varints(8), "PCOLLECTION", "p1"),
			info("user:sum_int64", "sum_int64", varints(7), user...)},
		Committed: []*pipepb.MonitoringInfo{info("user:sum_int64", "sum_int64", varints(5), user...)},
	}
	p := &pipepb.Pipeline{Components: &pipepb.Components{Transforms: map[string]*pipepb.PTransform{"t1": {UniqueName: "Count/Words"}}}}
	ms := OfMetrics(r, p)
	if len(ms) != 2 {
		t.Fatalf("%d metrics, want 2: %v", len(ms), ms)
	}
	if m := ms[0]; m.Name() != "wc:words" || m.Step != "Count/Words" || m.Attempted != Int(7) || m.Committed != Int(5) || m.Best() != Int(5) {
		t.Errorf("first metric %+v", m)
	}
	if m := ms[1]; m.Name() != "element_count" || m.Step != "p1" || m.Committed != nil || m.Best() != Int(8) {
		t.Errorf("second metric %+v", m)
	}
}
