package portable_test

import (
	"context"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// A reader of a side input that changes has a stage of its own: elements wait there by their
// windows, and what else reads the same input must not wait with them.
func TestLiveSideInputs(t *testing.T) {
	for name, live := range map[string]bool{"default": false, "repeated": true} {
		p := portabletest.New()
		in := p.ParDo("first", portabletest.Env, portabletest.Bytes, p.Impulse("impulse"))
		side := p.ParDo("side", portabletest.Env, portabletest.KV, p.Impulse("another"))
		if live {
			p.Proto.Components.WindowingStrategies["repeated"] = repeated(p.Proto.Components.WindowingStrategies[portabletest.Global])
			p.Proto.Components.Pcollections[side].WindowingStrategyId = "repeated"
		}
		p.ParDo("use", portabletest.Env, portabletest.Bytes, in, side)
		compiled, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var stages, grouped int
		for _, s := range compiled.Stages {
			if s.Kind == plan.Executable {
				stages++
			}
			if s.Kind != plan.SideInput || s.Side.Group == nil {
				continue
			}
			grouped++
			g := s.Side.Group
			if !g.Panes || g.Name != s.Name || g.Windowing.DefaultTrigger {
				t.Errorf("%s: grouping %+v", name, g)
			}
			if in := g.Input.Element(); in.Components()[0].URN() != urns.CoderBytes || in.Components()[1].URN() != urns.CoderKV {
				t.Errorf("%s: input of %s", name, in.URN())
			}
			if v := s.Side.Panes.Element().Components()[1]; v.URN() != urns.CoderIterable || v.Components()[0].URN() != urns.CoderKV {
				t.Errorf("%s: panes of %s", name, v.URN())
			}
		}
		wantStages, wantGrouped := 2, 0
		if live {
			wantStages, wantGrouped = 3, 1
		}
		if stages != wantStages || grouped != wantGrouped {
			t.Errorf("%s: %d stages, %d of them grouped; want %d and %d", name, stages, grouped, wantStages, wantGrouped)
		}
	}
}

func repeated(ws *pipepb.WindowingStrategy) *pipepb.WindowingStrategy {
	return &pipepb.WindowingStrategy{
		WindowFn: ws.WindowFn, MergeStatus: ws.MergeStatus, WindowCoderId: ws.WindowCoderId, AccumulationMode: ws.AccumulationMode,
		OutputTime: ws.OutputTime, ClosingBehavior: ws.ClosingBehavior, OnTimeBehavior: ws.OnTimeBehavior, EnvironmentId: ws.EnvironmentId,
		Trigger: &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
			Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}}}},
	}
}
