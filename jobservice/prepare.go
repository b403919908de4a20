package jobservice

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/plan"
)

// prepare is Prepare below the root span of the job.
func (s *Service) prepare(ctx context.Context, root trace.Span, req *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	if req.GetPipeline() == nil {
		return nil, rpcstatus.Errorf(codes.InvalidArgument, "PrepareJobRequest.pipeline is missing")
	}
	options := req.GetPipelineOptions()
	if options == nil {
		options = &structpb.Struct{}
	}
	size := proto.Size(req.GetPipeline()) + proto.Size(options)
	if size > s.cfg.MaxPipelineBytes {
		return nil, rpcstatus.Errorf(codes.ResourceExhausted, "the pipeline has %d bytes, more than the %d allowed; large data should be read from files", size, s.cfg.MaxPipelineBytes)
	}
	if nestedDeeper(structpb.NewStructValue(options), maxOptionsDepth) {
		return nil, rpcstatus.Errorf(codes.InvalidArgument, "PrepareJobRequest.pipeline_options has values nested in more than %d others", maxOptionsDepth)
	}
	planned, err := s.planTraced(ctx, req.GetPipeline(), options)
	if err != nil {
		return nil, rpcstatus.Of(err)
	}
	old, err := s.replacedBy(jobName(req.GetJobName(), options), options)
	if err == nil && old != nil {
		err = s.checkUpdate(old, Job{Plan: planned, Pipeline: req.GetPipeline(), Options: options})
	}
	if err != nil {
		return nil, rpcstatus.Of(err)
	}
	token, err := s.artifacts.Open(startedIn(req.GetPipeline(), planned))
	if err != nil {
		return nil, rpcstatus.Of(err)
	}
	j := s.newJob(req, options, planned)
	j.token, j.size = token, size
	if old != nil {
		j.replaces = old.id
	}
	s.traced(j, root)
	if err := s.admit(j); err != nil {
		j.expire("refused")
		s.artifacts.Release(token)
		return nil, rpcstatus.Of(err)
	}
	s.cfg.Logger.Info("job prepared", "job", j.id, "name", j.name)
	return &jobpb.PrepareJobResponse{
		PreparationId:           j.id,
		ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.endpoint(ctx)},
		StagingSessionToken:     token,
	}, nil
}

// startedIn returns the environments of a pipeline, those that the plan has something else for,
// such as one of several alternatives, as they are in the plan.
func startedIn(p *pipepb.Pipeline, planned *plan.Plan) map[string]*pipepb.Environment {
	environments := map[string]*pipepb.Environment{}
	maps.Copy(environments, p.GetComponents().GetEnvironments())
	maps.Copy(environments, planned.Environments)
	return environments
}

// maxOptionsDepth bounds lists and structs within each other: GetJobs puts the
// options of all jobs into one message, and clients refuse one that is too deep.
const maxOptionsDepth = 100

func nestedDeeper(v *structpb.Value, depth int) bool {
	if depth < 0 {
		return true
	}
	for _, field := range v.GetStructValue().GetFields() {
		if nestedDeeper(field, depth-1) {
			return true
		}
	}
	return slices.ContainsFunc(v.GetListValue().GetValues(), func(item *structpb.Value) bool { return nestedDeeper(item, depth-1) })
}

func (s *Service) newJob(req *jobpb.PrepareJobRequest, options *structpb.Struct, planned *plan.Plan) *job {
	name := jobName(req.GetJobName(), options)
	j := &job{
		id: newID(name), name: name, options: options, prepared: time.Now().UTC(),
		pipeline: req.GetPipeline(), plan: planned,
		journal: newJournal(s.cfg), state: jobpb.JobState_STOPPED, records: s.cfg.Records,
	}
	j.states = j.journal.add(Event{State: j.state})
	return j
}

// endpoint returns the address by which the client has reached us.
func (s *Service) endpoint(ctx context.Context) string {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, authority := range md.Get(":authority") {
			if host, port, err := net.SplitHostPort(authority); err == nil && host != "" && port != "" {
				return authority
			}
		}
	}
	return s.cfg.Endpoint
}

// jobName finds what the user calls the job: Python gives the name by options only.
func jobName(requested string, options *structpb.Struct) string {
	name := options.GetFields()["beam:option:job_name:v1"].GetStringValue()
	if name == "" {
		name = requested
	}
	return clipText(name, 1000)
}
