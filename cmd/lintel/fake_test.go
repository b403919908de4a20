package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// fakeServer is a job server whose jobs are scripted.
type fakeServer struct {
	jobpb.UnimplementedJobServiceServer
	endpoint string
	grpc     *grpc.Server

	mu      sync.Mutex
	jobs    []*fakeJob
	changed *sync.Cond
	stopped bool
}

type fakeJob struct {
	id, name string
	log      []*jobpb.JobMessagesResponse
	state    jobpb.JobState_Enum
	end      jobpb.JobState_Enum // state that Run leads to
}

func (f *fakeServer) message(j *fakeJob, level jobpb.JobMessage_MessageImportance, text string) {
	j.log = append(j.log, &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{
		MessageResponse: &jobpb.JobMessage{MessageText: text, Importance: level, Time: at(len(j.log)).Format(time.RFC3339Nano)}}})
	f.changed.Broadcast()
}

func (f *fakeServer) enter(j *fakeJob, s jobpb.JobState_Enum) {
	j.state = s
	j.log = append(j.log, &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{
		StateResponse: &jobpb.JobStateEvent{State: s, Timestamp: timestamppb.New(at(len(j.log)))}}})
	f.changed.Broadcast()
}

// at is the time of a job's nth entry.
func at(n int) time.Time { return time.Date(2026, 1, 2, 3, 4, n, 0, time.UTC) }

// newFakeServer has three jobs: wc-1 is done, wc-2 runs, wc-3 has failed.
func newFakeServer() (*fakeServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &fakeServer{endpoint: l.Addr().String(), grpc: grpc.NewServer()}
	f.changed = sync.NewCond(&f.mu)
	for i, end := range []jobpb.JobState_Enum{jobpb.JobState_DONE, jobpb.JobState_RUNNING, jobpb.JobState_FAILED} {
		j := &fakeJob{id: fmt.Sprintf("wc-%d", i+1), name: "wordcount", end: end}
		f.jobs = append(f.jobs, j)
		f.play(j)
	}
	jobpb.RegisterJobServiceServer(f.grpc, f)
	go f.grpc.Serve(l)
	return f, nil
}

func (f *fakeServer) stop() {
	f.mu.Lock()
	f.stopped = true
	f.changed.Broadcast()
	f.mu.Unlock()
	f.grpc.Stop()
}

// play is the course of a job up to the state it is meant to end in.
func (f *fakeServer) play(j *fakeJob) {
	f.enter(j, jobpb.JobState_STARTING)
	f.message(j, jobpb.JobMessage_JOB_MESSAGE_DEBUG, "planned 3 stages")
	f.enter(j, jobpb.JobState_RUNNING)
	f.message(j, jobpb.JobMessage_JOB_MESSAGE_BASIC, "harness connected")
	f.message(j, jobpb.JobMessage_JOB_MESSAGE_WARNING, "one line\nis not enough")
	if j.end == jobpb.JobState_FAILED {
		f.message(j, jobpb.JobMessage_JOB_MESSAGE_ERROR, "ValueError: too short\n  File \"wc.py\", line 7")
	}
	if j.end != jobpb.JobState_RUNNING {
		f.enter(j, j.end)
	}
}

func (f *fakeServer) find(id string) (*fakeJob, error) {
	for _, j := range f.jobs {
		if j.id == id {
			return j, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no job %q", id)
}

func (f *fakeServer) GetJobs(context.Context, *jobpb.GetJobsRequest) (*jobpb.GetJobsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &jobpb.GetJobsResponse{}
	for _, j := range f.jobs {
		r.JobInfo = append(r.JobInfo, &jobpb.JobInfo{JobId: j.id, JobName: j.name, State: j.state,
			PipelineOptions: &structpb.Struct{Fields: map[string]*structpb.Value{
				"beam:option:streaming:v1": structpb.NewBoolValue(false),
				"beam:option:job_name:v1":  structpb.NewStringValue(j.name)}}})
	}
	return r, nil
}

func (f *fakeServer) GetState(_ context.Context, r *jobpb.GetJobStateRequest) (*jobpb.JobStateEvent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(r.GetJobId())
	if err != nil {
		return nil, err
	}
	return &jobpb.JobStateEvent{State: j.state, Timestamp: timestamppb.New(at(9))}, nil
}

func (f *fakeServer) GetPipeline(_ context.Context, r *jobpb.GetJobPipelineRequest) (*jobpb.GetJobPipelineResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(r.GetJobId()); err != nil {
		return nil, err
	}
	return &jobpb.GetJobPipelineResponse{Pipeline: &pipepb.Pipeline{Components: &pipepb.Components{
		Transforms:   map[string]*pipepb.PTransform{"t1": {UniqueName: "Count/Words"}},
		Pcollections: map[string]*pipepb.PCollection{"p1": {UniqueName: "Count.out"}},
		Environments: map[string]*pipepb.Environment{"python": {Urn: "beam:env:external:v1"}},
	}, Requirements: []string{"beam:requirement:pardo:splittable_dofn:v1"}}}, nil
}

func (f *fakeServer) GetJobMetrics(_ context.Context, r *jobpb.GetJobMetricsRequest) (*jobpb.GetJobMetricsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(r.GetJobId()); err != nil {
		return nil, err
	}
	info := func(urn, kind string, labels map[string]string, ns ...uint64) *pipepb.MonitoringInfo {
		var payload []byte
		for _, n := range ns {
			payload = binary.AppendUvarint(payload, n)
		}
		return &pipepb.MonitoringInfo{Urn: "beam:metric:" + urn + ":v1", Type: "beam:metrics:" + kind + ":v1", Payload: payload, Labels: labels}
	}
	user := func(name string) map[string]string {
		return map[string]string{"PTRANSFORM": "t1", "NAMESPACE": "wc", "NAME": name}
	}
	return &jobpb.GetJobMetricsResponse{Metrics: &jobpb.MetricResults{
		Attempted: []*pipepb.MonitoringInfo{
			info("user:sum_int64", "sum_int64", user("words"), 900),
			info("element_count", "sum_int64", map[string]string{"PCOLLECTION": "p1"}, 12)},
		Committed: []*pipepb.MonitoringInfo{
			info("user:sum_int64", "sum_int64", user("words"), 700),
			info("user:distribution_int64", "distribution_int64", user("lengths"), 4, 20, 1, 12),
			info("element_count", "sum_int64", map[string]string{"PCOLLECTION": "p1"}, 12)},
	}}, nil
}

func (f *fakeServer) GetMessageStream(r *jobpb.JobMessagesRequest, s jobpb.JobService_GetMessageStreamServer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(r.GetJobId())
	if err != nil {
		return err
	}
	defer context.AfterFunc(s.Context(), f.changed.Broadcast)()
	for n := 0; ; f.changed.Wait() {
		for ; n < len(j.log); n++ {
			if err := s.Send(j.log[n]); err != nil {
				return err
			}
		}
		if f.stopped || s.Context().Err() != nil || slices.Contains([]jobpb.JobState_Enum{jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLED}, j.state) {
			return nil
		}
	}
}

func (f *fakeServer) Cancel(_ context.Context, r *jobpb.CancelJobRequest) (*jobpb.CancelJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(r.GetJobId())
	if err != nil {
		return nil, err
	}
	if j.state == jobpb.JobState_RUNNING {
		f.enter(j, jobpb.JobState_CANCELLED)
	}
	return &jobpb.CancelJobResponse{State: j.state}, nil
}

func (f *fakeServer) Drain(_ context.Context, r *jobpb.DrainJobRequest) (*jobpb.DrainJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(r.GetJobId())
	if err != nil {
		return nil, err
	}
	if j.state == jobpb.JobState_RUNNING {
		f.enter(j, jobpb.JobState_DRAINING)
	}
	return &jobpb.DrainJobResponse{State: j.state}, nil
}

// Prepare makes a job that ends, once it is run, in the state of its name.
func (f *fakeServer) Prepare(_ context.Context, r *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := &fakeJob{id: fmt.Sprintf("new-%d", len(f.jobs)), name: r.GetJobName(), state: jobpb.JobState_STOPPED,
		end: jobpb.JobState_Enum(jobpb.JobState_Enum_value[r.GetJobName()])}
	f.jobs = append(f.jobs, j)
	return &jobpb.PrepareJobResponse{PreparationId: j.id}, nil
}

func (f *fakeServer) Run(_ context.Context, r *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j, err := f.find(r.GetPreparationId())
	if err != nil {
		return nil, err
	}
	f.play(j)
	return &jobpb.RunJobResponse{JobId: j.id}, nil
}

// fakePipeline is a program of an SDK: it prints its flags, submits a job named
// after each of its plain arguments that is a state, and ends with the code of --exit.
func fakePipeline() {
	fmt.Println(strings.Join(os.Args[1:], " "))
	if v := os.Getenv(overrides); v != "" {
		fmt.Println(v)
	}
	conn, err := grpc.NewClient("passthrough:///"+os.Getenv("LINTEL_JOB_ENDPOINT"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	jobs := jobpb.NewJobServiceClient(conn)
	code := 0
	for _, arg := range os.Args[1:] {
		if value, ok := strings.CutPrefix(arg, "--exit="); ok {
			code, _ = strconv.Atoi(value)
		}
		if _, ok := jobpb.JobState_Enum_value[arg]; ok {
			p, err := jobs.Prepare(context.Background(), &jobpb.PrepareJobRequest{JobName: arg})
			if err == nil && arg != "STOPPED" {
				_, err = jobs.Run(context.Background(), &jobpb.RunJobRequest{PreparationId: p.GetPreparationId()})
			}
			if err != nil {
				panic(err)
			}
		}
	}
	if _, err := jobs.GetJobs(context.Background(), &jobpb.GetJobsRequest{}); err != nil {
		panic(err)
	}
	os.Exit(code)
}
