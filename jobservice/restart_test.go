package jobservice_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/filerecords"
)

func openRecords(t testing.TB, dir string) *filerecords.Records {
	t.Helper()
	records, err := filerecords.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	return records
}

// newRecordedRig is a rig with records in dir.
func newRecordedRig(t testing.TB, dir string, cfg jobservice.Config) *rig {
	t.Helper()
	cfg.Records = openRecords(t, dir)
	return newRig(t, cfg, nil)
}

func (r *rig) shutDown(t testing.TB) {
	t.Helper()
	if err := r.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// jobView is all that clients can learn of a job.
type jobView struct {
	State    *jobpb.JobStateEvent
	States   []*jobpb.JobStateEvent
	Messages []*jobpb.JobMessagesResponse
	Pipeline *pipepb.Pipeline
	Metrics  *jobpb.MetricResults
	Events   []jobservice.Event
	Summary  jobservice.Summary
	History  []jobservice.Event
}

func (r *rig) view(t testing.TB, id string) (v jobView) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), jobservice.HarnessLogs, "yes")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Errorf("job %s: %v", id, err)
		}
	}
	var err error
	v.State, err = r.client.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id})
	check(err)
	states, err := r.client.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: id})
	check(err)
	v.States = readAll(t, states)
	messages, err := r.client.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})
	check(err)
	v.Messages = readAll(t, messages)
	pipeline, err := r.client.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
	check(err)
	v.Pipeline = pipeline.GetPipeline()
	m, err := r.client.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	check(err)
	v.Metrics = m.GetMetrics()
	v.Events, err = r.Messages(id, 0, 1_000_000)
	check(err)
	d, err := r.Describe(id)
	check(err)
	v.Summary, v.History = d.Summary, d.States
	if !proto.Equal(d.Pipeline, v.Pipeline) || len(d.Committed) != len(v.Metrics.GetCommitted()) {
		t.Errorf("Describe tells something else: %v", d)
	}
	return v
}

func TestEndedJobsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{})
	options, err := structpb.NewStruct(map[string]any{"beam:option:job_name:v1": "nämed", "n": 1.0})
	if err != nil {
		t.Fatal(err)
	}
	var jobs []string
	for i, end := range []func(id string, job *run){
		func(_ string, job *run) { job.end(nil) },
		func(_ string, job *run) { job.end(errors.New("boom\n  at user.py:7")) },
		func(id string, _ *run) {
			if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
				t.Error(err)
			}
		},
	} {
		resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{
			Pipeline: &pipepb.Pipeline{RootTransformIds: []string{fmt.Sprint(i)}}, PipelineOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		id := resp.GetPreparationId()
		jobs = append(jobs, id)
		job := r.start(t, id)
		job.sink.Message(slog.LevelInfo, "workers are up")
		job.sink.Running()
		job.sink.HarnessMessage(slog.LevelError, "a harness\nsaid")
		end(id, job)
		r.watch(t, id)
	}
	never := r.prepare(t)
	if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: never}); err != nil {
		t.Fatal(err)
	}
	jobs = append(jobs, never)

	before := map[string]jobView{}
	for _, id := range jobs {
		before[id] = r.view(t, id)
	}
	list, err := r.client.GetJobs(t.Context(), &jobpb.GetJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for restart := range 2 {
		r.shutDown(t)
		r = newRecordedRig(t, dir, jobservice.Config{})
		again, err := r.client.GetJobs(t.Context(), &jobpb.GetJobsRequest{})
		if diff := cmp.Diff(list, again, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("restart %d: GetJobs: %v (-before +after):\n%s", restart, err, diff)
		}
		for _, id := range jobs {
			if diff := cmp.Diff(before[id], r.view(t, id), protocmp.Transform()); diff != "" {
				t.Errorf("restart %d: job %s (-before +after):\n%s", restart, id, diff)
			}
		}
	}
	// An old job is as dead as one of today.
	if resp, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: jobs[0]}); err != nil || resp.GetJobId() != jobs[0] || r.executor.starts != 0 {
		t.Errorf("Run: %v, %v, %d starts", resp, err, r.executor.starts)
	}
	if resp, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: jobs[0]}); err != nil || resp.GetState() != done {
		t.Errorf("Cancel: %v, %v", resp, err)
	}
	if p, err := r.Plan(t.Context(), jobs[0]); err != nil || p == nil {
		t.Errorf("Plan: %v, %v", p, err)
	}
}

// crash returns a directory with the records as they are when everything they
// should have is there.
func crash(t *testing.T, dir string, want map[string]int) string {
	t.Helper()
	records := openRecords(t, dir)
	testkit.Eventually(t, 10*time.Second, "all events are recorded", func() bool {
		for id, n := range want {
			if events, err := records.Events(id); err != nil || len(events) < n {
				return false
			}
			if _, err := records.Pipeline(id); err != nil {
				return false
			}
		}
		return true
	})
	after := filepath.Join(t.TempDir(), "jobs")
	if err := os.CopyFS(after, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return after
}

func TestJobsThatACrashInterruptsHaveFailed(t *testing.T) {
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{})
	never, early, midway, stopping := r.prepare(t), r.prepare(t), r.prepare(t), r.prepare(t)
	r.start(t, early)
	r.start(t, midway).sink.Running()
	r.executor.run(midway).sink.Message(slog.LevelInfo, "said before the crash")
	r.executor.get(stopping).stubborn = true
	r.start(t, stopping)
	if resp, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: stopping}); err != nil || resp.GetState() != cancelling {
		t.Fatalf("Cancel: %v, %v", resp, err)
	}
	defer r.executor.run(stopping).end(nil)
	dir = crash(t, dir, map[string]int{never: 0, early: 2, midway: 4, stopping: 3})

	const why = "the server stopped while the job ran, and the job had no checkpoint to go on from"
	for restart := range 2 {
		r := newRecordedRig(t, dir, jobservice.Config{})
		for _, c := range []struct {
			id     string
			states []jobservice.State
			errors []string
			text   string
		}{
			{never, []jobservice.State{stopped, cancelled}, nil, "before the job was run"},
			{early, []jobservice.State{stopped, starting, failed}, []string{why}, ""},
			{midway, []jobservice.State{stopped, starting, running, failed}, []string{why}, "said before the crash"},
			{stopping, []jobservice.State{stopped, starting, cancelling, cancelled}, nil, ""},
		} {
			v := r.view(t, c.id)
			if got := statesOf(v.Messages); !slices.Equal(got, c.states) {
				t.Errorf("restart %d: states %v, want %v", restart, got, c.states)
			}
			if got := errorsOf(v.Messages); !slices.Equal(got, c.errors) || v.Summary.Failure != strings.Join(c.errors, "") {
				t.Errorf("restart %d: errors %q, failure %q, want %q", restart, got, v.Summary.Failure, c.errors)
			}
			if !slices.ContainsFunc(v.Events, func(e jobservice.Event) bool { return strings.Contains(e.Text, c.text) }) {
				t.Errorf("restart %d: no message %q in %v", restart, c.text, v.Events)
			}
			if v.Summary.Ended.IsZero() || v.Summary.Started.IsZero() != (c.id == never) || v.Pipeline == nil {
				t.Errorf("restart %d: %+v", restart, v.Summary)
			}
		}
		if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: never}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("Run of a job that was never run: %v", err)
		}
		r.shutDown(t)
	}
}

// TestDamagedRecordsAreTold breaks the files of ended jobs: what is left of them
// is shown, with what is wrong.
func TestDamagedRecordsAreTold(t *testing.T) {
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{})
	jobs := map[string]string{}
	for _, file := range []string{"job", "log", "end", ""} {
		id := r.prepare(t)
		job := r.start(t, id)
		job.sink.Message(slog.LevelInfo, "first")
		job.sink.Message(slog.LevelInfo, strings.Repeat("second", 100))
		job.sink.Message(slog.LevelInfo, "third")
		job.end(nil)
		r.watch(t, id)
		jobs[file] = id
	}
	r.shutDown(t)
	for file, id := range jobs {
		if file == "" {
			continue
		}
		place := filepath.Join(dir, id, file)
		b, err := os.ReadFile(place)
		if err != nil {
			t.Fatal(err)
		}
		at := 30
		if file == "log" {
			at = strings.Index(string(b), "second")
		}
		b[at] ^= 1
		if err := os.WriteFile(place, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var logged strings.Builder
	r = newRecordedRig(t, dir, jobservice.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if got := ids(r); len(got) != 3 || slices.Contains(got, jobs["job"]) {
		t.Errorf("jobs %v, want all but %s", got, jobs["job"])
	}
	for _, file := range []string{"job", "end"} {
		if !strings.Contains(logged.String(), jobs[file]+"/"+file) {
			t.Errorf("no warning about the %s file of %s: %s", file, jobs[file], logged.String())
		}
	}
	whole, cut, unknown := r.view(t, jobs[""]), r.view(t, jobs["log"]), r.view(t, jobs["end"])
	if whole.State.GetState() != done || len(whole.Events) != 7 {
		t.Errorf("the whole one: %v", whole.Events)
	}
	if cut.State.GetState() != done || !slices.Equal(statesOf(cut.Messages), statesOf(whole.Messages)) {
		t.Errorf("states of the one with a damaged log: %v", statesOf(cut.Messages))
	}
	if !slices.ContainsFunc(cut.Events, func(e jobservice.Event) bool {
		return e.Level == slog.LevelWarn && strings.Contains(e.Text, "messages are missing here") && strings.Contains(e.Text, "checksum")
	}) || !slices.ContainsFunc(cut.Events, func(e jobservice.Event) bool { return e.Text == "first" }) {
		t.Errorf("events of the one with a damaged log: %v", cut.Events)
	}
	if unknown.State.GetState() != failed || !strings.Contains(unknown.Summary.Failure, "how the job ended is unknown") {
		t.Errorf("the one whose end is damaged: %v, %q", unknown.State, unknown.Summary.Failure)
	}
	if _, err := os.Stat(filepath.Join(dir, jobs["job"])); err != nil {
		t.Errorf("the record that can't be read is gone: %v", err)
	}
}

// TestRecordsAreBounded runs a job that talks too much.
func TestRecordsAreBounded(t *testing.T) {
	const limit = 100_000
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{MaxMessageBytes: limit})
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	for i := range 20_000 {
		job.sink.Message(slog.LevelInfo, fmt.Sprintf("message %d %s", i, strings.Repeat("x", 100)))
		if i%1000 == 0 {
			checkSize(t, filepath.Join(dir, id), 4*limit)
		}
	}
	job.end(nil)
	before := r.view(t, id)
	checkSize(t, filepath.Join(dir, id), 4*limit)
	r.shutDown(t)
	r = newRecordedRig(t, dir, jobservice.Config{MaxMessageBytes: limit})
	after := r.view(t, id)
	if n := len(after.Events); n > limit/100+10 || !strings.HasPrefix(after.Events[n-2].Text, "message 19999 ") {
		t.Errorf("%d events, the last message is %q", n, after.Events[n-2].Text)
	}
	if got, want := statesOf(after.Messages), statesOf(before.Messages); !slices.Equal(got, want) {
		t.Errorf("states %v, want %v", got, want)
	}
}

func checkSize(t *testing.T, dir string, most int64) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, f := range files {
		if info, err := f.Info(); err == nil { // else it has been renamed
			size += info.Size()
		}
	}
	if size > most {
		t.Errorf("the record takes %d bytes, more than %d", size, most)
	}
}

func TestForgottenJobsLoseTheirRecord(t *testing.T) {
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{MaxJobs: 3})
	var all []string
	for range 6 {
		id := r.prepare(t)
		r.start(t, id).end(nil)
		r.watch(t, id)
		all = append(all, id)
	}
	r.shutDown(t)
	for i, id := range all {
		_, err := os.Stat(filepath.Join(dir, id))
		if gone := errors.Is(err, os.ErrNotExist); gone != (i < 3) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	r = newRecordedRig(t, dir, jobservice.Config{MaxJobs: 2}) // fewer than there are
	r.prepare(t)
	r.shutDown(t)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || len(r.Jobs()) != 2 {
		t.Errorf("%d records, %v, %d jobs; want 2", len(entries), err, len(r.Jobs()))
	}
}
