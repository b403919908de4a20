package jobservice_test

import (
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
)

// FuzzPrepare submits whatever decodes as a request: it must be refused or run,
// with every view of the job working.
func FuzzPrepare(f *testing.F) {
	options, _ := structpb.NewStruct(map[string]any{"beam:option:job_name:v1": "n", "list": []any{1.0, nil, "x"}})
	for _, req := range []*jobpb.PrepareJobRequest{
		{},
		{Pipeline: &pipepb.Pipeline{}, JobName: "../../etc/é\x00"},
		{Pipeline: &pipepb.Pipeline{
			RootTransformIds: []string{"missing"},
			Components: &pipepb.Components{Environments: map[string]*pipepb.Environment{"": {
				Urn:          "beam:env:external:v1",
				Dependencies: []*pipepb.ArtifactInformation{{TypeUrn: "beam:artifact:type:file:v1", TypePayload: []byte{10, 1, 'x'}}},
			}}},
		}, PipelineOptions: options},
	} {
		b, err := proto.Marshal(req)
		if err != nil {
			b = []byte{0x1a, 1, 'n'}
		}
		f.Add(b)
	}
	r := newRig(f, jobservice.Config{MaxJobs: 20}, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &jobpb.PrepareJobRequest{}
		if proto.Unmarshal(b, req) != nil {
			return
		}
		begin := time.Now()
		resp, err := r.client.Prepare(t.Context(), req)
		if err != nil {
			return
		}
		id := resp.GetPreparationId()
		r.start(t, id).end(nil)
		if states := statesOf(r.watch(t, id)); states[len(states)-1] != done {
			t.Errorf("states %v", states)
		}
		got, err := r.client.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: id})
		if err != nil || !proto.Equal(got.GetPipeline(), req.GetPipeline()) {
			t.Errorf("GetPipeline: %v, %v", got, err)
		}
		if _, err := r.client.GetJobs(t.Context(), &jobpb.GetJobsRequest{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
