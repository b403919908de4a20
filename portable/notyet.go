package portable

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/graph"
)

// notYet lists what the runner doesn't do yet. Each entry returns what of a
// transform is refused, or "". An issue that adds a feature deletes its entry.
var notYet = []func(g *graph.Graph, t *graph.Transform) string{
	testStream,
	statefulSplittable,
	timeSortedInput,
	stableInput,
	unboundedInput,
}

// refuseNotYet refuses pipelines that need what the runner doesn't do yet.
func refuseNotYet(g *graph.Graph, wire *wireCoders) error {
	for _, t := range g.Transforms {
		for _, f := range notYet {
			if what := f(g, t); what != "" {
				return fault.New(fault.Unsupported, "%v needs %s, which Lintel does not support yet", t, what)
			}
		}
		if t.Kind == graph.GroupByKey || t.Kind == graph.Combine {
			if err := refuseGrouping(g, wire, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func testStream(_ *graph.Graph, t *graph.Transform) string {
	if t.Kind == graph.TestStream {
		return "TestStream"
	}
	return ""
}

func statefulSplittable(_ *graph.Graph, t *graph.Transform) string {
	if t.Stateful() && t.ParDo.GetRestrictionCoderId() != "" {
		return "state or timers in a splittable DoFn"
	}
	return ""
}

func timeSortedInput(_ *graph.Graph, t *graph.Transform) string {
	if t.ParDo.GetRequiresTimeSortedInput() {
		return "time-sorted input"
	}
	return ""
}

func stableInput(_ *graph.Graph, t *graph.Transform) string {
	if t.ParDo.GetRequiresStableInput() {
		return "stable input"
	}
	return ""
}

func unboundedInput(g *graph.Graph, t *graph.Transform) string {
	for in := range t.Inputs() {
		if g.PCollection(in).GetIsBounded() == pipepb.IsBounded_UNBOUNDED {
			return "the unbounded PCollection \"" + in + "\""
		}
	}
	return ""
}

// refuseGrouping refuses windowing that needs more than one firing at the end.
func refuseGrouping(g *graph.Graph, wire *wireCoders, t *graph.Transform) error {
	in := t.Main[0].PCollection
	ws := g.Strategy(in)
	refuse := func(what string) error {
		return fault.New(fault.Unsupported, "%v: windowing strategy %q has %s, which Lintel does not support yet",
			t, g.PCollection(in).GetWindowingStrategyId(), what)
	}
	if ws.GetAccumulationMode() == pipepb.AccumulationMode_RETRACTING {
		return refuse("the accumulation mode RETRACTING")
	}
	s, err := wire.windowing(in)
	if err != nil {
		return fault.New(fault.ClassOf(err), "%v: %w", t, err)
	}
	if !s.FiresOnceOnBoundedInput() {
		return refuse("a trigger that fires more than once")
	}
	return nil
}
