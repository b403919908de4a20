package jobservice

import (
	"context"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/portable/plan"
)

// A job is one trace. Its root span goes from the beginning of Prepare to the job's
// end; below it are Prepare with plan, the staging of artifacts, Run, and what the
// executor makes of the context that it starts the job with.

// Prepare plans a pipeline and opens the staging of its artifacts. What can't be
// run is refused here. Equal names make different jobs: Python names them all "job".
func (s *Service) Prepare(ctx context.Context, req *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	rooted, root := s.cfg.Tracer.Start(ctx, "job", trace.WithAttributes(
		attribute.String("lintel.job.name", jobName(req.GetJobName(), req.GetPipelineOptions()))))
	traced, span := s.cfg.Tracer.Start(rooted, "Prepare")
	resp, err := s.prepare(traced, root, req)
	endSpan(span, err)
	if err != nil {
		endSpan(root, err)
	}
	return resp, err
}

// traced makes root the job's, and tells people which trace it is.
func (s *Service) traced(j *job, root trace.Span) {
	j.span = root
	root.SetAttributes(attribute.String("lintel.job.id", j.id))
	if id := root.SpanContext().TraceID(); root.IsRecording() && id.IsValid() {
		j.journal.add(Event{Level: slog.LevelInfo, Text: "trace id " + id.String()})
	}
}

func (s *Service) planTraced(ctx context.Context, p *pipepb.Pipeline, options *structpb.Struct) (*plan.Plan, error) {
	_, span := s.cfg.Tracer.Start(ctx, "plan", trace.WithAttributes(
		attribute.Int("lintel.transforms", len(p.GetComponents().GetTransforms()))))
	made, err := s.planPipeline(ctx, p, options)
	if err == nil {
		span.SetAttributes(attribute.Int("lintel.stages", len(made.Stages)))
	}
	endSpan(span, err)
	return made, err
}

// context returns ctx with the job's root span.
func (j *job) context(ctx context.Context) context.Context {
	return trace.ContextWithSpan(ctx, j.span)
}

// staged makes the span of the staging of artifacts, which was between Prepare and Run.
func (s *Service) staged(j *job) {
	_, span := s.cfg.Tracer.Start(j.context(context.Background()), "stage artifacts", trace.WithTimestamp(j.prepared))
	span.End()
}

// endTrace ends the root span of a job whose end is known. The caller holds mu.
func (j *job) endTrace() {
	if j.span == nil {
		return // a job of an earlier process
	}
	j.span.SetAttributes(attribute.String("lintel.job.state", j.state.String()))
	if j.state == jobpb.JobState_FAILED {
		j.span.SetStatus(codes.Error, clipText(j.failure, 1000))
	}
	j.span.End()
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, clipText(err.Error(), 1000))
	}
	span.End()
}
