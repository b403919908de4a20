package portable_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
)

// described prints what a checkpoint of a pipeline is compared by: its stages and edges, then its
// transforms.
func described(p *plan.Plan) string {
	var b strings.Builder
	for i, name := range p.StageNames() {
		fmt.Fprintf(&b, "%s %s\n", p.Stages[i].ID, name)
	}
	for _, name := range p.EdgeNames() {
		fmt.Fprintf(&b, "edge %s\n", name)
	}
	for _, d := range portable.Describe(p) {
		fmt.Fprintf(&b, "\n%s (%s)", d.Name, d.URN)
		if d.Keeps {
			b.WriteString(" keeps")
		}
		b.WriteString("\n")
		for _, line := range []string{d.Coder, d.Windowing} {
			if line != "" {
				fmt.Fprintf(&b, "  %s\n", line)
			}
		}
		for _, s := range d.States {
			fmt.Fprintf(&b, "  state %s: %s of %s\n", s.ID, s.Kind, s.Coder)
		}
		for _, f := range d.Timers {
			fmt.Fprintf(&b, "  timer %s: %s\n", f.Family, f.Domain)
		}
	}
	return b.String()
}

func compileProto(t *testing.T, p *pipepb.Pipeline) *plan.Plan {
	t.Helper()
	made, err := portable.Compile(t.Context(), p, portable.Options{Checkpoints: true})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// What these files say is in checkpoints: a difference means that jobs of an earlier release can't be
// updated, or not recovered.
func TestGoldenDescriptions(t *testing.T) {
	for name, p := range pipelines(t) {
		t.Run(name, func(t *testing.T) {
			made := compileProto(t, p)
			got := described(made)
			wantGolden(t, filepath.Join("testdata", "described", name+".txt"), got)
			if again := described(compileProto(t, proto.Clone(p).(*pipepb.Pipeline))); again != got {
				t.Errorf("an equal pipeline has another description:\n%s", cmp.Diff(got, again))
			}
			for what, names := range map[string][]string{"stages": made.StageNames(), "edges": made.EdgeNames()} {
				if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
					t.Errorf("%s share names: %q", what, names)
				}
			}
		})
	}
}

// Where each stage has one transform its names are still those of the fused plan's roots.
func TestStageNamesOutliveFusion(t *testing.T) {
	for name, p := range pipelines(t) {
		fused := compileProto(t, p).StageNames()
		separate, err := portable.Compile(t.Context(), p, portable.Options{Checkpoints: true, SeparateStages: true})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range compileProto(t, p).Stages {
			keeps := s.Kind != plan.Executable || s.Exec.Stateful != nil
			if keeps && !slices.Contains(separate.StageNames(), fused[i]) && s.Kind != plan.GroupByKey { // combines are lifted in one plan only
				t.Errorf("%s: no stage is called %q any more, but %q", name, fused[i], separate.StageNames())
			}
		}
	}
}

func TestDescriptionsTellWhatChanged(t *testing.T) {
	p := pipelines(t)["python_stateful"]
	before := described(compileProto(t, proto.Clone(p).(*pipepb.Pipeline)))
	for what, change := range map[string]func(*pipepb.Components){
		"a window": func(c *pipepb.Components) {
			for _, ws := range c.WindowingStrategies {
				ws.AllowedLateness++
			}
		},
		"a coder of the model": func(c *pipepb.Components) {
			for _, coder := range c.Coders {
				if coder.GetSpec().GetUrn() == "beam:coder:varint:v1" {
					coder.Spec.Urn = "beam:coder:double:v1"
				}
			}
		},
	} {
		changed := proto.Clone(p).(*pipepb.Pipeline)
		change(changed.Components)
		if described(compileProto(t, changed)) == before {
			t.Errorf("%s is another, and the description is not", what)
		}
	}
}
