package jobclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/web/jobview"
)

// Submission is a job to submit.
type Submission struct {
	// Name is for people.
	Name     string
	Pipeline *pipepb.Pipeline
	// Options are pipeline options by their keys on the wire.
	Options map[string]any
}

// stageChunk is how much of a file goes in one message, in bytes.
const stageChunk = 1 << 20

// Submit prepares a job, stages the files of this machine that its environments name, runs it and returns its id.
func (c *Client) Submit(ctx context.Context, s Submission) (id string, err error) {
	options, err := structpb.NewStruct(s.Options)
	if err != nil {
		return "", fmt.Errorf("pipeline options: %w", err)
	}
	prepared, err := c.jobs.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: s.Name, Pipeline: s.Pipeline, PipelineOptions: options})
	if err != nil {
		return "", c.failed("", err)
	}
	if err := c.stage(ctx, prepared.GetStagingSessionToken()); err != nil {
		return "", fmt.Errorf("staging: %w", err)
	}
	run, err := c.jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId(), RetrievalToken: prepared.GetStagingSessionToken()})
	if err != nil {
		return "", c.failed("", err)
	}
	return run.GetJobId(), nil
}

// Options returns the pipeline options of a job, by their keys on the wire, and its name.
func (c *Client) Options(ctx context.Context, id string) (options map[string]any, name string, err error) {
	r, err := c.jobs.GetJobs(ctx, &jobpb.GetJobsRequest{})
	if err != nil {
		return nil, "", c.failed(id, err)
	}
	for _, info := range r.GetJobInfo() {
		if info.GetJobId() == id {
			return info.GetPipelineOptions().AsMap(), info.GetJobName(), nil
		}
	}
	return nil, "", fmt.Errorf("%w: %s", jobview.ErrNotFound, id)
}

// stage sends the files that the server asks for.
func (c *Client) stage(ctx context.Context, token string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := jobpb.NewArtifactStagingServiceClient(c.conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return c.failed("", err)
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token}); err != nil && !errors.Is(err, io.EOF) {
		return c.failed("", err)
	}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.failed("", err)
		}
		if q := in.GetResolveArtifact(); q != nil {
			err = stream.Send(&jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: q.GetArtifacts()}}})
		} else {
			err = sendArtifact(stream, in.GetGetArtifact().GetArtifact())
		}
		if err != nil && !errors.Is(err, io.EOF) { // Recv tells why it has ended
			return err
		}
	}
}

func sendArtifact(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient, a *pipepb.ArtifactInformation) error {
	from, err := openArtifact(a)
	if err != nil {
		return err
	}
	defer from.Close()
	buf := make([]byte, stageChunk)
	for {
		n, err := io.ReadFull(from, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		err = stream.Send(&jobpb.ArtifactResponseWrapper{IsLast: last, Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
			GetArtifactResponse: &jobpb.GetArtifactResponse{Data: buf[:n]}}})
		if err != nil || last {
			return err
		}
	}
}

// openArtifact opens a file of this machine that an environment depends on.
func openArtifact(a *pipepb.ArtifactInformation) (*os.File, error) {
	if a.GetTypeUrn() != urns.ArtifactFile {
		return nil, fmt.Errorf("a dependency of type %s can't be staged: want a file of this machine, %s", a.GetTypeUrn(), urns.ArtifactFile)
	}
	var payload pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(a.GetTypePayload(), &payload); err != nil {
		return nil, fmt.Errorf("a dependency can't be read: %w", err)
	}
	return os.Open(payload.GetPath())
}
