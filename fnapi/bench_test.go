package fnapi_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

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
type cheapCodec struct{}

func (cheapCodec) Marshal(v any) (out mem.BufferSlice, _ error) {
	for _, part := range *v.(*data.Message) {
		out = append(out, mem.SliceBuffer(part))
	}
	return out, nil
}

func (cheapCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (cheapCodec) Name() string                         { return "proto" }

// benchBundle opens a bundle of a harness that has streams but executes nothing.
func benchBundle(b *testing.B) (*fnapi.Bundle, grpc.ClientStream) {
	s := newServer(b, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		b.Fatal(err)
	}
	addDescriptors(b, s, h)
	conn, err := fnapitest.Dial(s.BundleEndpoint())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	stream, err := conn.NewStream(fnapitest.WithWorkerID(b.Context(), "worker"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/org.apache.beam.model.fn_execution.v1.BeamFnData/Data", grpc.ForceCodecV2(cheapCodec{}))
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

// BenchmarkState has another process ask for a small value and wait for the answer, as SDKs do. It reports
// the processor time that a request costs this process.
func BenchmarkState(b *testing.B) {
	s := newServer(b, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		b.Fatal(err)
	}
	addDescriptors(b, s, h)
	spec := plain
	spec.State = &memory{bags: map[string]string{"a": "xyz"}}
	bundle := newBundle(b, h, spec)
	b.Cleanup(func() { bundle.Abort(nil) })
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	asker := exec.Command(self)
	asker.Env = append(os.Environ(), askState+"="+s.StateEndpoint()+" "+bundle.ID()+" "+strconv.Itoa(b.N))
	asker.Stderr = os.Stderr
	ready, err := asker.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := asker.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	if err := asker.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// askState in the environment makes the test's program the one that asks.
const askState = "LINTEL_TEST_ASK_STATE"

// ask asks for state so many times, one after another.
func ask(text string) error {
	var endpoint, bundle string
	var n int
	if _, err := fmt.Sscan(text, &endpoint, &bundle, &n); err != nil {
		return err
	}
	conn, err := fnapitest.Dial(endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := fnpb.NewBeamFnStateClient(conn).State(fnapitest.WithWorkerID(context.Background(), "worker"))
	if err != nil {
		return err
	}
	request := &fnpb.StateRequest{
		Id: "1", InstructionId: bundle, StateKey: bag("a"),
		Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}},
	}
	for i := range n + 1 {
		if err := stream.Send(request); err != nil {
			return err
		}
		if resp, err := stream.Recv(); err != nil || len(resp.GetGet().GetData()) != 3 {
			return fmt.Errorf("%v, %w", resp, err)
		}
		if i == 0 {
			fmt.Print(".") // it begins
		}
	}
	return nil
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
