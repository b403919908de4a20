// Package jobservice is the runner's side of the Job API (JobService in
// beam_job_api.proto): it accepts pipelines, has them planned and executed by
// what it is given, and keeps each job's states, messages and metrics for
// clients that ask, during the run, after it and, with Records, after a restart.
//
// Jobs don't wait for each other: each runs as soon as it is told to, and what
// they share is the executor's to divide.
package jobservice

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
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

	planners   chan struct{}  // holds one for each pipeline that is being planned
	running    sync.WaitGroup // jobs and plans
	background sync.WaitGroup // ends after stop is closed
	stop       chan struct{}  // closed by Close

	mu      sync.Mutex
	stopped bool
	jobs    map[string]*job
	order   []*job // by time of preparation
	bytes   int    // of all jobs' pipelines
}

// New makes a service that plans with planner and runs with executor. Artifacts
// of its jobs are staged to artifacts, which the caller closes after the service.
// It brings back the jobs of cfg.Records: those that had not ended are FAILED, or go on if
// they survive.
// The caller must call Close.
func New(cfg Config, planner Planner, executor Executor, artifacts *artifact.Service) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if planner == nil || executor == nil || artifacts == nil {
		return nil, errors.New("jobservice: planner, executor and artifacts are required")
	}
	s := &Service{
		cfg: cfg.withDefaults(), plan: planner, executor: executor, artifacts: artifacts,
		planners: make(chan struct{}, runtime.GOMAXPROCS(0)),
		stop:     make(chan struct{}),
		jobs:     map[string]*job{},
	}
	if err := s.restore(); err != nil {
		return nil, err
	}
	if err := artifacts.Sweep(); err != nil {
		s.cfg.Logger.Warn("files of ended jobs not removed", "error", err)
	}
	s.background.Add(1)
	go s.sweep()
	return s, nil
}

// Register adds the job service and the artifact staging service to a server.
func (s *Service) Register(reg grpc.ServiceRegistrar) {
	jobpb.RegisterJobServiceServer(reg, s)
	s.artifacts.RegisterStaging(reg)
}

// Close cancels all jobs but those with checkpoints, which it leaves for the next service on the same records
// to go on with; the log says which. It waits until none runs any more or ctx has ended, and ends all
// streams. Jobs are refused from then on; the views still work.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	jobs := slices.Clone(s.order)
	s.mu.Unlock()
	for _, j := range jobs {
		if !j.expire(whyNeverRun) {
			s.halt(j)
		}
	}
	err := waitFor(ctx, &s.running)
	if first {
		close(s.stop) // readers of ended jobs have the rest of the journal to read and end by themselves
	}
	return errors.Join(err, waitFor(ctx, &s.background))
}

// halt leaves a job for another process, or cancels it.
func (s *Service) halt(j *job) {
	log := s.cfg.Logger.With("job", j.id, "name", j.name)
	if newest, ok := j.suspend(); ok {
		log.Warn("job left: the next start goes on with it; lintel jobs cancel ends it then", "checkpoint", newest)
		return
	}
	before := j.summary().State
	if after := j.requestCancel(); after != before {
		log.Warn("job cancelled: it has no checkpoint to go on from")
	}
}

func waitFor(ctx context.Context, group *sync.WaitGroup) error {
	ended := make(chan struct{})
	go func() {
		group.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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

// Description is all there is to know of a job beside its messages and its plan.
type Description struct {
	Summary
	// States entered so far, oldest first.
	States []Event
	// Pipeline and Options are shared and must not be changed.
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

// Describe returns a job, or an error with status NOT_FOUND. An ended job is
// read from its record, if that can be: DATA_LOSS tells that it is damaged.
func (s *Service) Describe(id string) (Description, error) {
	j, err := s.job(id)
	if err != nil {
		return Description{}, err
	}
	d := Description{Summary: j.summary(), States: j.history(), Options: j.options}
	if d.Pipeline, err = s.pipelineOf(j); err != nil {
		return Description{}, err
	}
	m, err := s.metricsOf(j)
	if err != nil {
		return Description{}, err
	}
	d.Attempted, d.Committed = m.GetAttempted(), m.GetCommitted()
	return d, nil
}

// Plan returns the plan of a job. That of an ended job is made anew, which is
// as much work as it was at Prepare.
func (s *Service) Plan(ctx context.Context, id string) (*plan.Plan, error) {
	j, err := s.job(id)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	made := j.plan
	j.mu.Unlock()
	if made != nil {
		return made, nil
	}
	p, err := s.pipelineOf(j)
	if err != nil {
		return nil, err
	}
	made, err = s.planPipeline(ctx, p, j.options)
	return made, rpcstatus.Of(err)
}

// Checkpoints returns the newest checkpoints of a job, oldest first, those that failed included.
func (s *Service) Checkpoints(id string) ([]Checkpoint, error) {
	j, err := s.job(id)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	list, inRecord := slices.Clone(j.checkpoints), j.archived
	j.mu.Unlock()
	if !inRecord {
		return list, nil
	}
	list, err = s.cfg.Records.Checkpoints(id)
	if fault.ClassOf(err) == fault.Corruption {
		s.cfg.Logger.Warn("list of checkpoints damaged", "job", id, "error", err)
		err = nil
	}
	return list, archived(j, err)
}

// Messages returns up to limit events of a job after the given Seq, oldest
// first, without waiting for any to come. Events that a full log has dropped
// show as a gap in Seq.
func (s *Service) Messages(id string, after int64, limit int) ([]Event, error) {
	j, err := s.job(id)
	if err != nil {
		return nil, err
	}
	history, err := s.journalOf(j)
	if err != nil {
		return nil, err
	}
	events, _, _ := history.since(after, limit, false)
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
	history, err := s.journalOf(j)
	if err != nil {
		return err
	}
	return history.follow(ctx, s.stop, after, false, fn)
}

func (s *Service) job(id string) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.jobs[id]; ok {
		return j, nil
	}
	return nil, rpcstatus.Errorf(codes.NotFound, "no job %q: it was never prepared here, or it has been forgotten, as jobs are after a while or when there are too many", clipText(id, 100))
}

// admit gives a new job a place on the list, whose oldest may have to go.
func (s *Service) admit(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	if _, taken := s.jobs[j.id]; taken {
		return fmt.Errorf("job id %s is taken", j.id) // 40 random bits
	}
	forgotten := s.makeRoom(j.size)
	if len(forgotten) > 0 {
		s.background.Go(func() { s.unrecord(forgotten) })
	}
	if s.full(j.size) {
		return rpcstatus.Errorf(codes.ResourceExhausted, "%d jobs are running; wait until some have ended", len(s.order))
	}
	s.enlist(j)
	s.record(j)
	return nil
}

func (s *Service) enlist(j *job) {
	s.jobs[j.id] = j
	s.order = append(s.order, j)
	s.bytes += j.size
}

// strike takes a job off the list. The caller holds mu, and calls unrecord without.
func (s *Service) strike(j *job) {
	s.order = slices.DeleteFunc(s.order, func(other *job) bool { return other == j })
	delete(s.jobs, j.id)
	s.bytes -= j.size
}

// full tells whether there is no place for one more job. The caller holds mu.
func (s *Service) full(size int) bool {
	return len(s.order) >= s.cfg.MaxJobs || len(s.order) > 0 && s.bytes+size > s.cfg.MaxHistoryBytes
}

// makeRoom takes jobs off the list until there is a place, or all are running:
// first those that ended longest ago, then the oldest that were never run.
// The caller holds mu, and calls unrecord without.
func (s *Service) makeRoom(size int) (forgotten []*job) {
	for s.full(size) {
		var victim *job
		var ended time.Time
		for _, j := range s.order {
			sum := j.summary()
			if Terminal(sum.State) && (victim == nil || sum.Ended.Before(ended)) {
				victim, ended = j, sum.Ended
			}
		}
		if victim == nil {
			i := slices.IndexFunc(s.order, func(j *job) bool { return j.expire("the job was not run, and made room for others") })
			if i < 0 {
				break
			}
			victim = s.order[i]
		}
		s.strike(victim)
		s.cfg.Logger.Debug("job forgotten", "job", victim.id)
		forgotten = append(forgotten, victim)
	}
	return forgotten
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
