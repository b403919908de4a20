package worker

import (
	"fmt"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// Batches are as large whether they leave in panes, as in jobs with checkpoints, or when all input has come.
func TestBatchesAreFull(t *testing.T) {
	for _, checkpoints := range []bool{false, true} {
		p := portabletest.New()
		kvs := p.ParDo("kv", pEnv, pKV, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse")))
		p.ParDo("expanded", pEnv, portabletest.Groups, kvs)
		p.ParDo("write", pEnv, pBytes, p.ParDo("sizes", pEnv, pBytes, "expanded.out"))
		batches := p.Composite("batches", urns.TransformGroupIntoBatches, map[string]string{"i0": kvs}, map[string]string{"o0": "expanded.out"}, "expanded")
		var err error
		if batches.Spec.Payload, err = proto.Marshal(&pipepb.GroupIntoBatchesPayload{BatchSize: 10}); err != nil {
			t.Fatal(err)
		}
		c := compileAs(t, p, portable.Options{Checkpoints: checkpoints}, map[string]doFn{
			"split": split(50), "kv": modulo(2), "write": collector,
			"sizes": func(c *call) error {
				key, values := group(c.element)
				c.emit(bytesOf(fmt.Sprint(key, " ", len(values))))
				return nil
			},
		})
		newRig(t, c.script).mustRun(c.plan)
		var got []string
		for _, e := range c.got("write") { // sorted as encoded
			got = append(got, text([]byte(e)))
		}
		if diff := cmp.Diff([]string{"k0 5", "k1 5", "k0 10", "k0 10", "k1 10", "k1 10"}, got); diff != "" {
			t.Errorf("with checkpoints: %t (-want +got):\n%s", checkpoints, diff)
		}
	}
}
