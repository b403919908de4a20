package jobservice_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/plan"
)

const (
	stopped    = jobpb.JobState_STOPPED
	starting   = jobpb.JobState_STARTING
	running    = jobpb.JobState_RUNNING
	done       = jobpb.JobState_DONE
	failed     = jobpb.JobState_FAILED
	cancelling = jobpb.JobState_CANCELLING
	draining   = jobpb.JobState_DRAINING
	drained    = jobpb.JobState_DRAINED
	cancelled  = jobpb.JobState_CANCELLED
)

func TestJobFromPrepareToDone(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	options, _ := structpb.NewStruct(map[string]any{"beam:option:job_name:v1": "real name"})
	pipeline := &pipepb.Pipeline{RootTransformIds: []string{"a"}, Components: &pipepb.Components{
		Environments: map[string]*pipepb.Environment{"e": {Urn: "beam:env:external:v1"}},
	}}
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: pipeline, PipelineOptions: options, JobName: "job"})
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetArtifactStagingEndpoint().GetUrl(); got != authority {
		t.Errorf("staging endpoint %q, want the address that the client used, %q", got, authority)
	}
	id := resp.GetPreparationId()

	// Python subscribes to both streams before it runs the job.
	states, err := r.client.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := states.Recv(); err != nil || first.GetState() != stopped || first.GetTimestamp().AsTime().IsZero() {
		t.Fatalf("first state %v, %v; want STOPPED with a time", first, err)
	}
	messages, err := r.client.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}

	job := r.start(t, id)
	if job.job.RetrievalToken == "" || job.job.RetrievalToken != resp.GetStagingSessionToken() {
		t.Errorf("retrieval token %q, want the session's %q", job.job.RetrievalToken, resp.GetStagingSessionToken())
	}
	if diff := cmp.Diff(pipeline, job.job.Pipeline, protocmp.Transform()); diff != "" {
		t.Errorf("executor's pipeline (-submitted +got):\n%s", diff)
	}
	job.sink.Message(slog.LevelInfo, "workers are up")
	job.sink.Running()
	job.sink.Running() // once is enough
	if s, _ := r.client.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: id}); s.GetState() != running {
		t.Errorf("state %v, want RUNNING", s.GetState())
	}
	wantMetrics := &jobpb.MetricResults{
		Attempted: []*pipepb.MonitoringInfo{{Urn: "attempted"}, {Urn: "committed"}},
		Committed: []*pipepb.MonitoringInfo{{Urn: "committed"}},
	}
	checkMetrics := func(when string, want *jobpb.MetricResults) {
		t.Helper()
		m, err := r.client.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: id})
		if diff := cmp.Diff(want, m.GetMetrics(), protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("metrics %s: %v, (-want +got):\n%s", when, err, diff)
		}
	}
	testkit.Eventually(t, 5*time.Second, "the run has metrics", func() bool { // once it has been handed over
		m, err := r.client.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: id})
		return err == nil && len(m.GetMetrics().GetCommitted()) > 0
	})
	checkMetrics("during the run", wantMetrics)
	job.end(nil)

	var rest []jobservice.State
	for _, s := range readAll(t, states) {
		rest = append(rest, s.GetState())
	}
	if want := []jobservice.State{starting, running, done}; !slices.Equal(rest, want) {
		t.Errorf("states after the first: %v, want %v", rest, want)
	}
	live := readAll(t, messages)
	if diff := cmp.Diff(live, r.watch(t, id), protocmp.Transform()); diff != "" {
		t.Errorf("a late subscriber sees something else (-early +late):\n%s", diff)
	}
	if got, want := statesOf(live), []jobservice.State{stopped, starting, running, done}; !slices.Equal(got, want) {
		t.Errorf("states among messages %v, want %v", got, want)
	}
	checkMetrics("after the run", wantMetrics)

	jobs, err := r.client.GetJobs(t.Context(), &jobpb.GetJobsRequest{})
	want := []*jobpb.JobInfo{{JobId: id, JobName: "real name", PipelineOptions: options, State: done}}
	if diff := cmp.Diff(want, jobs.GetJobInfo(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("GetJobs: %v, (-want +got):\n%s", err, diff)
	}
	got, err := r.client.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: id})
	if diff := cmp.Diff(pipeline, got.GetPipeline(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("GetPipeline: %v, (-want +got):\n%s", err, diff)
	}
	d, err := r.Describe(id)
	if err != nil || d.State != done || len(d.States) != 4 || d.Pipeline == nil || d.Started.IsZero() || d.Ended.Before(d.Started) || len(d.Committed) != 1 {
		t.Errorf("Describe: %+v, %v", d, err)
	}
}

// Java adds up the two lists, whatever their values mean.
func TestJavaGetsEachMetricOnce(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	r.start(t, id).end(nil)
	r.watch(t, id)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("user-agent", "grpc-java-netty/1.69.0"))
	got, err := r.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	want := &jobpb.MetricResults{
		Attempted: []*pipepb.MonitoringInfo{{Urn: "attempted"}},
		Committed: []*pipepb.MonitoringInfo{{Urn: "committed"}},
	}
	if diff := cmp.Diff(want, got.GetMetrics(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

// Python's client subscribes before Run with a deadline, which must not become the job's.
func TestNoStreamOfStatesEndsBeforeTheJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	limited, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	stream, err := r.client.GetStateStream(limited, &jobpb.GetJobStateRequest{JobId: id})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with a deadline, before Run: %v, want FAILED_PRECONDITION", err)
	}
	job := r.start(t, id)
	if stream, err = r.client.GetStateStream(limited, &jobpb.GetJobStateRequest{JobId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Errorf("with a deadline, after Run: %v", err)
	}
	job.end(nil)
}

func TestLateSubscriberGetsCurrentStateFirst(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	r.start(t, id).end(nil)
	r.watch(t, id)
	stream, err := r.client.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	if states := readAll(t, stream); len(states) != 1 || states[0].GetState() != done {
		t.Errorf("late state stream %v, want DONE only", states)
	}
}

func TestFailureIsTheOneErrorBeforeTheEnd(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	job.sink.Message(slog.LevelError, "harness: an attempt failed")
	text := "RuntimeError: boom\n  at user.py:7"
	job.end(fault.New(fault.UserCode, "%s", text))
	messages := r.watch(t, id)
	if got := errorsOf(messages); !slices.Equal(got, []string{text}) {
		t.Errorf("error messages %q, want exactly the failure", got)
	}
	n := len(messages)
	if messages[n-1].GetStateResponse().GetState() != failed || messages[n-2].GetMessageResponse().GetMessageText() != text {
		t.Errorf("the stream must end with the failure and FAILED, got %v", messages[n-2:])
	}
	if d, _ := r.Describe(id); d.Failure != text {
		t.Errorf("Describe tells %q as failure", d.Failure)
	}
	job.sink.Message(slog.LevelInfo, "too late")
	if diff := cmp.Diff(messages, r.watch(t, id), protocmp.Transform()); diff != "" {
		t.Errorf("the log changed after the end:\n%s", diff)
	}
	// The views keep the level that the harness gave.
	events, err := r.Messages(id, 0, 100)
	if err != nil || !slices.ContainsFunc(events, func(e jobservice.Event) bool {
		return e.Level == slog.LevelError && !e.Failure && e.Text == "harness: an attempt failed"
	}) {
		t.Errorf("Messages: %v, %v", events, err)
	}
}

func TestStartErrorFailsTheJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	r.executor.startErr = errors.New("no worker came up")
	id := r.prepare(t)
	r.start(t, id)
	messages := r.watch(t, id)
	if got := statesOf(messages); !slices.Equal(got, []jobservice.State{stopped, starting, failed}) {
		t.Errorf("states %v", got)
	}
	if got := errorsOf(messages); !slices.Equal(got, []string{"no worker came up"}) {
		t.Errorf("errors %q", got)
	}
}

func TestRunTwiceIsOneJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			resp, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id})
			if err != nil || resp.GetJobId() != id {
				t.Errorf("Run: %v, %v", resp, err)
			}
		})
	}
	calls.Wait()
	r.executor.run(id).end(nil)
	r.watch(t, id)
	if resp, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil || resp.GetJobId() != id {
		t.Errorf("Run after the end: %v, %v", resp, err)
	}
	if r.executor.starts != 1 {
		t.Errorf("%d starts, want 1", r.executor.starts)
	}
}

func TestCancelInEveryState(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	cancel := func(id string, want ...jobservice.State) {
		t.Helper()
		resp, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id})
		if err != nil || !slices.Contains(want, resp.GetState()) {
			t.Errorf("Cancel: %v, %v; want %v", resp.GetState(), err, want)
		}
	}
	history := func(id string, want ...jobservice.State) {
		t.Helper()
		if got := statesOf(r.watch(t, id)); !slices.Equal(got, want) {
			t.Errorf("states %v, want %v", got, want)
		}
	}

	never := r.prepare(t)
	cancel(never, cancelled)
	cancel(never, cancelled)
	history(never, stopped, cancelled)
	if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: never}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Run after Cancel: %v, want FAILED_PRECONDITION", err)
	}

	early := r.prepare(t)
	r.start(t, early)
	cancel(early, cancelling)
	cancel(early, cancelling, cancelled)
	history(early, stopped, starting, cancelling, cancelled)
	cancel(early, cancelled)

	midway := r.prepare(t)
	r.start(t, midway).sink.Running()
	cancel(midway, cancelling)
	history(midway, stopped, starting, running, cancelling, cancelled)

	stopping := r.prepare(t)
	r.executor.get(stopping).stubborn = true
	job := r.start(t, stopping)
	cancel(stopping, cancelling)
	cancel(stopping, cancelling) // until nothing of it runs any more
	job.end(context.Canceled)
	history(stopping, stopped, starting, cancelling, cancelled)

	ended := r.prepare(t)
	r.start(t, ended).end(nil)
	history(ended, stopped, starting, running, done)
	cancel(ended, done)
}

func TestFailureWhileCancellingIsTold(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.result <- errors.New("harness would not stop") // Wait may return it or the cancellation
	r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id})
	messages := r.watch(t, id)
	states := statesOf(messages)
	switch states[len(states)-1] {
	case cancelled:
		if got := errorsOf(messages); len(got) != 0 {
			t.Errorf("a cancelled job has errors: %q", got)
		}
	case failed:
		if got := errorsOf(messages); len(got) != 1 {
			t.Errorf("a failed job has errors: %q", got)
		}
	default:
		t.Errorf("states %v", states)
	}
}

func TestUnknownJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	ctx, id := t.Context(), "nobody"
	for call, err := range map[string]error{
		"Run":              second(r.client.Run(ctx, &jobpb.RunJobRequest{PreparationId: id})),
		"GetState":         second(r.client.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id})),
		"GetPipeline":      second(r.client.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})),
		"Cancel":           second(r.client.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})),
		"Drain":            second(r.client.Drain(ctx, &jobpb.DrainJobRequest{JobId: id})),
		"GetJobMetrics":    second(r.client.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})),
		"GetStateStream":   streamErr(r.client.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: id})),
		"GetMessageStream": streamErr(r.client.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})),
		"Describe":         second(r.Describe(id)),
		"Messages":         second(r.Messages(id, 0, 1)),
	} {
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v, want NOT_FOUND", call, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func streamErr[S interface{ RecvMsg(any) error }](stream S, err error) error {
	if err != nil {
		return err
	}
	return stream.RecvMsg(&jobpb.JobMessagesResponse{})
}

func TestDescribePipelineOptions(t *testing.T) {
	want := []*jobpb.PipelineOptionDescriptor{
		{Name: "parallelism", Type: jobpb.PipelineOptionType_INTEGER, Description: "tasks per stage", DefaultValue: "1"},
		{Name: "experiments", Type: jobpb.PipelineOptionType_ARRAY},
		{Name: "streaming", Type: jobpb.PipelineOptionType_BOOLEAN},
		{Name: "name", Type: jobpb.PipelineOptionType_STRING},
	}
	r := newRig(t, jobservice.Config{Options: []options.Descriptor{
		{Name: "parallelism", Type: options.Integer, Description: "tasks per stage", Default: "1"},
		{Name: "experiments", Type: options.Strings},
		{Name: "streaming", Type: options.Boolean},
		{Name: "name"},
	}}, nil)
	got, err := r.client.DescribePipelineOptions(t.Context(), &jobpb.DescribePipelineOptionsRequest{})
	if diff := cmp.Diff(want, got.GetOptions(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("options: %v (-want +got):\n%s", err, diff)
	}
}

func TestPrepareRefusesWithTheReason(t *testing.T) {
	staged := func(name string) *pipepb.Pipeline {
		role := append([]byte{0x0a, byte(len(name))}, name...) // ArtifactStagingToRolePayload
		return &pipepb.Pipeline{Components: &pipepb.Components{Environments: map[string]*pipepb.Environment{"e": {
			Dependencies: []*pipepb.ArtifactInformation{{RoleUrn: "beam:artifact:role:staging_to:v1", RolePayload: role}},
		}}}}
	}
	for _, c := range []struct {
		name     string
		pipeline *pipepb.Pipeline
		err      error
		panics   bool
		code     codes.Code
		text     string
	}{
		{name: "no pipeline", code: codes.InvalidArgument, text: "PrepareJobRequest.pipeline"},
		{name: "invalid", pipeline: &pipepb.Pipeline{}, err: fault.New(fault.Invalid, "coder c7 is missing"), code: codes.InvalidArgument, text: "coder c7 is missing"},
		{name: "unsupported", pipeline: &pipepb.Pipeline{}, err: fault.New(fault.Unsupported, "transform x: urn y"), code: codes.FailedPrecondition, text: "transform x: urn y"},
		{name: "planner panics", pipeline: &pipepb.Pipeline{}, panics: true, code: codes.Internal, text: "defect"},
		{name: "too large", pipeline: &pipepb.Pipeline{RootTransformIds: []string{strings.Repeat("x", 5000)}}, code: codes.ResourceExhausted, text: "4096"},
		{name: "hostile artifact", pipeline: staged("../../x"), code: codes.InvalidArgument, text: "../../x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, jobservice.Config{MaxPipelineBytes: 4096}, func(context.Context, *pipepb.Pipeline, *structpb.Struct) (*plan.Plan, error) {
				if c.panics {
					panic("index out of range")
				}
				return &plan.Plan{}, c.err
			})
			_, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: c.pipeline})
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Prepare: %v; want %v with %q", err, c.code, c.text)
			}
			if jobs := r.Jobs(); len(jobs) != 0 {
				t.Errorf("a refused job is remembered: %v", jobs)
			}
		})
	}
}

func TestHistoryIsBounded(t *testing.T) {
	r := newRig(t, jobservice.Config{MaxJobs: 3}, nil)
	live := r.prepare(t)
	job := r.start(t, live)
	waiting := r.prepare(t)
	ended := r.prepare(t)
	r.start(t, ended).end(nil)
	r.watch(t, ended)

	next := r.prepare(t) // in the place of the ended one
	want := []string{live, waiting, next}
	if got := ids(r); !slices.Equal(got, want) {
		t.Fatalf("jobs %v, want %v", got, want)
	}
	stream, err := r.client.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: waiting})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	last := r.prepare(t) // in the place of the one that was never run
	if got, want := ids(r), []string{live, next, last}; !slices.Equal(got, want) {
		t.Fatalf("jobs %v, want %v", got, want)
	}
	if rest := readAll(t, stream); len(rest) != 1 || rest[0].GetState() != cancelled {
		t.Errorf("who watches a forgotten job sees %v, want CANCELLED", rest)
	}
	more := []*run{r.start(t, next), r.start(t, last), job}
	_, err = r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("Prepare while all jobs run: %v, want RESOURCE_EXHAUSTED", err)
	}
	for _, m := range more {
		m.end(nil)
	}
}

func ids(r *rig) (list []string) {
	for _, s := range r.Jobs() {
		list = append(list, s.ID)
	}
	return list
}

func TestCloseCancelsAndRefuses(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	live, never := r.prepare(t), r.prepare(t)
	r.start(t, live)
	if err := r.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{live, never} {
		if states := statesOf(r.watch(t, id)); states[len(states)-1] != cancelled {
			t.Errorf("states after Close: %v", states)
		}
	}
	if _, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}}); status.Code(err) != codes.Unavailable {
		t.Errorf("Prepare after Close: %v, want UNAVAILABLE", err)
	}
}
