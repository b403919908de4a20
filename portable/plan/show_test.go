package plan_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
)

func example(t *testing.T) *plan.Plan {
	t.Helper()
	p := New()
	a := p.ParDoWith("a", Env, &pipepb.ParDoPayload{RequestsFinalization: true}, KV, p.Impulse(`say "i"`))
	p.ParDo("b", Other, Bytes, p.GroupByKey("g", a), a)
	pl, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

func same(t *testing.T, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimLeft(want, "\n"), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestText(t *testing.T) {
	same(t, `
s0 impulse x1: say "i"

s1 executable in env finalizes: a
  <- s0 forward say "i".out: bytes in global_window
  a beam:transform:pardo:v1

s2 group-by-key: g
  <- s1 keyed a.out: kv<bytes,bytes> in global_window

s3 side-input x1: side input a.out
  <- s1 forward a.out: kv<bytes,bytes> in global_window

s4 executable in other: b
  <- s2 forward g.out: kv<bytes,iterable<bytes>> in global_window
  <- s3 broadcast a.out: kv<bytes,bytes> in global_window
  b beam:transform:pardo:v1
    side input i1 from s3
`, example(t).Text())
}

func TestJSON(t *testing.T) {
	data, err := example(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Stages []map[string]any }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": "s4", "name": "b", "kind": "executable", "environment": "other",
		"inputs": []any{
			map[string]any{"from": "s2", "kind": "forward", "pcollection": "g.out", "coder": "kv<bytes,iterable<bytes>> in global_window"},
			map[string]any{"from": "s3", "kind": "broadcast", "pcollection": "a.out", "coder": "kv<bytes,bytes> in global_window"},
		},
		"transforms": []any{map[string]any{
			"id": "b", "name": "b", "urn": "beam:transform:pardo:v1", "side_inputs": []any{map[string]any{"name": "i1", "stage": "s3"}},
		}},
	}
	if diff := cmp.Diff(want, got.Stages[4]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONOfNothing(t *testing.T) {
	data, err := (&plan.Plan{}).JSON()
	if err != nil || string(data) != `{"stages":[]}` {
		t.Errorf("%s, %v", data, err)
	}
}

func TestDot(t *testing.T) {
	same(t, `
digraph plan {
  node [shape=box];
  s0 [label="s0 impulse\nsay \"i\""];
  s1 [label="s1 executable\na"];
  s2 [label="s2 group-by-key\ng"];
  s3 [label="s3 side-input\nside input a.out"];
  s4 [label="s4 executable\nb"];
  s0 -> s1 [label="forward", style=solid];
  s1 -> s2 [label="keyed", style=solid];
  s1 -> s3 [label="forward", style=solid];
  s2 -> s4 [label="forward", style=solid];
  s3 -> s4 [label="broadcast", style=dashed];
}
`, example(t).Dot())
}
