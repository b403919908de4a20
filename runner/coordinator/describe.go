package coordinator

import (
	"strings"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/plan"
)

// CheckUpdate tells whether a job with a plan and options can go on with the state of one that runs by another. If
// not, the error is a fault.Invalid that names all that stands in the way. Both plans are for checkpoints.
func CheckUpdate(running, next *plan.Plan, o *options.Options) error {
	return goesOn(Describe(running), Describe(next), updateOf(o), "the running job")
}

func updateOf(o *options.Options) protocol.Update {
	return protocol.Update{Names: o.TransformNames, MayDrop: o.AllowDroppedState}
}

// goesOn returns what stands in the way of a pipeline that is to go on from another's state, which what names.
func goesOn(from, to protocol.Pipeline, u protocol.Update, what string) error {
	found, err := protocol.Compare(from, to, u)
	if err != nil {
		return err
	}
	blocked := protocol.Blocked(found)
	if len(blocked) == 0 {
		return nil
	}
	lines := make([]string, len(blocked))
	for i, f := range blocked {
		lines[i] = f.String()
	}
	return fault.New(fault.Invalid, "the pipeline can't go on from %s, unless allow_dropped_state or transform_name_mapping says how:\n%s", what, strings.Join(lines, "\n"))
}

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
