package metrics

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
)

func info(typ string, payload []byte) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{Urn: "urn", Type: typ, Labels: map[string]string{"NAME": "n"}, Payload: payload}
}

// total adds payloads one after the other.
func total(t testing.TB, typ string, payloads ...[]byte) []byte {
	t.Helper()
	totals := NewTotals()
	for _, p := range payloads {
		totals.Add([]*pipepb.MonitoringInfo{info(typ, p)})
	}
	infos := totals.Infos()
	if len(infos) != 1 {
		t.Fatalf("%d metrics out of one", len(infos))
	}
	return infos[0].GetPayload()
}

func varintsOf(values ...int64) (b []byte) {
	for _, v := range values {
		b = coders.AppendVarint(b, v)
	}
	return b
}

func doublesOf(values ...float64) (b []byte) {
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

// listOf is an iterable of known length.
func listOf(items ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(items)))
	return append(b, bytes.Join(items, nil)...)
}

// Each type against what it means. Values are small, so that doubles add up exactly.
func TestTypesAgainstModels(t *testing.T) {
	for name, c := range map[string]struct {
		typ string
		// encode is a bundle's payload of a sample, and want that of all samples.
		encode func(sample []int64) []byte
		want   func(samples [][]int64) []byte
	}{
		"sum of integers": {
			urns.MetricTypeSumInt64,
			func(s []int64) []byte { return varintsOf(sum(s)) },
			func(all [][]int64) []byte { return varintsOf(sum(slices.Concat(all...))) },
		},
		"sum of doubles": {
			urns.MetricTypeSumDouble,
			func(s []int64) []byte { return doublesOf(float64(sum(s)) / 4) },
			func(all [][]int64) []byte { return doublesOf(float64(sum(slices.Concat(all...))) / 4) },
		},
		"distribution of integers": {
			urns.MetricTypeDistributionInt64,
			func(s []int64) []byte {
				if len(s) == 0 {
					return varintsOf(0, 0, math.MaxInt64, math.MinInt64)
				}
				return varintsOf(int64(len(s)), sum(s), slices.Min(s), slices.Max(s))
			},
			func(all [][]int64) []byte {
				s := slices.Concat(all...)
				return varintsOf(int64(len(s)), sum(s), slices.Min(s), slices.Max(s))
			},
		},
		"distribution, zeros where there is nothing": {
			urns.MetricTypeDistributionInt64,
			func(s []int64) []byte {
				if len(s) == 0 {
					return varintsOf(0, 0, 0, 0)
				}
				return varintsOf(int64(len(s)), sum(s), slices.Min(s), slices.Max(s))
			},
			func(all [][]int64) []byte {
				s := slices.Concat(all...)
				return varintsOf(int64(len(s)), sum(s), slices.Min(s), slices.Max(s))
			},
		},
		"distribution of doubles": {
			urns.MetricTypeDistributionDouble,
			func(s []int64) []byte {
				if len(s) == 0 {
					return append(varintsOf(0), doublesOf(0, 0, 0)...)
				}
				return append(varintsOf(int64(len(s))), doublesOf(float64(sum(s)), float64(slices.Min(s)), float64(slices.Max(s)))...)
			},
			func(all [][]int64) []byte {
				s := slices.Concat(all...)
				return append(varintsOf(int64(len(s))), doublesOf(float64(sum(s)), float64(slices.Min(s)), float64(slices.Max(s)))...)
			},
		},
		"latest integer": { // a sample is its timestamp; the value goes with it
			urns.MetricTypeLatestInt64,
			func(s []int64) []byte { return varintsOf(sum(s), sum(s)*3) },
			func(all [][]int64) []byte { return varintsOf(latestOf(all), latestOf(all)*3) },
		},
		"latest double": {
			urns.MetricTypeLatestDouble,
			func(s []int64) []byte { return append(varintsOf(sum(s)), doublesOf(float64(sum(s))/8)...) },
			func(all [][]int64) []byte {
				return append(varintsOf(latestOf(all)), doublesOf(float64(latestOf(all))/8)...)
			},
		},
		"set of strings": {
			urns.MetricTypeSetString,
			func(s []int64) []byte { return listOf(stringsOf(s)...) },
			func(all [][]int64) []byte {
				s := stringsOf(slices.Concat(all...))
				slices.SortFunc(s, bytes.Compare)
				return listOf(slices.CompactFunc(s, bytes.Equal)...)
			},
		},
		"histogram": {
			urns.MetricTypeHistogramInt64,
			func(s []int64) []byte { return histogramOf(s) },
			func(all [][]int64) []byte { return histogramOf(slices.Concat(all...)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				samples := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(-50, 50), 0, 4), 1, 6).Draw(rt, "samples")
				if len(slices.Concat(samples...)) == 0 {
					samples[0] = []int64{1}
				}
				var payloads [][]byte
				for _, s := range samples {
					payloads = append(payloads, c.encode(s))
				}
				got, want := total(t, c.typ, payloads...), c.want(samples)
				if name == "set of strings" && len(samples) == 1 || name == "histogram" {
					return // as they came; and protobuf promises no order of bytes
				}
				if !bytes.Equal(got, want) {
					rt.Fatalf("%v add up to %x, want %x", samples, got, want)
				}
			})
		})
	}
}

func sum(s []int64) (n int64) {
	for _, v := range s {
		n += v
	}
	return n
}

func latestOf(all [][]int64) int64 {
	latest := int64(math.MinInt64)
	for _, s := range all {
		latest = max(latest, sum(s))
	}
	return latest
}

func stringsOf(s []int64) (out [][]byte) {
	for _, v := range s {
		out = append(out, coders.AppendBytes(nil, []byte(fmt.Sprint(v))))
	}
	return out
}

func histogramOf(s []int64) []byte {
	h := &pipepb.HistogramValue{Count: proto.Int64(int64(len(s)))}
	for _, v := range s {
		bucket := int(v+50) / 10
		for len(h.BucketCounts) <= bucket {
			h.BucketCounts = append(h.BucketCounts, 0)
		}
		h.BucketCounts[bucket]++
	}
	b, err := proto.Marshal(h)
	if err != nil {
		panic(err)
	}
	return b
}

func TestHistograms(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		samples := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(-50, 50), 0, 4), 2, 5).Draw(rt, "samples")
		var payloads [][]byte
		for _, s := range samples {
			payloads = append(payloads, histogramOf(s))
		}
		var got, want pipepb.HistogramValue
		if err := proto.Unmarshal(total(t, urns.MetricTypeHistogramInt64, payloads...), &got); err != nil {
			rt.Fatal(err)
		}
		if err := proto.Unmarshal(histogramOf(slices.Concat(samples...)), &want); err != nil {
			rt.Fatal(err)
		}
		if !proto.Equal(&got, &want) {
			rt.Fatalf("%v, want %v", &got, &want)
		}
	})
	linear := func(width float64) []byte {
		b, err := proto.Marshal(&pipepb.HistogramValue{BucketCounts: []int64{1}, BucketOptions: &pipepb.HistogramValue_BucketOptions{
			BucketType: &pipepb.HistogramValue_BucketOptions_Linear_{Linear: &pipepb.HistogramValue_BucketOptions_Linear{Width: &width}}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if got := total(t, urns.MetricTypeHistogramInt64, linear(1), linear(2)); !bytes.Equal(got, linear(2)) {
		t.Error("buckets of other widths are added up")
	}
}

// The longer of both lists tells how many the user wants.
func TestRankedLists(t *testing.T) {
	big := int64(1) << 60
	for name, c := range map[string]struct {
		typ        string
		a, b, want []byte
	}{
		"top integers": {
			urns.MetricTypeTopNInt64,
			listOf(varintsOf(big), varintsOf(5), varintsOf(-7)), listOf(varintsOf(big+1), varintsOf(6)),
			listOf(varintsOf(big+1), varintsOf(big), varintsOf(6)),
		},
		"bottom integers": {
			urns.MetricTypeBottomNInt64,
			listOf(varintsOf(-big), varintsOf(3)), listOf(varintsOf(-big-1), varintsOf(2)),
			listOf(varintsOf(-big-1), varintsOf(-big)),
		},
		"top doubles": {
			urns.MetricTypeTopNDouble,
			listOf(doublesOf(1.5)), listOf(doublesOf(2.5), doublesOf(math.NaN())),
			listOf(doublesOf(2.5), doublesOf(1.5)),
		},
		"bottom doubles": {
			urns.MetricTypeBottomNDouble,
			listOf(doublesOf(1.5), doublesOf(4)), listOf(doublesOf(2.5)),
			listOf(doublesOf(1.5), doublesOf(2.5)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := total(t, c.typ, c.a, c.b); !bytes.Equal(got, c.want) {
				t.Errorf("%x, want %x", got, c.want)
			}
		})
	}
}

func TestUnknownAndBrokenValuesAreShownAsTheyAre(t *testing.T) {
	if got := total(t, "beam:metrics:of:the:future:v7", []byte("old"), []byte("new")); string(got) != "new" {
		t.Errorf("%q, want the newest", got)
	}
	for _, typ := range []string{
		urns.MetricTypeSumInt64, urns.MetricTypeSumDouble, urns.MetricTypeDistributionInt64, urns.MetricTypeDistributionDouble,
		urns.MetricTypeLatestInt64, urns.MetricTypeLatestDouble, urns.MetricTypeSetString, urns.MetricTypeTopNInt64,
		urns.MetricTypeTopNDouble, urns.MetricTypeBottomNInt64, urns.MetricTypeBottomNDouble, urns.MetricTypeBoundedTrie,
		urns.MetricTypeHistogramInt64,
	} {
		broken := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		if got := total(t, typ, varintsOf(1), broken); !bytes.Equal(got, broken) {
			t.Errorf("%s: %x", typ, got)
		}
	}
}

func TestMomentaryMetricsHaveNoTotal(t *testing.T) {
	totals := NewTotals()
	totals.Add([]*pipepb.MonitoringInfo{
		{Urn: urns.MetricDataChannelReadIndex, Type: urns.MetricTypeSumInt64, Payload: varintsOf(1)},
		{Urn: urns.MetricWorkCompleted, Type: urns.MetricTypeProgress},
		{Urn: urns.MetricWorkRemaining},
		{Urn: "mine", Type: urns.MetricTypeProgress},
	})
	if got := totals.Infos(); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

// A metric is its URN and labels, in whatever order a map keeps them, and nothing else.
func TestMetricsAreToldApartByURNAndLabels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "a", "b", "a\x00b", "\x00", "\x00\x00", "\x00\x01", "a\x00\x00b", "a=b"})
		type metric struct {
			urn    string
			labels string
		}
		totals := NewTotals()
		want := map[metric]int64{}
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			labels := rapid.MapOfN(word, word, 0, 3).Draw(t, "labels")
			urn := word.Draw(t, "urn")
			shuffled := map[string]string{}
			for k, v := range maps.All(labels) {
				shuffled[k] = v
			}
			totals.Add([]*pipepb.MonitoringInfo{{Urn: urn, Type: urns.MetricTypeSumInt64, Labels: shuffled, Payload: varintsOf(1)}})
			want[metric{urn, fmt.Sprintf("%q", labels)}]++
		}
		got := map[metric]int64{}
		for _, info := range totals.Infos() {
			n, _, err := coders.Varint(info.GetPayload())
			if err != nil {
				t.Fatal(err)
			}
			got[metric{info.GetUrn(), fmt.Sprintf("%q", info.GetLabels())}] += n
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(metric{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestTotalsKeepWhatTheyAreGiven(t *testing.T) {
	given := []*pipepb.MonitoringInfo{info(urns.MetricTypeSumInt64, varintsOf(3)), info(urns.MetricTypeSumInt64, varintsOf(4))}
	before := []*pipepb.MonitoringInfo{proto.CloneOf(given[0]), proto.CloneOf(given[1])}
	totals := NewTotals()
	totals.Add(given[:1])
	clone := totals.Clone()
	clone.Add(given[1:])
	for i := range given {
		if !proto.Equal(given[i], before[i]) {
			t.Errorf("what was added has been changed: %v", given[i])
		}
	}
	for want, of := range map[int64]*Totals{3: totals, 7: clone} {
		if got := of.Infos()[0].GetPayload(); !bytes.Equal(got, varintsOf(want)) {
			t.Errorf("total %x, want %d", got, want)
		}
	}
}

func TestInfosAreOrdered(t *testing.T) {
	totals := NewTotals()
	for _, urn := range []string{"c", "a", "b"} {
		for _, name := range []string{"y", "x"} {
			totals.Add([]*pipepb.MonitoringInfo{{Urn: urn, Labels: map[string]string{"NAME": name}}})
		}
	}
	var got []string
	for _, info := range totals.Infos() {
		got = append(got, info.GetUrn()+info.GetLabels()["NAME"])
	}
	if diff := cmp.Diff([]string{"ax", "ay", "bx", "by", "cx", "cy"}, got); diff != "" {
		t.Error(diff)
	}
}
