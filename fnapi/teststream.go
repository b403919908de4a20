package fnapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/lintelrun/lintel/internal/fault"
)

// testEvents is TestStreamService.Events (beam_interactive_api.proto), for which Beam's Go
// module has no client.
const testEvents = "/org.apache.beam.model.interactive.v1.TestStreamService/Events"

// TestStreamEvents asks the TestStreamService at an endpoint for its events with the given
// tags. What it returns yields one event after the other, and io.EOF after the last. The
// connection ends with the events or with ctx, one of which must come.
func TestStreamEvents(ctx context.Context, at *pipepb.ApiServiceDescriptor, tags []string) (func() (*pipepb.TestStreamPayload_Event, error), error) {
	conn, err := grpc.NewClient(at.GetUrl(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fault.New(fault.Invalid, "the TestStreamService at %q: %w", at.GetUrl(), err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	fail := func(err error) error {
		conn.Close()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("the TestStreamService at %s: %w", at.GetUrl(), err)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, testEvents)
	if err != nil {
		return nil, fail(err)
	}
	if err := stream.SendMsg(eventsRequest(tags)); err != nil {
		return nil, fail(err)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, fail(err)
	}
	return func() (*pipepb.TestStreamPayload_Event, error) {
		event := &pipepb.TestStreamPayload_Event{}
		if err := stream.RecvMsg(event); err != nil {
			return nil, fail(err)
		}
		return event, nil
	}, nil
}

// eventsRequest is an EventsRequest: a repeated string of number 1.
func eventsRequest(tags []string) *emptypb.Empty {
	var fields []byte
	for _, tag := range tags {
		fields = protowire.AppendTag(fields, 1, protowire.BytesType)
		fields = protowire.AppendString(fields, tag)
	}
	request := &emptypb.Empty{}
	request.ProtoReflect().SetUnknown(fields)
	return request
}
