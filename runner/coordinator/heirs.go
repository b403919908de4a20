package coordinator

import (
	"slices"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// inherits says what of a savepoint a plan has no place for, beside what its transforms keep: elements that wait for side
// inputs are of the stage that was to take them.
func inherits(p *plan.Plan, now protocol.Pipeline, r *rpc.Restore) error {
	stages := map[string]bool{}
	for _, name := range p.StageNames() {
		stages[name] = true
	}
	for _, t := range r.Manifest.Tasks {
		name, was := r.Stage(t.Stage)
		if len(t.Parts) == 0 || r.Update.Drops(was) {
			continue
		}
		if !stages[name] {
			return fault.New(fault.Invalid, "the savepoint has %v of stage %q, and the plan has no stage of that name: keep its first transform as it was, or name it in transform_name_mapping",
				t.Parts[0].Kind, t.Stage)
		}
		if !slices.ContainsFunc(t.Parts, func(p protocol.Part) bool { return p.Kind == protocol.Parked }) {
			continue
		}
		before, after := describedAs(r.Manifest.Pipeline, was), describedAs(now, name)
		if before.Coder != after.Coder || before.Windowing != after.Windowing {
			return fault.New(fault.Invalid, "the savepoint has elements that wait for transform %q, which are %s in %s; its input is %s in %s now",
				t.Stage, before.Coder, before.Windowing, after.Coder, after.Windowing)
		}
	}
	return nil
}

// describedAs returns the description of a transform, that of nothing if there is none.
func describedAs(p protocol.Pipeline, name string) protocol.Transform {
	at := slices.IndexFunc(p.Transforms, func(t protocol.Transform) bool { return t.Name == name })
	if at < 0 {
		return protocol.Transform{}
	}
	return p.Transforms[at]
}
