package portable_test

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// batching makes a pipeline with a GroupIntoBatches as SDKs send it: with its expansion.
func batching(t *testing.T, payload *pipepb.GroupIntoBatchesPayload) *Pipeline {
	t.Helper()
	p := New()
	in := p.ParDo("read", Env, KV, p.Impulse("impulse"))
	p.ParDoWith("expanded", Env, counting(), Groups, in)
	p.ParDo("after", Env, Bytes, "expanded.out")
	c := p.Composite("batches", urns.TransformGroupIntoBatches, map[string]string{"i0": in}, map[string]string{"o0": "expanded.out"}, "expanded")
	var err error
	if c.Spec.Payload, err = proto.Marshal(payload); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGroupIntoBatchesIsOfTheRunner(t *testing.T) {
	pl := wantShape(t, batching(t, &pipepb.GroupIntoBatchesPayload{BatchSize: 10}), `
s0 impulse
s1 executable read <forward s0
s2 group-by-key <keyed s1
s3 executable after <forward s2
`)
	if g := pl.Stages[2].Group; g.BatchSize != 10 || g.Panes || g.StateBacked {
		t.Errorf("batches of %d, panes %t, state-backed %t", g.BatchSize, g.Panes, g.StateBacked)
	}
}

func TestGroupIntoBatchesIsOfTheSDK(t *testing.T) {
	ten := &pipepb.GroupIntoBatchesPayload{BatchSize: 10}
	for name, p := range map[string]*Pipeline{
		"bytes":     batching(t, &pipepb.GroupIntoBatchesPayload{BatchSize: 10, BatchSizeBytes: 1}),
		"only size": batching(t, &pipepb.GroupIntoBatchesPayload{BatchSizeBytes: 1}),
		"time":      batching(t, &pipepb.GroupIntoBatchesPayload{BatchSize: 10, MaxBufferingDurationMillis: 1}),
		"unbounded": batching(t, ten),
		"coder":     batching(t, ten),
		"merging":   batching(t, ten),
	} {
		switch c := p.Proto.Components; name {
		case "unbounded":
			c.Pcollections["read.out"].IsBounded = pipepb.IsBounded_UNBOUNDED
		case "coder":
			c.Pcollections["expanded.out"].CoderId = Opaque
		case "merging":
			c.WindowingStrategies[Global].MergeStatus = pipepb.MergeStatus_ALREADY_MERGED
		}
		pl := compile(t, p)
		if s := stageOf(t, pl, "expanded"); s.Exec.Stateful == nil {
			t.Errorf("%s: the SDK's expansion keeps no state", name)
		}
		for _, s := range pl.Stages {
			if s.Kind == plan.GroupByKey {
				t.Errorf("%s: the plan has a GroupByKey", name)
			}
		}
	}
}
