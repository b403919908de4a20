package portable_test

import (
	"context"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// whoCounts returns who knows how many elements each PCollection of a plan has.
func whoCounts(t *testing.T, p *plan.Plan) map[string]string {
	who := map[string]string{}
	note := func(id, by string) {
		if who[id] != "" {
			t.Errorf("PCollection %q is counted twice: %s, %s", id, who[id], by)
		}
		who[id] = by
	}
	for _, s := range p.Stages {
		if s.Output != "" {
			note(s.Output, s.Kind.String())
		}
		if s.Exec == nil {
			continue
		}
		for _, id := range s.Exec.Transforms {
			for _, out := range s.Exec.Descriptor.GetTransforms()[id].GetOutputs() {
				note(out, "sdk")
			}
		}
	}
	for out, sources := range p.Wired {
		for _, source := range sources {
			if by := who[source]; by == "" || by == "wired" {
				t.Errorf("PCollection %q is wired to %q, which nobody counts", out, source)
			}
		}
	}
	for out := range p.Wired {
		note(out, "wired")
	}
	return who
}

// withinReplaced tells whether a PCollection belongs to the parts of a composite that
// the plan does in another way: no element of it ever exists.
func withinReplaced(p *pipepb.Pipeline, id string) bool {
	inside := map[string]bool{} // transforms
	var enter func(transform string)
	enter = func(transform string) {
		for _, sub := range p.GetComponents().GetTransforms()[transform].GetSubtransforms() {
			inside[sub] = true
			enter(sub)
		}
	}
	for tid, t := range p.GetComponents().GetTransforms() {
		switch t.GetSpec().GetUrn() {
		case urns.TransformReshuffle, urns.TransformRedistributeArbitrarily, urns.TransformRedistributeByKey, urns.TransformCombinePerKey:
			enter(tid)
		}
	}
	for tid, t := range p.GetComponents().GetTransforms() {
		for _, out := range t.GetOutputs() {
			if out == id && !inside[tid] {
				return false
			}
		}
	}
	return true
}

// Metrics have no holes: of each PCollection either the SDK or the runner knows the
// count, or it is made up of such, or it does not exist.
func TestEveryPCollectionIsCounted(t *testing.T) {
	for name, p := range pipelines(t) {
		for _, opts := range allOptions {
			made, err := portable.Compile(context.Background(), p, opts)
			if err != nil {
				t.Fatal(err)
			}
			who := whoCounts(t, made)
			for id := range p.GetComponents().GetPcollections() {
				if who[id] == "" && !withinReplaced(p, id) {
					t.Errorf("%s: nobody counts PCollection %q", name, id)
				}
			}
		}
	}
}

func TestWhoCounts(t *testing.T) {
	p := portabletest.New()
	a := p.ParDo("a", portabletest.Env, portabletest.KV, p.Impulse("impulse"))
	b := p.Reshuffle("b", portabletest.KV, a)
	c := p.Flatten("c", portabletest.KV, a, b, b)
	d := p.Flatten("d", portabletest.KV)
	p.Combine("combine", portabletest.Env, c)
	groups := p.GroupByKey("part", c)
	p.Get("combine").Subtransforms = []string{"part"}
	p.Proto.RootTransformIds = slices.DeleteFunc(p.Proto.RootTransformIds, func(id string) bool { return id == "part" })
	made, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
	if err != nil {
		t.Fatal(err)
	}
	who := whoCounts(t, made)
	for id, want := range map[string]string{
		"impulse.out": "impulse", a: "sdk", b: "wired", c: "wired", d: "wired", groups: "wired",
	} {
		if who[id] != want {
			t.Errorf("PCollection %q is counted by %q, want %q", id, who[id], want)
		}
	}
	if got := made.Wired[c]; len(got) != 3 || got[0] != a || got[1] != a || got[2] != a {
		t.Errorf("PCollection c, a Flatten of a and twice of its redistribution, is wired to %q", got)
	}
	if got, ok := made.Wired[d]; !ok || len(got) != 0 {
		t.Errorf("PCollection d, a Flatten of nothing, is wired to %q, %v", got, ok)
	}
}
