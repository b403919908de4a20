package jobservice_test

import (
	"context"
	"errors"
	"io"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// An alternative of an anyof environment has files of its own, which only the plan names.
func TestStagingIsForTheEnvironmentsOfThePlan(t *testing.T) {
	deps := []*pipepb.ArtifactInformation{{TypeUrn: urns.ArtifactFile, RoleUrn: urns.ArtifactRolePipRequirementsFile}}
	r := newRig(t, jobservice.Config{}, func(_ context.Context, p *pipepb.Pipeline, _ *structpb.Struct) (*plan.Plan, error) {
		chosen := &pipepb.Environment{Urn: "beam:env:process:v1", Dependencies: deps}
		return &plan.Plan{Components: p.GetComponents(), Environments: map[string]*pipepb.Environment{"py": chosen}}, nil
	})
	pipeline := &pipepb.Pipeline{Components: &pipepb.Components{
		Environments: map[string]*pipepb.Environment{"py": {Urn: "beam:env:anyof:v1"}, "go": {Urn: "beam:env:external:v1"}},
	}}
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: pipeline})
	if err != nil {
		t.Fatal(err)
	}
	stage(t, r, resp.GetStagingSessionToken(), "numpy")
	job := r.start(t, resp.GetPreparationId())
	environments := job.job.Pipeline.GetComponents().GetEnvironments()
	if got := environments["py"].GetDependencies(); len(got) != 1 || got[0].GetRoleUrn() != deps[0].GetRoleUrn() {
		t.Errorf("dependencies are %v; want what was staged", got)
	}
	if got := environments["go"].GetDependencies(); len(got) != 0 {
		t.Errorf("dependencies of another environment: %v", got)
	}
	job.end(nil)
}

func TestExecutorGetsStagedDependencies(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	pipeline := &pipepb.Pipeline{
		RootTransformIds: []string{"root"},
		Components: &pipepb.Components{
			Coders: map[string]*pipepb.Coder{"c": {}},
			Environments: map[string]*pipepb.Environment{
				"py": {Urn: "beam:env:process:v1", Payload: []byte("boot"), Dependencies: []*pipepb.ArtifactInformation{{
					TypeUrn: urns.ArtifactFile, RoleUrn: urns.ArtifactRolePipRequirementsFile,
				}}},
				"go": {Urn: "beam:env:external:v1"},
			},
		},
	}
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: pipeline})
	if err != nil {
		t.Fatal(err)
	}
	stage(t, r, resp.GetStagingSessionToken(), "numpy")
	job := r.start(t, resp.GetPreparationId())

	deps := r.artifacts.Dependencies(job.job.RetrievalToken, "py")
	got := job.job.Pipeline
	if len(deps) != 1 || !proto.Equal(deps[0], got.GetComponents().GetEnvironments()["py"].GetDependencies()[0]) {
		t.Errorf("environment has other dependencies than were staged: %v", got)
	}
	var file pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(deps[0].GetTypePayload(), &file); err != nil || len(file.GetSha256()) != 64 || deps[0].GetRoleUrn() != urns.ArtifactRolePipRequirementsFile {
		t.Errorf("dependency %v (%v)", deps[0], err)
	}
	ignoreDeps := protocmp.IgnoreFields(&pipepb.Environment{}, "dependencies")
	if diff := cmp.Diff(pipeline, got, protocmp.Transform(), ignoreDeps); diff != "" {
		t.Errorf("more than dependencies has changed (-submitted +got):\n%s", diff)
	}
	submitted, err := r.client.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: resp.GetPreparationId()})
	if diff := cmp.Diff(pipeline, submitted.GetPipeline(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("GetPipeline: %v, (-submitted +got):\n%s", err, diff)
	}

	job.end(nil)
	r.watch(t, resp.GetPreparationId())
	if left := r.artifacts.Dependencies(job.job.RetrievalToken, "py"); left != nil {
		t.Errorf("an ended job still holds artifacts: %v", left)
	}
}

func TestCancelledBeforeRunReleasesArtifacts(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{Components: &pipepb.Components{
		Environments: map[string]*pipepb.Environment{"e": {Dependencies: []*pipepb.ArtifactInformation{{TypeUrn: urns.ArtifactFile}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	stage(t, r, resp.GetStagingSessionToken(), "x")
	if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: resp.GetPreparationId()}); err != nil {
		t.Fatal(err)
	}
	if left := r.artifacts.Dependencies(resp.GetStagingSessionToken(), "e"); left != nil {
		t.Errorf("a cancelled job still holds artifacts: %v", left)
	}
}

// stage offers artifacts, each with the given content.
func stage(t *testing.T, r *rig, token, content string) {
	t.Helper()
	stream, err := r.staging.ReverseArtifactRetrievalService(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answer := &jobpb.ArtifactResponseWrapper{StagingToken: token}
	for {
		if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if q := in.GetResolveArtifact(); q != nil {
			answer = &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: q.GetArtifacts()}}}
		} else {
			answer = &jobpb.ArtifactResponseWrapper{IsLast: true, Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
				GetArtifactResponse: &jobpb.GetArtifactResponse{Data: []byte(content)}}}
		}
	}
}
