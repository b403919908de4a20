package portable_test

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// checkSnapshots checks that a plan for checkpoints is one.
func checkSnapshots(t failer, p *plan.Plan, opts portable.Options) {
	t.Helper()
	if opts.Checkpoints && !p.Snapshots() {
		t.Errorf("there is a stage that no snapshot can be taken of:\n%s", p.Text())
	}
}

func forCheckpoints(t *testing.T, p *Pipeline) *plan.Plan {
	t.Helper()
	pl, err := portable.Compile(t.Context(), p.Proto, portable.Options{Checkpoints: true})
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, pl)
	if without := compile(t, p); pl.Bounded() != without.Bounded() {
		t.Errorf("bounded: %t with checkpoints, %t without", pl.Bounded(), without.Bounded())
	}
	return pl
}

// onlyGroup returns how the only GroupByKey of a plan groups.
func onlyGroup(t *testing.T, p *plan.Plan) *plan.GroupSpec {
	t.Helper()
	var found *plan.GroupSpec
	for _, s := range p.Stages {
		if s.Kind == plan.GroupByKey {
			if found != nil {
				t.Fatalf("there are two:\n%s", p.Text())
			}
			found = s.Group
		}
	}
	if found == nil {
		t.Fatalf("there is none:\n%s", p.Text())
	}
	return found
}

func TestGroupsOfCheckpointsAreInPanes(t *testing.T) {
	words := func() (*Pipeline, string) {
		p := New()
		return p, p.ParDo("words", Env, KV, p.Impulse("impulse"))
	}
	t.Run("plain", func(t *testing.T) {
		p, in := words()
		p.ParDo("after", Env, Bytes, p.GroupByKey("group", in))
		if g := onlyGroup(t, compile(t, p)); g.Panes || !g.Bounded {
			t.Errorf("without checkpoints: %+v", g)
		}
		if g := onlyGroup(t, forCheckpoints(t, p)); !g.Panes || !g.Bounded || g.Combine != nil {
			t.Errorf("%+v", g)
		}
	})
	t.Run("batches", func(t *testing.T) {
		p := batching(t, &pipepb.GroupIntoBatchesPayload{BatchSize: 10})
		if g := onlyGroup(t, forCheckpoints(t, p)); !g.Panes || !g.Bounded || g.BatchSize != 10 || g.StateBacked || g.Combine != nil {
			t.Errorf("%+v", g)
		}
	})
	t.Run("lifted combine", func(t *testing.T) {
		p, in := words()
		p.Combine("sum", Env, in)
		pl := forCheckpoints(t, p)
		if g := onlyGroup(t, pl); !g.Panes || g.Combine == nil || len(pl.Calls) != 1 || pl.Calls[0] != g.Combine {
			t.Errorf("%+v, %d calls", g, len(pl.Calls))
		}
	})
	t.Run("no empty panes", func(t *testing.T) {
		p, in := words()
		p.Proto.Components.WindowingStrategies[Global].ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
		p.Combine("sum", Env, in)
		if g := onlyGroup(t, forCheckpoints(t, p)); g.Windowing.EmptyFinal {
			t.Error("what fires once has an empty pane, which a CombineFn may not know how to merge")
		}
	})
}

// Elements wait for side inputs by window, in a stage of their reader's own, whether they change or not.
func TestSideInputsOfCheckpointsAreInPanes(t *testing.T) {
	p := New()
	in := p.ParDo("first", Env, Bytes, p.Impulse("impulse"))
	side := p.ParDo("side", Env, KV, p.Impulse("another"))
	p.ParDo("use", Env, Bytes, in, side)
	pl := forCheckpoints(t, p)
	for _, s := range pl.Stages {
		if s.Kind == plan.SideInput && (s.Side.Group == nil || !s.Side.Group.Panes || !s.Side.Group.Bounded || s.Side.Panes == nil) {
			t.Errorf("%+v", s.Side)
		}
	}
	if s := stageOf(t, pl, "use"); s.Exec.Transforms[0] != "use" {
		t.Errorf("the reader is fused behind %q", s.Exec.Transforms)
	}
}

// A source without end is all that makes a job unbounded where nothing is grouped.
func TestSourcesWithoutEndAreNotBounded(t *testing.T) {
	for _, unbounded := range []bool{false, true} {
		p := New()
		out := p.Transform("read", urns.TransformSDFProcessSized, Env, &pipepb.ParDoPayload{RestrictionCoderId: Opaque}, Bytes, p.Impulse("impulse"))
		if unbounded {
			p.Proto.Components.Pcollections[out].IsBounded = pipepb.IsBounded_UNBOUNDED
		}
		p.ParDo("write", Env, Bytes, out)
		if got := forCheckpoints(t, p).Bounded(); got == unbounded {
			t.Errorf("bounded: %t, and its source unbounded: %t", got, unbounded)
		}
	}
}
