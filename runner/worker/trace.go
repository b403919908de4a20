package worker

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
)

// spans are the spans of an execution; nil if nobody wants them, and then its methods
// do nothing. They are children of what the execution's context says. Safe for
// concurrent use.
type spans struct {
	tracer trace.Tracer
	every  int64
	ctx    context.Context // of the job's span; never waited for
	stages []stageSpan     // by stage index
	deploy *deploySpan
}

// stageSpan goes from the first bundle of a stage to its last; that of a runner stage
// from its first input to its end.
type stageSpan struct {
	bundles, elements, bytes atomic.Int64 // of attempts that have ended

	once  sync.Once // makes the span
	mu    sync.Mutex
	ctx   context.Context // of the span; nil until it begins
	span  trace.Span
	tasks int       // that have not ended
	last  time.Time // when the last bundle ended
	err   error
}

// deploySpan lasts until each keeper has had its first harness.
type deploySpan struct {
	ctx  context.Context
	span trace.Span
	mu   sync.Mutex
	left int
}

func (e *execution) newSpans(ctx context.Context) *spans {
	if e.cfg.Tracer == nil {
		return nil
	}
	s := &spans{tracer: e.cfg.Tracer, every: int64(e.cfg.TraceBundles), ctx: ctx, stages: make([]stageSpan, len(e.d.Plan.Stages))}
	for i, stage := range e.d.Plan.Stages {
		s.stages[i].tasks = e.parallelism(stage)
	}
	deploying, span := s.tracer.Start(ctx, "deploy", trace.WithAttributes(
		attribute.Int("lintel.stages", len(e.d.Plan.Stages)), attribute.Int("lintel.parallelism", e.d.Parallelism)))
	s.deploy = &deploySpan{ctx: deploying, span: span}
	return s
}

// expect tells which harnesses the deployment has to bring up, or that it can't.
func (s *spans) expect(pools map[string]*pool, err error) {
	if s == nil {
		return
	}
	for _, p := range pools {
		s.deploy.left += p.keepers
	}
	if s.deploy.left == 0 || err != nil {
		end(s.deploy.span, err)
	}
}

// harness begins the span of a harness's start, and returns what ends it. The first
// harness of each keeper belongs to the deployment.
func (s *spans) harness(environment string, first bool) func(*harness, error) {
	if s == nil {
		return func(*harness, error) {}
	}
	parent := s.ctx
	if first {
		parent = s.deploy.ctx
	}
	_, span := s.tracer.Start(parent, "start harness", trace.WithAttributes(attribute.String("lintel.environment", environment)))
	return func(h *harness, err error) {
		if h != nil {
			span.SetAttributes(attribute.String("lintel.harness", h.ID()))
		}
		end(span, err)
		if first {
			s.deploy.done(err)
		}
	}
}

func (d *deploySpan) done(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; err != nil || d.left == 0 {
		end(d.span, err)
	}
}

// began notes that a stage has a bundle, which began at that time.
func (s *spans) began(stage *plan.Stage, at time.Time) {
	if s == nil {
		return
	}
	s.stages[stage.Index].once.Do(func() { s.begin(stage, at) })
}

// input notes that a runner stage has input.
func (s *spans) input(stage *plan.Stage) {
	if s == nil {
		return
	}
	s.stages[stage.Index].once.Do(func() { s.begin(stage, time.Now()) })
}

func (s *spans) begin(stage *plan.Stage, at time.Time) {
	ctx, span := s.tracer.Start(s.ctx, "stage "+stage.ID, trace.WithTimestamp(at), trace.WithAttributes(
		attribute.String("lintel.stage", stage.ID),
		attribute.String("lintel.stage.name", stage.Name),
		attribute.String("lintel.stage.kind", stage.Kind.String()),
	))
	t := &s.stages[stage.Index]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx, t.span = ctx, span
}

// bundle notes an attempt that has ended, and makes a span of each that failed and of
// one in so many others, the first included.
func (s *spans) bundle(x *execTask, b *engine.Bundle, began time.Time, outputBytes int, err error) {
	if s == nil {
		return
	}
	now := time.Now()
	t := &s.stages[x.stage.Index]
	nth := t.bundles.Add(1)
	t.elements.Add(int64(b.Elements))
	t.bytes.Add(int64(b.Bytes))
	t.mu.Lock()
	t.last = now
	ctx := t.ctx
	t.mu.Unlock()
	if err == nil && (nth-1)%s.every != 0 {
		return
	}
	outcome := "succeeded"
	if err != nil {
		outcome = "failed"
	}
	_, span := s.tracer.Start(ctx, "bundle", trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("lintel.stage", x.stage.ID),
		attribute.Int("lintel.task", x.index),
		attribute.Int("lintel.bundle.elements", b.Elements),
		attribute.Int("lintel.bundle.timers", len(b.Timers)),
		attribute.Int("lintel.bundle.bytes", b.Bytes),
		attribute.Int("lintel.bundle.output_bytes", outputBytes),
		attribute.Int("lintel.bundle.attempt", b.Attempt),
		attribute.String("lintel.bundle.outcome", outcome),
	))
	end(span, err, trace.WithTimestamp(now))
}

// taskEnded ends the span of a stage with its last task.
func (s *spans) taskEnded(stage *plan.Stage, err error) {
	if s == nil {
		return
	}
	t := &s.stages[stage.Index]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
	if t.tasks--; t.tasks > 0 || t.span == nil {
		return
	}
	at := t.last
	if stage.Exec == nil {
		at = time.Now()
	} else {
		t.span.SetAttributes(
			attribute.Int64("lintel.stage.bundles", t.bundles.Load()),
			attribute.Int64("lintel.stage.elements", t.elements.Load()),
			attribute.Int64("lintel.stage.bytes", t.bytes.Load()))
	}
	end(t.span, t.err, trace.WithTimestamp(at))
}

// end ends a span, with the error if there is one.
func end(span trace.Span, err error, options ...trace.SpanEndOption) {
	if err != nil {
		span.RecordError(err)
		line, _, _ := strings.Cut(err.Error(), "\n")
		span.SetStatus(codes.Error, line)
	}
	span.End(options...)
}
