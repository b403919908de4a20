package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// What the server itself understands, as StandardRunnerProtocols names it.
const (
	shortIDs          = "beam:protocol:monitoring_info_short_ids:v1"
	responseEmbedding = "beam:protocol:control_response_elements_embedding:v1"
)

type provisionService struct {
	fnpb.UnimplementedProvisionServiceServer
	s *Server
}

// GetProvisionInfo tells a starting harness where everything is: on this server.
func (p provisionService) GetProvisionInfo(ctx context.Context, _ *fnpb.GetProvisionInfoRequest) (*fnpb.GetProvisionInfoResponse, error) {
	h, err := p.s.harness(ctx)
	if err != nil {
		return nil, err
	}
	info := &fnpb.ProvisionInfo{}
	if h.worker.Provision != nil {
		info = proto.CloneOf(h.worker.Provision)
	}
	here := &pipepb.ApiServiceDescriptor{Url: p.s.Endpoint()}
	for _, e := range []struct {
		is  **pipepb.ApiServiceDescriptor
		def *pipepb.ApiServiceDescriptor
	}{
		{&info.LoggingEndpoint, here}, {&info.ArtifactEndpoint, here},
		{&info.ControlEndpoint, &pipepb.ApiServiceDescriptor{Url: p.s.BundleEndpoint()}},
	} {
		if *e.is == nil {
			*e.is = e.def
		}
	}
	info.RunnerCapabilities = append(info.RunnerCapabilities, shortIDs, responseEmbedding)
	info.RunnerCapabilities = append(info.RunnerCapabilities, h.worker.RunnerCapabilities...)
	return &fnpb.GetProvisionInfoResponse{Info: info}, nil
}
