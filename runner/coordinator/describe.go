package coordinator

import (
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
)

// Describe returns what an update of a job that runs by the plan is checked against. The plan is one for
// checkpoints.
func Describe(p *plan.Plan) protocol.Pipeline {
	var out protocol.Pipeline
	for _, t := range portable.Describe(p) {
		d := protocol.Transform{Name: t.Name, URN: t.URN, Coder: t.Coder, Windowing: t.Windowing, Keeps: t.Keeps}
		for _, s := range t.States {
			d.States = append(d.States, protocol.StateSpec(s))
		}
		for _, f := range t.Timers {
			d.Timers = append(d.Timers, protocol.TimerFamily(f))
		}
		out.Transforms = append(out.Transforms, d)
	}
	return out
}
