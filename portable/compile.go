// Package portable turns a Beam pipeline into a plan that the runner executes.
// It is the only interpreter of pipeline protos, and it is pure: no I/O, no
// goroutines, and the same plan for the same pipeline.
package portable

import (
	"context"
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/fusion"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// Options of planning. The zero value is what jobs run with.
type Options struct {
	// SeparateStages gives each transform of an SDK a stage of its own.
	SeparateStages bool
	// OneTask says that no stage will have more than one task.
	OneTask bool
	// Checkpoints makes a plan that snapshots can be taken of (plan.Plan.Snapshots): groups and side
	// inputs of bounded input are kept in state too, and leave in panes. Such a plan does the same as one
	// without, but for what it costs.
	Checkpoints bool
}

// Compile checks a pipeline and makes its plan. It is pure: the same pipeline
// gives the same plan, and p isn't changed; the plan shares messages with p, so
// nobody may change p later. It ends soon after ctx has, with an error that wraps
// ctx's. Other errors are fault.Unsupported for what Lintel can't
// run and fault.Invalid for what is against the Beam model; both name the place.
func Compile(ctx context.Context, p *pipepb.Pipeline, opts Options) (*plan.Plan, error) {
	if err := checkRequirements(p.GetRequirements()); err != nil {
		return nil, err
	}
	g, err := graph.New(p, opts.Checkpoints)
	if err != nil {
		return nil, err
	}
	wire := newWireCoders(g)
	if err := refuseNotYet(g); err != nil {
		return nil, err
	}
	var stages []*fusion.Stage
	fuse := func() error {
		stages = fusion.Fuse(g, fusion.Options{Separate: opts.SeparateStages, Together: opts.OneTask})
		return nil
	}
	lift := func() error { return g.LiftCombines(opts.SeparateStages) }
	for _, step := range []func() error{lift, g.ExpandSDFs, g.Encode, fuse, g.TraceSources} {
		if err := interrupted(ctx); err != nil {
			return nil, err
		}
		if err := step(); err != nil {
			return nil, err
		}
	}
	wire.tie()
	return assemble(ctx, g, wire, stages, p.GetComponents(), opts)
}

// interrupted returns an error if planning is to end early.
func interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("planning was interrupted: %w", context.Cause(ctx))
	}
	return nil
}

// checkRequirements rejects what the model says a runner must understand and we don't.
// Which transforms need them is looked at where they are.
func checkRequirements(requirements []string) error {
	for _, r := range requirements {
		switch r {
		case urns.RequirementStateful, urns.RequirementFinalization, urns.RequirementStableInput,
			urns.RequirementTimeSortedInput, urns.RequirementSplittableDoFn, urns.RequirementOnWindowExpiration:
		default:
			return fault.New(fault.Unsupported, "the pipeline has the unknown requirement %q", r)
		}
	}
	return nil
}
