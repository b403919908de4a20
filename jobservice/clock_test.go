package jobservice_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// direct is a service without gRPC, for tests in which time is fake.
type direct struct {
	*jobservice.Service
	executor  *executor
	artifacts *artifact.Service
	log       *lockedBuilder
}

// inBubble runs a test in fake time with a service.
func inBubble(t *testing.T, cfg jobservice.Config, planner jobservice.Planner, test func(*testing.T, *direct)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		artifacts, err := artifact.New(artifact.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer artifacts.Close()
		if planner == nil {
			planner = acceptAll
		}
		d := &direct{executor: &executor{runs: map[string]*run{}}, artifacts: artifacts, log: &lockedBuilder{}}
		cfg.Logger = slog.New(slog.NewTextHandler(d.log, nil))
		if d.Service, err = jobservice.New(cfg, planner, d.executor, artifacts); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := d.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		test(t, d)
	})
}

type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

func (d *direct) prepare(t *testing.T) (id, token string) {
	t.Helper()
	resp, err := d.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{Components: &pipepb.Components{
		Environments: map[string]*pipepb.Environment{"e": {Dependencies: []*pipepb.ArtifactInformation{{TypeUrn: urns.ArtifactPyPI}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetPreparationId(), resp.GetStagingSessionToken()
}

func (d *direct) start(t *testing.T, id string) *run {
	t.Helper()
	if _, err := d.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
		t.Fatal(err)
	}
	return d.executor.run(id)
}

// state returns "" for a job that is forgotten.
func (d *direct) state(id string) string {
	s, err := d.GetState(context.Background(), &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		return ""
	}
	return s.GetState().String()
}

func TestOldJobsAreForgotten(t *testing.T) {
	dir := t.TempDir()
	records := openRecords(t, dir)
	cfg := jobservice.Config{Records: records, JobRetention: 100 * time.Hour, PreparedRetention: 2 * time.Hour}
	inBubble(t, cfg, nil, func(t *testing.T, d *direct) {
		never, token := d.prepare(t)
		long, _ := d.prepare(t)
		short, _ := d.prepare(t)
		d.start(t, long)
		d.start(t, short).end(nil)
		var last []jobservice.Event
		watcher := make(chan error, 1)
		go func() {
			watcher <- d.Follow(context.Background(), never, 0, func(e jobservice.Event) error { last = append(last, e); return nil })
		}()
		after := func(wait time.Duration, want ...string) {
			t.Helper()
			<-time.After(wait)
			synctest.Wait()
			got := []string{d.state(never), d.state(long), d.state(short)}
			if !slices.Equal(got, want) {
				t.Errorf("after %v: %q, want %q", wait, got, want)
			}
			recorded := 0
			if err := records.Load(func(jobservice.Record, error) { recorded++ }); err != nil {
				t.Error(err)
			}
			if jobs := len(d.Jobs()); jobs != recorded {
				t.Errorf("%d jobs with %d records", jobs, recorded)
			}
		}
		after(2*time.Hour-time.Minute, "STOPPED", "STARTING", "DONE")
		if d.artifacts.Dependencies(token, "e") == nil {
			t.Error("a job that waits has lost its artifacts")
		}
		after(2*time.Minute, "", "STARTING", "DONE")
		if d.artifacts.Dependencies(token, "e") != nil {
			t.Error("a forgotten job keeps its artifacts")
		}
		if err := <-watcher; err != nil || last[len(last)-1].State != cancelled ||
			!slices.ContainsFunc(last, func(e jobservice.Event) bool { return strings.Contains(e.Text, "was not run within 2h0m0s") }) {
			t.Errorf("who waits for it sees %v, %v", last, err)
		}
		after(98*time.Hour-2*time.Minute, "", "STARTING", "DONE")
		after(2*time.Minute, "", "STARTING", "")
		d.executor.run(long).end(nil)
		after(99*time.Hour, "", "DONE", "")
		after(62*time.Minute, "", "", "")
	})
}

func TestRetentionGoesOnAfterARestart(t *testing.T) {
	records := openRecords(t, t.TempDir())
	cfg := jobservice.Config{Records: records, JobRetention: time.Hour}
	inBubble(t, cfg, nil, func(t *testing.T, d *direct) {
		id, _ := d.prepare(t)
		d.start(t, id).end(nil)
		d.Follow(t.Context(), id, 0, func(jobservice.Event) error { return nil })
		<-time.After(50 * time.Minute)
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, err := jobservice.New(cfg, acceptAll, d.executor, d.artifacts)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close(t.Context())
		<-time.After(9 * time.Minute)
		synctest.Wait()
		if len(again.Jobs()) != 1 {
			t.Error("forgotten too early")
		}
		<-time.After(3 * time.Minute)
		synctest.Wait()
		if len(again.Jobs()) != 0 {
			t.Error("remembered for ever")
		}
	})
}

// faulty records fail on demand; what they say nothing of, they forget.
type faulty struct {
	jobservice.Records
	create, append, end error
	hold                chan struct{} // End waits for it to be closed
	opening             chan struct{} // and Create for this one

	mu      sync.Mutex
	written []jobservice.Event
	endings []jobservice.Ending
	calls   int
}

func (f *faulty) set(appending error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.append = appending
}

func (f *faulty) seen() (calls int, written []jobservice.Event, endings []jobservice.Ending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls, slices.Clone(f.written), slices.Clone(f.endings)
}

func (f *faulty) Load(func(jobservice.Record, error)) error { return nil }
func (f *faulty) Remove(string) error                       { return errors.New("remove: broken disk") }
func (f *faulty) Create(jobservice.Record, *pipepb.Pipeline) (jobservice.RecordWriter, error) {
	if f.opening != nil {
		<-f.opening
	}
	return f, f.create
}

func (f *faulty) Append(events []jobservice.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.append == nil {
		f.written = append(f.written, events...)
	}
	return f.append
}

func (f *faulty) Replace([]jobservice.Event) error { return f.append }

func (f *faulty) End(e jobservice.Ending) error {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == nil {
		f.endings = append(f.endings, e)
	}
	return f.end
}

func (f *faulty) Close() error { return nil }

func TestDiskErrorsTakeNoJobDown(t *testing.T) {
	broken := errors.New("broken disk")
	for name, records := range map[string]*faulty{
		"create": {create: broken},
		"append": {append: broken},
		"end":    {end: broken},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, jobservice.Config{Records: records}, nil, func(t *testing.T, d *direct) {
				id, _ := d.prepare(t)
				job := d.start(t, id)
				for range 100 {
					job.sink.Message(slog.LevelInfo, "a message")
					<-time.After(time.Second)
				}
				job.end(nil)
				var events []jobservice.Event
				if err := d.Follow(t.Context(), id, 0, func(e jobservice.Event) error { events = append(events, e); return nil }); err != nil {
					t.Error(err)
				}
				if d.state(id) != "DONE" || len(events) != 104 {
					t.Errorf("%s with %d events", d.state(id), len(events))
				}
				if view, err := d.Describe(id); err != nil || view.Pipeline == nil || len(view.Committed) != 1 {
					t.Errorf("Describe: %+v, %v", view, err)
				}
				if n := strings.Count(d.log.String(), "job record not written"); n != 1 || !strings.Contains(d.log.String(), "broken disk") {
					t.Errorf("%d warnings: %s", n, d.log)
				}
			})
		})
	}
}

func TestRecordGoesOnWhenTheDiskDoes(t *testing.T) {
	records := &faulty{append: errors.New("no space left on device")}
	inBubble(t, jobservice.Config{Records: records, MaxMessages: 50}, nil, func(t *testing.T, d *direct) {
		id, _ := d.prepare(t)
		job := d.start(t, id)
		for range 100 {
			job.sink.Message(slog.LevelInfo, "a message")
		}
		<-time.After(time.Hour)
		if calls, _, _ := records.seen(); calls > 3700 {
			t.Errorf("%d writes to a full disk within an hour", calls)
		}
		records.set(nil)
		<-time.After(2 * time.Second)
		job.end(nil)
		d.Follow(t.Context(), id, 0, func(jobservice.Event) error { return nil })
		if _, written, endings := records.seen(); len(written) != 52 || len(endings) != 1 { // two states, and as many messages as are kept
			t.Errorf("%d events were written, %d endings", len(written), len(endings))
		}
	})
}

func TestNobodyIsToldOfAnEndBeforeItIsRecorded(t *testing.T) {
	records := &faulty{hold: make(chan struct{})}
	inBubble(t, jobservice.Config{Records: records}, nil, func(t *testing.T, d *direct) {
		records.hold = make(chan struct{}) // of the bubble
		id, _ := d.prepare(t)
		job := d.start(t, id)
		job.sink.Running()
		job.end(errors.New("boom"))
		synctest.Wait()
		if s := d.state(id); s != "RUNNING" {
			t.Errorf("before it is recorded: %s", s)
		}
		// The end is settled: nothing changes it any more.
		if resp, err := d.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil || resp.GetState() != running {
			t.Errorf("Cancel: %v, %v", resp, err)
		}
		job.sink.Message(slog.LevelInfo, "too late")
		close(records.hold)
		synctest.Wait()
		if s := d.state(id); s != "FAILED" {
			t.Errorf("once it is recorded: %s", s)
		}
		_, _, endings := records.seen()
		e := endings[0]
		if n := len(e.Events); n != 5 || !e.Events[3].Failure || e.Events[4].State != failed || e.Events[4].Seq != 5 || len(e.Metrics.GetCommitted()) != 1 {
			t.Errorf("recorded ending: %+v", e)
		}
	})
}

func TestRecordsBeginWhileTheClientStages(t *testing.T) {
	records := &faulty{}
	inBubble(t, jobservice.Config{Records: records}, nil, func(t *testing.T, d *direct) {
		records.opening = make(chan struct{}) // of the bubble
		id, _ := d.prepare(t)
		answered := make(chan error, 1)
		go func() {
			_, err := d.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id})
			answered <- err
		}()
		job := d.executor.run(id) // the job need not wait
		synctest.Wait()
		if len(answered) > 0 {
			t.Error("the client is told that the job runs before there is a record of it")
		}
		close(records.opening)
		if err := <-answered; err != nil {
			t.Error(err)
		}
		job.end(nil)
		synctest.Wait()
		if _, written, endings := records.seen(); d.state(id) != "DONE" || len(written) != 2 || len(endings) != 1 {
			t.Errorf("%s; written %v, endings %v", d.state(id), written, endings)
		}
	})
}

func TestAJobIsRemovedAfterItsRecordHasBegun(t *testing.T) {
	records := &faulty{}
	inBubble(t, jobservice.Config{Records: records, PreparedRetention: time.Minute}, nil, func(t *testing.T, d *direct) {
		records.opening = make(chan struct{})
		d.prepare(t)
		<-time.After(2 * time.Minute)
		if len(d.Jobs()) != 0 || strings.Contains(d.log.String(), "remove: broken disk") {
			t.Errorf("a record that is not there yet is removed: %v, %s", d.Jobs(), d.log)
		}
		close(records.opening)
		synctest.Wait()
		if _, written, _ := records.seen(); len(written) != 0 || !strings.Contains(d.log.String(), "remove: broken disk") {
			t.Errorf("written %v, log %s", written, d.log)
		}
	})
}

func TestDiskThatHangsDelaysTheEndOnly(t *testing.T) {
	records := &faulty{}
	inBubble(t, jobservice.Config{Records: records}, nil, func(t *testing.T, d *direct) {
		records.hold = make(chan struct{})
		defer close(records.hold)
		id, _ := d.prepare(t)
		d.start(t, id).end(nil)
		begin := time.Now()
		d.Follow(t.Context(), id, 0, func(jobservice.Event) error { return nil })
		if took := time.Since(begin); d.state(id) != "DONE" || took > 11*time.Second {
			t.Errorf("%s after %v", d.state(id), took)
		}
		if !strings.Contains(d.log.String(), "job record is late") {
			t.Errorf("log: %s", d.log)
		}
	})
}

func TestRecordThatVanishesIsTold(t *testing.T) {
	records := openRecords(t, t.TempDir())
	inBubble(t, jobservice.Config{Records: records}, nil, func(t *testing.T, d *direct) {
		id, _ := d.prepare(t)
		d.start(t, id).end(nil)
		d.Follow(t.Context(), id, 0, func(jobservice.Event) error { return nil })
		if err := records.Remove(id); err != nil {
			t.Fatal(err)
		}
		if _, err := records.Pipeline(id); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		_, err := d.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: id})
		_, metricsErr := d.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: id})
		if status.Code(err) != codes.NotFound || status.Code(metricsErr) != codes.NotFound || d.state(id) != "DONE" {
			t.Errorf("GetPipeline: %v, GetJobMetrics: %v, state %s", err, metricsErr, d.state(id))
		}
	})
}

func TestPlanningIsBounded(t *testing.T) {
	var release chan struct{}
	planner := func(context.Context, *pipepb.Pipeline, *structpb.Struct) (*plan.Plan, error) {
		<-release
		return &plan.Plan{}, nil
	}
	inBubble(t, jobservice.Config{PlanTimeout: 10 * time.Second}, planner, func(t *testing.T, d *direct) {
		release = make(chan struct{})
		prepare := func(ctx context.Context) error {
			_, err := d.Prepare(ctx, &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}})
			return err
		}
		const callers = 100
		results := make(chan error, callers)
		begin := time.Now()
		for range callers {
			go func() { results <- prepare(t.Context()) }()
		}
		texts := map[string]int{}
		for range callers {
			err := <-results
			if status.Code(err) != codes.ResourceExhausted {
				t.Fatalf("Prepare: %v, want RESOURCE_EXHAUSTED", err)
			}
			texts[err.Error()]++
		}
		if took := time.Since(begin); took != 10*time.Second || len(texts) != 2 || len(d.Jobs()) != 0 {
			t.Errorf("after %v: %v, %d jobs", took, texts, len(d.Jobs()))
		}
		// A caller who doesn't want to wait so long needn't.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := prepare(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("Prepare with a deadline: %v", err)
		}
		close(release)
		if err := prepare(t.Context()); err != nil {
			t.Errorf("Prepare once planners are free again: %v", err)
		}
	})
}
