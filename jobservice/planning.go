package jobservice

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/plan"
)

// errPlanTime is the cause of a context that the time to plan has ended.
var errPlanTime = errors.New("time to plan")

// planPipeline plans within the configured time. A planner that goes on beyond it
// keeps its place among those that may plan at once.
func (s *Service) planPipeline(ctx context.Context, p *pipepb.Pipeline, options *structpb.Struct) (*plan.Plan, error) {
	if !s.begin() {
		return nil, errStopped
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.PlanTimeout, errPlanTime)
	defer cancel()
	select {
	case s.planners <- struct{}{}:
	case <-ctx.Done():
		s.running.Done()
		return nil, planningEnded(ctx, s.cfg.PlanTimeout, "waited for others that are being planned")
	}
	type result struct {
		plan *plan.Plan
		err  error
	}
	planned := make(chan result, 1)
	go func() {
		defer s.running.Done()
		defer func() { <-s.planners }()
		made, err := s.callPlanner(ctx, p, options)
		planned <- result{made, err}
	}()
	select {
	case r := <-planned:
		return r.plan, r.err
	case <-ctx.Done():
		return nil, planningEnded(ctx, s.cfg.PlanTimeout, "took too long to plan")
	}
}

func planningEnded(ctx context.Context, limit time.Duration, what string) error {
	if errors.Is(context.Cause(ctx), errPlanTime) {
		return rpcstatus.Errorf(codes.ResourceExhausted, "the pipeline %s: %v have passed; try again, with fewer transforms if that doesn't help", what, limit)
	}
	return fmt.Errorf("while the pipeline was planned: %w", ctx.Err())
}

// callPlanner keeps a defect in planning from ending everyone's jobs.
func (s *Service) callPlanner(ctx context.Context, p *pipepb.Pipeline, options *structpb.Struct) (planned *plan.Plan, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.cfg.Logger.Error("planning panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("the pipeline could not be planned because of a defect in the runner, please report it: %v", r)
		}
	}()
	return s.plan(ctx, p, options)
}
