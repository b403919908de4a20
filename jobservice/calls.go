package jobservice

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/options"
)

// Run starts a prepared job, once: the same preparation id again names the same
// job. The job's id is the preparation id.
func (s *Service) Run(ctx context.Context, req *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	j, err := s.job(req.GetPreparationId())
	if err != nil {
		return nil, err
	}
	ctx, span := s.cfg.Tracer.Start(j.context(ctx), "Run")
	defer span.End()
	if err := s.artifacts.Seal(ctx, j.token); err != nil {
		return nil, rpcstatus.Of(err)
	}
	if !s.begin() {
		return nil, errStopped
	}
	runCtx, cancel := context.WithCancel(j.context(context.Background()))
	started, err := j.start(cancel)
	if started {
		s.staged(j)
		old, failed := s.outlast(j)
		go s.execute(runCtx, cancel, j, old, failed)
	} else {
		cancel()
		s.running.Done()
	}
	if err != nil {
		return nil, rpcstatus.Errorf(codes.FailedPrecondition, "%v", err)
	}
	j.awaitRecord(ctx) // the client may go away now, and ask for the job later
	return &jobpb.RunJobResponse{JobId: j.id}, nil
}

// begin announces work that Close waits for; false if it is too late for that.
// The caller calls s.running.Done at its end.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.running.Add(1)
	}
	return !s.stopped
}

// outlast has a later process go on with the job, if it is one that survives, before its client is told that it runs. It returns the job
// whose place it is to take, nil if there is none.
func (s *Service) outlast(j *job) (old *job, err error) {
	if old, err = s.predecessor(j); err == nil && s.executor.Survives(s.spec(j)) {
		s.keep(j)
	}
	return old, err
}

// execute runs a job to its end, in the place of another if old is not nil, unless it has failed already.
func (s *Service) execute(ctx context.Context, cancel context.CancelFunc, j, old *job, err error) {
	defer s.running.Done()
	defer cancel()
	if err == nil && old != nil {
		err = s.takePlace(j, old)
	}
	if err == nil {
		s.lead(ctx, j, s.spec(j))
	} else if !j.leave(err) {
		s.end(j, nil, err)
	}
}

// spec returns what the executor is to know of a job.
func (s *Service) spec(j *job) Job {
	j.mu.Lock()
	planned, pipeline, from := j.plan, j.pipeline, j.restoreFrom
	j.mu.Unlock()
	return Job{
		ID: j.id, Name: j.name, Plan: planned, Options: j.options, RetrievalToken: j.token, Submitted: j.prepared, RestoreFrom: from,
		Pipeline: withDependencies(pipeline, func(env string) []*pipepb.ArtifactInformation {
			return s.artifacts.Dependencies(j.token, env)
		}),
	}
}

// lead runs a job to its end.
func (s *Service) lead(ctx context.Context, j *job, spec Job) {
	run, err := j.execute(ctx, s.executor, spec)
	if !j.leave(err) {
		s.end(j, run, err)
	}
}

// end is how a job ends for good.
func (s *Service) end(j *job, run Run, err error) {
	s.artifacts.Release(j.token)
	j.finish(run, err)
	state := j.summary().State
	s.cfg.Logger.Info("job ended", "job", j.id, "state", state.String())
	if state != jobpb.JobState_FAILED { // of one that failed they stay as long as its record
		s.forgetCheckpoints(j)
	}
}

// withDependencies returns the pipeline with other dependencies in its
// environments. All else is shared with p.
func withDependencies(p *pipepb.Pipeline, dependencies func(env string) []*pipepb.ArtifactInformation) *pipepb.Pipeline {
	environments := make(map[string]*pipepb.Environment, len(p.GetComponents().GetEnvironments()))
	for id, env := range p.GetComponents().GetEnvironments() {
		with := &pipepb.Environment{}
		shareFields(with, env)
		with.Dependencies = dependencies(id)
		environments[id] = with
	}
	components, out := &pipepb.Components{}, &pipepb.Pipeline{}
	shareFields(components, p.GetComponents())
	components.Environments = environments
	shareFields(out, p)
	out.Components = components
	return out
}

// GetJobs lists all jobs that are remembered, oldest first.
func (s *Service) GetJobs(context.Context, *jobpb.GetJobsRequest) (*jobpb.GetJobsResponse, error) {
	resp := &jobpb.GetJobsResponse{}
	for _, sum := range s.Jobs() {
		if j, err := s.job(sum.ID); err == nil {
			resp.JobInfo = append(resp.JobInfo, &jobpb.JobInfo{JobId: sum.ID, JobName: sum.Name, PipelineOptions: j.options, State: sum.State})
		}
	}
	return resp, nil
}

// GetState returns the current state and since when. Clients in Java take the states
// of a job that is drained for unknown ones and ask on for ever (JobServicePipelineResult
// of Beam 2.77), so they get RUNNING for DRAINING and DONE for DRAINED.
func (s *Service) GetState(ctx context.Context, req *jobpb.GetJobStateRequest) (*jobpb.JobStateEvent, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	e := j.current()
	if as, ok := drainedInJava[e.State]; ok && fromJava(ctx) {
		e.State = as
	}
	return stateEvent(e), nil
}

var drainedInJava = map[State]State{
	jobpb.JobState_DRAINING: jobpb.JobState_RUNNING,
	jobpb.JobState_DRAINED:  jobpb.JobState_DONE,
}

// fromJava tells whether a call comes from a client in Java.
func fromJava(ctx context.Context) bool {
	agent := metadata.ValueFromIncomingContext(ctx, "user-agent")
	return len(agent) > 0 && strings.HasPrefix(agent[0], "grpc-java")
}

// GetPipeline returns the pipeline as submitted.
func (s *Service) GetPipeline(_ context.Context, req *jobpb.GetJobPipelineRequest) (*jobpb.GetJobPipelineResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	p, err := s.pipelineOf(j)
	if err != nil {
		return nil, err
	}
	return &jobpb.GetJobPipelineResponse{Pipeline: p}, nil
}

// Cancel asks a job to end and returns at once, with the state it has then.
// Cancelling a job that is being cancelled or has ended changes nothing.
func (s *Service) Cancel(_ context.Context, req *jobpb.CancelJobRequest) (*jobpb.CancelJobResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	state := j.requestCancel()
	if Terminal(state) {
		s.artifacts.Release(j.token) // of a job that never ran
	}
	return &jobpb.CancelJobResponse{State: state}, nil
}

// Drain asks a running job to come to an end without loss and returns at once, with
// the state it has then: DRAINING, and DRAINED in the end. Draining a job that is
// being drained or cancelled or has ended changes nothing.
func (s *Service) Drain(_ context.Context, req *jobpb.DrainJobRequest) (*jobpb.DrainJobResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	state, err := j.requestDrain()
	if err != nil {
		return nil, rpcstatus.Errorf(codes.FailedPrecondition, "%v", err)
	}
	return &jobpb.DrainJobResponse{State: state}, nil
}

// GetStateStream sends the current state, then each change, and ends after the terminal state.
//
// Python's client asks for it before it runs a job, with a deadline (--job_server_timeout, 300 s)
// that would end its wait for the job. Where that is refused, it asks again after Run, without one.
func (s *Service) GetStateStream(req *jobpb.GetJobStateRequest, stream jobpb.JobService_GetStateStreamServer) error {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return err
	}
	current := j.current()
	if Terminal(current.State) {
		return stream.Send(stateEvent(current))
	}
	if _, limited := stream.Context().Deadline(); limited && current.State == jobpb.JobState_STOPPED {
		return rpcstatus.Errorf(codes.FailedPrecondition, "job %s has not been run: its states end with the deadline of this call", req.GetJobId())
	}
	history, err := s.journalOf(j)
	if err != nil {
		return err
	}
	err = history.follow(stream.Context(), s.stop, current.Seq-1, true, func(e Event) error {
		return stream.Send(stateEvent(e))
	})
	return rpcstatus.Of(err)
}

// HarnessLogs is a key of call metadata: with any value, GetMessageStream sends
// what harnesses logged too. SDK clients don't get it, since with LOOPBACK the
// client is the harness: it would log each line again, and we send that back.
const HarnessLogs = "lintel-harness-logs"

// GetMessageStream sends all messages and states from the first on, then each as
// it comes, and ends after the terminal state. The reason of a failure is the
// one error-level message, just before the state FAILED: Java shows the first
// such message as the failure, Python the last.
func (s *Service) GetMessageStream(req *jobpb.JobMessagesRequest, stream jobpb.JobService_GetMessageStreamServer) error {
	harnessLogs := len(metadata.ValueFromIncomingContext(stream.Context(), HarnessLogs)) > 0
	err := s.Follow(stream.Context(), req.GetJobId(), 0, func(e Event) error {
		if e.Harness && !harnessLogs {
			return nil
		}
		return stream.Send(messageResponse(e))
	})
	return rpcstatus.Of(err)
}

// GetJobMetrics returns the metrics so far, or the final ones. Clients in Java get
// the attempted value of those metrics only that have no committed one: Beam's,
// before 2.71, takes both lists for attempted values and adds them up, and from
// then on prefers committed values itself (apache/beam#32001).
func (s *Service) GetJobMetrics(ctx context.Context, req *jobpb.GetJobMetricsRequest) (*jobpb.GetJobMetricsResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	m, err := s.metricsOf(j)
	if err != nil {
		return nil, err
	}
	if fromJava(ctx) {
		m = &jobpb.MetricResults{Attempted: metrics.Without(m.GetAttempted(), m.GetCommitted()), Committed: m.GetCommitted()}
	}
	return &jobpb.GetJobMetricsResponse{Metrics: m}, nil
}

// DescribePipelineOptions returns the options of ours that a pipeline may set.
func (s *Service) DescribePipelineOptions(context.Context, *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	resp := &jobpb.DescribePipelineOptionsResponse{}
	for _, d := range s.cfg.Options {
		resp.Options = append(resp.Options, &jobpb.PipelineOptionDescriptor{
			Name: d.Name, Type: optionTypes[d.Type], Description: d.Description, DefaultValue: d.Default,
		})
	}
	return resp, nil
}

var optionTypes = map[options.Type]jobpb.PipelineOptionType_Enum{
	options.String:  jobpb.PipelineOptionType_STRING,
	options.Boolean: jobpb.PipelineOptionType_BOOLEAN,
	options.Integer: jobpb.PipelineOptionType_INTEGER,
	options.Strings: jobpb.PipelineOptionType_ARRAY,
}

func stateEvent(e Event) *jobpb.JobStateEvent {
	return &jobpb.JobStateEvent{State: e.State, Timestamp: timestamppb.New(e.Time)}
}

func messageResponse(e Event) *jobpb.JobMessagesResponse {
	if e.State != jobpb.JobState_UNSPECIFIED {
		return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{StateResponse: stateEvent(e)}}
	}
	return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: &jobpb.JobMessage{
		MessageId:   strconv.FormatInt(e.Seq, 10),
		Time:        e.Time.Format(time.RFC3339Nano),
		Importance:  importance(e),
		MessageText: e.Text,
	}}}
}

func importance(e Event) jobpb.JobMessage_MessageImportance {
	switch {
	case e.Failure:
		return jobpb.JobMessage_JOB_MESSAGE_ERROR
	case e.Level >= slog.LevelWarn:
		return jobpb.JobMessage_JOB_MESSAGE_WARNING
	case e.Level >= slog.LevelInfo:
		return jobpb.JobMessage_JOB_MESSAGE_BASIC
	default:
		return jobpb.JobMessage_JOB_MESSAGE_DEBUG
	}
}

// shareFields sets all fields of dst to those of src, unknown ones included,
// without copying what they hold.
func shareFields(dst, src proto.Message) {
	d, from := dst.ProtoReflect(), src.ProtoReflect()
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		d.Set(f, v)
		return true
	})
	d.SetUnknown(from.GetUnknown())
}
