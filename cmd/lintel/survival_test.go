package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/checkpointing/filestore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/jobservice/filerecords"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/rpc"
)

// barrierWorker runs jobs without end whose tasks have nothing but answers to barriers.
type barrierWorker struct {
	mu   sync.Mutex
	runs []*barrierRun
}

type barrierRun struct {
	ctx     context.Context
	d       rpc.Deployment
	answers chan rpc.Answer
}

func (w *barrierWorker) Deploy(ctx context.Context, d rpc.Deployment) (rpc.Execution, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &barrierRun{ctx: ctx, d: d, answers: make(chan rpc.Answer)}
	w.runs = append(w.runs, r)
	return r, nil
}

func (w *barrierWorker) deployed() []*barrierRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.runs)
}

func (r *barrierRun) Wait() error {
	<-r.ctx.Done()
	return r.ctx.Err()
}
func (r *barrierRun) Drain()                                           {}
func (r *barrierRun) Metrics() (_, committed []*pipepb.MonitoringInfo) { return nil, nil }
func (r *barrierRun) Restored() error                                  { return nil }
func (r *barrierRun) Concluded(uint64, bool)                           {}
func (r *barrierRun) Quiet(context.Context, bool) error                { return nil }
func (r *barrierRun) Resume()                                          {}
func (r *barrierRun) Finalized(context.Context) error                  { return nil }
func (r *barrierRun) Answers() <-chan rpc.Answer                       { return r.answers }

func (r *barrierRun) Barrier(b protocol.Begun) {
	go func() {
		for i, t := range r.d.Tasks() {
			f, err := r.d.Checkpoints.Put(r.ctx, b.Epoch, uint64(i), strings.NewReader("state"))
			t.Parts = []protocol.Part{{Kind: protocol.Position, Span: protocol.Span{Length: f.Size}}}
			select {
			case r.answers <- rpc.Answer{Task: i, Epoch: b.Epoch, Snapshot: protocol.Snapshot{Task: t, Files: []protocol.File{f}}, Err: err}:
			case <-r.ctx.Done():
			}
		}
	}()
}

// survivor is what a server with checkpoints has of jobs.
type survivor struct {
	*jobservice.Service
	worker *barrierWorker
	log    bytes.Buffer
	close  func()
}

func startSurvivor(t *testing.T, dir string) *survivor {
	t.Helper()
	p := &survivor{worker: &barrierWorker{}}
	check := func(err error) {
		if t.Helper(); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(&p.log, nil))
	store, err := filestore.New(filepath.Join(dir, "checkpoints"))
	check(err)
	folders, err := (&checkpointConfig{}).folders(dir)
	check(err)
	co, err := coordinator.New(coordinator.Config{
		Worker: p.worker, Parallelism: 1, Logger: slog.New(slog.DiscardHandler),
		Checkpoints: &coordinator.Checkpoints{Store: store, Savepoints: folders.open, Dir: dir},
	})
	check(err)
	records, err := filerecords.Open(filepath.Join(dir, "jobs"))
	check(err)
	artifacts, err := artifact.New(artifact.Config{Dir: filepath.Join(dir, "artifacts")})
	check(err)
	run := &runner{executor: executor{co, folders}, planner: planner{check: func(*pipepb.Environment) error { return nil }, log: log}}
	p.Service, err = jobservice.New(jobservice.Config{Records: records, Logger: log}, run.plan, run.executor, artifacts)
	check(err)
	p.close = sync.OnceFunc(func() {
		check(p.Close(context.Background()))
		check(artifacts.Close())
		check(records.Close())
		check(store.Close())
	})
	t.Cleanup(p.close)
	return p
}

// newest returns the newest complete checkpoint of a job, 0 if there is none.
func (p *survivor) newest(t *testing.T, id string) (epoch uint64) {
	t.Helper()
	list, err := p.Checkpoints(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Failure == "" {
			epoch = c.Epoch
		}
	}
	return epoch
}

// A job with checkpoints goes on in the next process from the newest, until it is cancelled.
func TestJobsGoOnFromTheirCheckpoints(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	p := startSurvivor(t, dir)
	id := submitWith(t, p.Service, map[string]any{"checkpoint_interval": "20ms"})
	testkit.Eventually(t, 10*time.Second, "there are two checkpoints", func() bool { return p.newest(t, id) >= 2 })
	p.close()
	newest := p.newest(t, id)
	if log := p.log.String(); !strings.Contains(log, "the next start goes on with it") {
		t.Errorf("nobody is told:\n%s", log)
	}

	p = startSurvivor(t, dir)
	testkit.Eventually(t, 10*time.Second, "it goes on", func() bool { return p.newest(t, id) > newest })
	run := p.worker.deployed()[0]
	// The last checkpoint of a process may be complete and not on record.
	if r := run.d.Restore; run.d.JobID != id || run.d.Generation != 2 || r == nil || !r.Same || r.Manifest.Epoch < newest || r.Manifest.Job.ID != id {
		t.Errorf("generation %d of job %s begins with %+v, want checkpoint %d or a later one", run.d.Generation, run.d.JobID, r, newest)
	}
	if _, err := p.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, "its checkpoints are gone", func() bool {
		left, err := filepath.Glob(filepath.Join(dir, "checkpoints", id, "*-*"))
		return err == nil && len(left) == 0
	})
	p.close()

	p = startSurvivor(t, dir)
	if d, err := p.Describe(id); err != nil || d.State != jobpb.JobState_CANCELLED || len(p.worker.deployed()) > 0 {
		t.Errorf("the cancelled job is %v, %v", d.State, err)
	}
	if p.newest(t, id) <= newest {
		t.Error("what checkpoints it had is not on record")
	}
}

func submitWith(t *testing.T, s *jobservice.Service, values map[string]any) string {
	t.Helper()
	prepared, err := prepareWith(t, s.Prepare, values)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()}); err != nil {
		t.Fatal(err)
	}
	return prepared.GetPreparationId()
}

func prepareWith(t *testing.T, prepare func(context.Context, *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error), values map[string]any) (*jobpb.PrepareJobResponse, error) {
	t.Helper()
	p := &pipepb.Pipeline{}
	if err := protojson.Unmarshal([]byte(impulse), p); err != nil {
		t.Fatal(err)
	}
	o, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: p, JobName: "survivor", PipelineOptions: o})
}

// What would do nothing is refused, and not left undone.
func TestOptionsOfCheckpointsAreForJobsThatTakeThem(t *testing.T) {
	testkit.Leaks(t)
	s, err := startServer(serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stopWithin(patience)
	for option, value := range map[string]any{
		"checkpoint_retain": 2.0, "restart_attempts": 3.0, "restart_delay": "1s",
	} {
		_, err := prepareWith(t, s.service.Prepare, map[string]any{option: value})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), "checkpoint_interval") {
			t.Errorf("%s=%v: %v", option, value, err)
		}
	}
	if _, err := prepareWith(t, s.service.Prepare, map[string]any{"checkpoint_interval": "0", "restart_attempts": 0.0}); err != nil {
		t.Errorf("options that ask for what all jobs have: %v", err)
	}
}

func TestInterruptedServersSayWhatBecomesOfJobs(t *testing.T) {
	testkit.Leaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := startDev(t, t.TempDir())
	jobs := dialJobs(t, d)
	waiting := submit(t, jobs, waitingPipeline(t, silent.Addr().String()))
	d.end(t, os.Interrupt)
	if log := d.stderr.String(); !strings.Contains(log, "job cancelled") || !strings.Contains(log, waiting) {
		t.Errorf("nothing of job %s:\n%s", waiting, log)
	}
}
