// Package jobservice is the runner's side of the Job API (JobService in
// beam_job_api.proto): it accepts pipelines, has them planned and executed by
// what it is given, and keeps each job's states, messages and metrics for
// clients that ask, during the run and after it.
package jobservice

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/plan"
)

var errStopped = rpcstatus.Errorf(codes.Unavailable, "the runner is shutting down")

// Service implements JobService. The gRPC calls are methods of it, and so are
// the views that the CLI and the REST API use. All are safe for concurrent use.
type Service struct {
	jobpb.UnimplementedJobServiceServer

	cfg       Config
	plan      Planner
	executor  Executor
	artifacts *artifact.Service

	running sync.WaitGroup
	stop    chan struct{} // closed by Close

	mu      sync.Mutex
	stopped bool
	jobs    map[string]*job
	order   []*job // by time of preparation
	bytes   int    // of all jobs' pipelines
}

// New makes a service that plans with planner and runs with executor. Artifacts
// of its jobs are staged to artifacts, which the caller closes after the service.
func New(cfg Config, planner Planner, executor Executor, artifacts *artifact.Service) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if planner == nil || executor == nil || artifacts == nil {
		return nil, errors.New("jobservice: planner, executor and artifacts are required")
	}
	return &Service{
		cfg: cfg.withDefaults(), plan: planner, executor: executor, artifacts: artifacts,
		stop: make(chan struct{}),
		jobs: map[string]*job{},
	}, nil
}

// Register adds the job service and the artifact staging service to a server.
func (s *Service) Register(reg grpc.ServiceRegistrar) {
	jobpb.RegisterJobServiceServer(reg, s)
	s.artifacts.RegisterStaging(reg)
}

// Close cancels all jobs, waits until they have ended or ctx has, and ends all
// streams. Jobs are refused from then on; the views still work.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	jobs := slices.Clone(s.order)
	s.mu.Unlock()
	for _, j := range jobs {
		j.requestCancel()
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if first {
		close(s.stop) // readers of ended jobs have the rest of the journal to read and end by themselves
	}
	return err
}

// Summary is what a list of jobs shows.
type Summary struct {
	ID, Name string
	State    State
	// Prepared, Started and Ended are zero where it hasn't come to that.
	Prepared, Started, Ended time.Time
	// Failure is the text of the error that failed the job.
	Failure string
}

// Description is all there is to know of a job beside its messages.
type Description struct {
	Summary
	// States entered so far, oldest first.
	States []Event
	// Plan, Pipeline and Options are shared and must not be changed.
	Plan     *plan.Plan
	Pipeline *pipepb.Pipeline
	Options  *structpb.Struct
	// Attempted and Committed metrics, live while the job runs.
	Attempted, Committed []*pipepb.MonitoringInfo
}

// Jobs lists all jobs that are remembered, in the order of their preparation.
func (s *Service) Jobs() []Summary {
	s.mu.Lock()
	jobs := slices.Clone(s.order)
	s.mu.Unlock()
	list := make([]Summary, len(jobs))
	for i, j := range jobs {
		list[i] = j.summary()
	}
	return list
}

// Describe returns a job, or an error with status NOT_FOUND.
func (s *Service) Describe(id string) (Description, error) {
	j, err := s.job(id)
	if err != nil {
		return Description{}, err
	}
	states, _, _ := j.journal.since(0, len(transitions)+1, true)
	d := Description{Summary: j.summary(), States: states, Plan: j.plan, Pipeline: j.pipeline, Options: j.options}
	d.Attempted, d.Committed = j.metrics()
	return d, nil
}

// Messages returns up to limit events of a job after the given Seq, oldest
// first, without waiting for any to come. Events that a full log has dropped
// show as a gap in Seq.
func (s *Service) Messages(id string, after int64, limit int) ([]Event, error) {
	j, err := s.job(id)
	if err != nil {
		return nil, err
	}
	events, _, _ := j.journal.since(after, limit, false)
	return events, nil
}

// Follow calls fn with each event of a job after the given Seq (0 for all),
// those of the past first. It returns nil after the terminal state, or the error
// of ctx, of fn, or of the service's end. A slow fn never slows the job; where
// the log has dropped messages meanwhile, one event says how many.
func (s *Service) Follow(ctx context.Context, id string, after int64, fn func(Event) error) error {
	j, err := s.job(id)
	if err != nil {
		return err
	}
	return j.journal.follow(ctx, s.stop, after, false, fn)
}

func (j *job) summary() Summary {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Summary{ID: j.id, Name: j.name, State: j.state,
		Prepared: j.prepared, Started: j.started, Ended: j.ended, Failure: j.failure}
}

func (s *Service) job(id string) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.jobs[id]; ok {
		return j, nil
	}
	return nil, rpcstatus.Errorf(codes.NotFound, "no job %q: it was never prepared here, or its record has made room for newer ones", clipText(id, 100))
}

// admit gives a new job an id and a place in the registry.
func (s *Service) admit(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	for len(s.order) >= s.cfg.MaxJobs || len(s.order) > 0 && s.bytes+j.size > s.cfg.MaxHistoryBytes {
		if !s.forgetOne() {
			return rpcstatus.Errorf(codes.ResourceExhausted, "%d jobs are running; wait until some have ended", len(s.order))
		}
	}
	for {
		j.id = newID(j.name)
		if _, taken := s.jobs[j.id]; !taken {
			break
		}
	}
	s.jobs[j.id] = j
	s.order = append(s.order, j)
	s.bytes += j.size
	return nil
}

// forgetOne drops the job that ended longest ago, else the oldest that was
// never run; false if all are running. The caller holds mu.
func (s *Service) forgetOne() bool {
	victim := -1
	var ended time.Time
	for i, j := range s.order {
		sum := j.summary()
		if Terminal(sum.State) && (victim < 0 || sum.Ended.Before(ended)) {
			victim, ended = i, sum.Ended
		}
	}
	if victim < 0 {
		victim = slices.IndexFunc(s.order, (*job).expire)
	}
	if victim < 0 {
		return false
	}
	j := s.order[victim]
	s.order = slices.Delete(s.order, victim, victim+1)
	delete(s.jobs, j.id)
	s.bytes -= j.size
	s.artifacts.Release(j.token)
	s.cfg.Logger.Debug("job forgotten", "job", j.id)
	return true
}

// newID makes an id that people recognise and file systems accept.
func newID(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	name = strings.Trim(name[:min(len(name), 40)], "-")
	if name == "" {
		name = "job"
	}
	var b [5]byte
	rand.Read(b[:]) // never fails
	return name + "-" + hex.EncodeToString(b[:])
}
