package portable

import (
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/graph"
)

// notYet lists what the runner doesn't do yet. Each entry returns what of a
// transform is refused, or "". An issue that adds a feature deletes its entry.
var notYet = []func(g *graph.Graph, t *graph.Transform) string{
	statefulSplittable,
}

// refuseNotYet refuses pipelines that need what the runner doesn't do yet.
func refuseNotYet(g *graph.Graph) error {
	for _, t := range g.Transforms {
		for _, f := range notYet {
			if what := f(g, t); what != "" {
				return fault.New(fault.Unsupported, "%v needs %s, which Lintel does not support yet", t, what)
			}
		}
	}
	return nil
}

func statefulSplittable(_ *graph.Graph, t *graph.Transform) string {
	if t.Stateful() && t.ParDo.GetRestrictionCoderId() != "" {
		return "state or timers in a splittable DoFn"
	}
	return ""
}
