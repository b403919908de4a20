package artifact

import (
	"context"
	"errors"
	"io"
	"io/fs"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
	"github.com/lintelrun/lintel/portable/urns"
)

// chunkBytes is the size of the messages that carry an artifact to a harness,
// below the 4 MiB that gRPC clients accept by default.
const chunkBytes = 1 << 20

// ResolveArtifacts returns the artifacts as they are: staging has resolved them.
func (s *Service) ResolveArtifacts(_ context.Context, req *jobpb.ResolveArtifactsRequest) (*jobpb.ResolveArtifactsResponse, error) {
	return &jobpb.ResolveArtifactsResponse{Replacements: req.GetArtifacts()}, nil
}

// GetArtifact sends the content of a staged or embedded artifact, in at least
// one message. Files are found by their hash alone, never by path.
func (s *Service) GetArtifact(req *jobpb.GetArtifactRequest, stream jobpb.ArtifactRetrievalService_GetArtifactServer) error {
	a := req.GetArtifact()
	switch a.GetTypeUrn() {
	case urns.ArtifactEmbedded:
		var p pipepb.EmbeddedFilePayload
		if err := proto.Unmarshal(a.GetTypePayload(), &p); err != nil {
			return status.Errorf(codes.InvalidArgument, "artifact %s: type payload is no EmbeddedFilePayload: %v", describe(a), err)
		}
		return sendBytes(stream, p.GetData())
	case urns.ArtifactFile:
		return s.sendFile(a, stream)
	default:
		return status.Errorf(codes.FailedPrecondition, "artifact %s was not staged: only files that the client has staged can be retrieved", describe(a))
	}
}

func (s *Service) sendFile(a *pipepb.ArtifactInformation, stream jobpb.ArtifactRetrievalService_GetArtifactServer) error {
	sum, _, err := announced(a)
	if err != nil {
		return rpcstatus.Of(err)
	}
	r, err := s.store.Open(sum)
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "artifact %s with SHA-256 %q was not staged, or its job has been removed", describe(a), sum)
	}
	if err != nil {
		return rpcstatus.Of(err)
	}
	defer r.Close()
	for sent := false; ; sent = true {
		buf := make([]byte, chunkBytes) // Send may keep it
		n, err := io.ReadFull(r, buf)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return status.Errorf(codes.Internal, "artifact %s: %v", describe(a), err)
		}
		if n > 0 || !sent {
			if err := stream.Send(&jobpb.GetArtifactResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

func sendBytes(stream jobpb.ArtifactRetrievalService_GetArtifactServer, data []byte) error {
	for {
		n := min(len(data), chunkBytes)
		if err := stream.Send(&jobpb.GetArtifactResponse{Data: data[:n]}); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}
