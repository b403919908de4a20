package fnapi_test

import (
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
)

const benchMessage = 1 << 20

// cheapCodec makes the harness's end cost as little as possible: nothing is
// copied on its way out, nothing is looked at on its way in.
type cheapCodec struct{ data.Codec }

func (cheapCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// benchBundle opens a bundle of a harness that has streams but executes nothing.
func benchBundle(b *testing.B) (*fnapi.Bundle, grpc.ClientStream) {
	s := newServer(b, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		b.Fatal(err)
	}
	addDescriptors(b, s, h)
	conn, err := fnapitest.Dial(s.Endpoint())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	stream, err := conn.NewStream(fnapitest.WithWorkerID(b.Context(), "worker"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/org.apache.beam.model.fn_execution.v1.BeamFnData/Data", grpc.ForceCodecV2(cheapCodec{data.NewCodec()}))
	if err != nil {
		b.Fatal(err)
	}
	return newBundle(b, h, plain), stream
}

// BenchmarkDataOut sends messages of 1 MB to a harness.
func BenchmarkDataOut(b *testing.B) {
	bundle, stream := benchBundle(b)
	payload := make([]byte, benchMessage)
	b.SetBytes(benchMessage)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if bundle.Send(payload) != nil {
				return
			}
		}
	}()
	for range b.N {
		if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	bundle.Abort(nil)
}

// BenchmarkDataIn receives messages of 1 MB from a harness.
func BenchmarkDataIn(b *testing.B) {
	bundle, stream := benchBundle(b)
	message := data.NewMessage(bundle.ID(), data.Target{Transform: "sink"}, make([]byte, benchMessage))
	b.SetBytes(benchMessage)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if stream.SendMsg(&message) != nil {
				return
			}
		}
	}()
	for range b.N {
		out, err := bundle.Recv(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if len(out.Data) != benchMessage {
			b.Fatalf("got %d bytes", len(out.Data))
		}
	}
	b.StopTimer()
	bundle.Abort(nil)
}

// BenchmarkState asks for a small value and waits for the answer, as SDKs do.
func BenchmarkState(b *testing.B) {
	s := newServer(b, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		b.Fatal(err)
	}
	addDescriptors(b, s, h)
	conn, err := fnapitest.Dial(s.StateEndpoint())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	stream, err := fnpb.NewBeamFnStateClient(conn).State(fnapitest.WithWorkerID(b.Context(), "worker"))
	if err != nil {
		b.Fatal(err)
	}
	spec := plain
	spec.State = &memory{bags: map[string]string{"a": "xyz"}}
	bundle := newBundle(b, h, spec)
	request := &fnpb.StateRequest{
		Id: "1", InstructionId: bundle.ID(), StateKey: bag("a"),
		Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}},
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := stream.Send(request); err != nil {
			b.Fatal(err)
		}
		if resp, err := stream.Recv(); err != nil || len(resp.GetGet().GetData()) != 3 {
			b.Fatal(resp, err)
		}
	}
	b.StopTimer()
	bundle.Abort(nil)
}
