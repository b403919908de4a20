package worker

import (
	"maps"
	"slices"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// countsOf returns the element counts and the byte size distributions by PCollection.
func countsOf(t *testing.T, infos []*pipepb.MonitoringInfo) (counts map[string]int64, sizes map[string][]int64) {
	counts, sizes = map[string]int64{}, map[string][]int64{}
	for _, info := range infos {
		var values []int64
		for rest := info.GetPayload(); len(rest) > 0; {
			v, n, err := coders.Varint(rest)
			if err != nil {
				t.Fatal(err)
			}
			values, rest = append(values, v), rest[n:]
		}
		switch id := info.GetLabels()["PCOLLECTION"]; info.GetUrn() {
		case urns.MetricElementCount:
			counts[id] = values[0]
		case urns.MetricSampledByteSize:
			sizes[id] = values
		}
	}
	return counts, sizes
}

// Each PCollection of a job has its count once: what an SDK makes as the SDK says, though
// the SDKs that read it say so too; what the runner makes or joins as the runner does.
func TestEveryPCollectionHasItsCount(t *testing.T) {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	spread := p.Reshuffle("spread", pBytes, numbers)
	kvs := p.ParDo("kv", pEnv, pKV, p.Flatten("twice", pBytes, spread, numbers))
	groups := p.GroupByKey("group", kvs)
	p.ParDo("ungroup", pEnv, pBytes, groups)
	p.ParDo("unread", pEnv, pBytes, p.Flatten("nothing", pBytes))
	job := compile(t, p, map[string]doFn{"split": split(60), "kv": modulo(6), "ungroup": ungroup, "unread": ungroup})

	const per = 3 // elements of each output that the SDK says a bundle has made
	var mu sync.Mutex
	want := map[string]int64{}
	job.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
		mu.Lock()
		defer mu.Unlock()
		infos := []*pipepb.MonitoringInfo{metrics.ElementCount(inputOf(s), 1000), metrics.SampledByteSize(inputOf(s), 1000, 1000, 1, 1)}
		for _, id := range s.Exec.Transforms {
			for out := range maps.Values(s.Exec.Descriptor.GetTransforms()[id].GetOutputs()) {
				want[out] += per
				infos = append(infos, metrics.ElementCount(out, per), metrics.SampledByteSize(out, 1, 8, 8, 8))
			}
		}
		return b.Respond(&fnpb.ProcessBundleResponse{MonitoringInfos: infos})
	}
	r := newRig(t, job.script)
	attempted, committed := r.mustRun(job.plan).Metrics()

	want["impulse.out"], want["group.out"], want["nothing.out"], want["unread.out"] = 1, 6, 0, 0
	want["spread.out"], want["twice.out"] = want["split.out"], 2*want["split.out"]
	counts, sizes := countsOf(t, committed)
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("element counts (-want +got):\n%s", diff)
	}
	if again, _ := countsOf(t, attempted); !maps.Equal(again, counts) {
		t.Errorf("attempted counts of a job that has ended: %v, committed ones %v", again, counts)
	}
	bundles := want["split.out"] / per
	for id, want := range map[string][]int64{"spread.out": {bundles, 8 * bundles, 8, 8}, "twice.out": {2 * bundles, 16 * bundles, 8, 8}} {
		if diff := cmp.Diff(want, sizes[id]); diff != "" {
			t.Errorf("byte sizes of %s (-want +got):\n%s", id, diff)
		}
	}
	for id, count := range map[string]int64{"impulse.out": 1, "group.out": 6} {
		if s := sizes[id]; len(s) != 4 || s[0] != count || s[2] < 1 || s[3] < s[2] || s[1] < s[2]*s[0] || s[1] > (s[3]+1)*s[0] {
			t.Errorf("byte sizes of %s are %v", id, s)
		}
	}
}

// ofUsers returns the metrics that a user's code has made.
func ofUsers(infos []*pipepb.MonitoringInfo) []*pipepb.MonitoringInfo {
	return slices.DeleteFunc(slices.Clone(infos), func(info *pipepb.MonitoringInfo) bool { return info.GetLabels()["NAME"] == "" })
}

func inputOf(s *plan.Stage) string {
	for _, id := range s.Exec.Descriptor.GetTransforms()[s.Exec.Source].GetOutputs() {
		return id
	}
	return ""
}
