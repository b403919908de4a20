package jobservice_test

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/tracing"
	"github.com/lintelrun/lintel/internal/tracing/tracingtest"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/plan"
)

// tracedRig is a service that sends spans; the function returns them once the rig needs no more.
func tracedRig(t *testing.T, planner jobservice.Planner) (*rig, func() []tracingtest.Span) {
	receiver := tracingtest.Start(t)
	p, err := tracing.New(tracing.Config{Endpoint: receiver.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, jobservice.Config{Tracer: p.Tracer()}, planner), func() []tracingtest.Span {
		if err := p.Shutdown(); err != nil {
			t.Fatal(err)
		}
		return receiver.Spans()
	}
}

func TestAJobIsATrace(t *testing.T) {
	r, spans := tracedRig(t, nil)
	id := r.prepare(t)
	run := r.start(t, id)
	inRun := trace.SpanContextFromContext(run.ctx)
	run.result <- errors.New("ValueError\nTraceback")
	var told string
	for _, m := range r.watch(t, id) {
		if text, ok := strings.CutPrefix(m.GetMessageResponse().GetMessageText(), "trace id "); ok {
			told = text
		}
	}
	parents := map[string]string{}
	for _, s := range spans() {
		parents[s.Name] = s.Parent
		if got := hex.EncodeToString(s.GetTraceId()); got != told || got != inRun.TraceID().String() {
			t.Errorf("span %s is of trace %s, the log says %q, the executor is told %v", s.Name, got, told, inRun.TraceID())
		}
		if s.Name != "job" {
			continue
		}
		want := map[string]any{"lintel.job.id": id, "lintel.job.name": "Word Count", "lintel.job.state": "FAILED"}
		if diff := cmp.Diff(want, s.Attributes); diff != "" {
			t.Errorf("the job's attributes (-want +got):\n%s", diff)
		}
		if !s.Failed() || !strings.Contains(s.GetStatus().GetMessage(), "ValueError") || hex.EncodeToString(s.GetSpanId()) != inRun.SpanID().String() {
			t.Errorf("the job's span is %v; the executor is told %v", s, inRun.SpanID())
		}
	}
	want := map[string]string{"job": "", "Prepare": "job", "plan": "Prepare", "stage artifacts": "job", "Run": "job"}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents of spans (-want +got):\n%s", diff)
	}
}

func TestRefusedJobEndsItsTrace(t *testing.T) {
	r, spans := tracedRig(t, func(context.Context, *pipepb.Pipeline, *structpb.Struct) (*plan.Plan, error) {
		return nil, fault.New(fault.Unsupported, "no such thing")
	})
	if _, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}}); err == nil {
		t.Fatal("prepared")
	}
	failed := map[string]bool{}
	for _, s := range spans() {
		failed[s.Name] = s.Failed()
	}
	if diff := cmp.Diff(map[string]bool{"job": true, "Prepare": true, "plan": true}, failed); diff != "" {
		t.Errorf("spans that failed (-want +got):\n%s", diff)
	}
}

// Without a tracer nobody is told of traces, and jobs have none.
func TestJobsWithoutTraces(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	run := r.start(t, id)
	if trace.SpanContextFromContext(run.ctx).IsValid() {
		t.Error("the executor is told of a trace")
	}
	run.result <- nil
	for _, m := range r.watch(t, id) {
		if strings.Contains(m.GetMessageResponse().GetMessageText(), "trace") {
			t.Errorf("the log says %v", m)
		}
	}
}
