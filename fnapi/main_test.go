package fnapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(askState); text != "" {
		if err := ask(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// newServer serves until the end of the test.
func newServer(t testing.TB, cfg fnapi.Config) *fnapi.Server {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := fnapi.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// newHarness announces a harness with the test's descriptors and starts it.
func newHarness(t testing.TB, s *fnapi.Server, w fnapi.Worker, script fnapitest.Script) (*fnapi.Harness, *fnapitest.Harness) {
	t.Helper()
	h, err := s.Expect("worker", w)
	if err != nil {
		t.Fatal(err)
	}
	addDescriptors(t, s, h)
	sdk := fnapitest.Start(t, s.BundleEndpoint(), s.Endpoint(), "worker", script)
	if err := h.Ready(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return h, sdk
}

// addDescriptors adds "plain" (source, sink), "go", which asks for state where its data is, and "timers" (source, sink, two
// sinks, a ParDo with two timer families).
func addDescriptors(t testing.TB, s *fnapi.Server, h *fnapi.Harness) {
	t.Helper()
	parDo, err := proto.Marshal(&pipepb.ParDoPayload{TimerFamilySpecs: map[string]*pipepb.TimerFamilySpec{"f": {}, "g": {}}})
	if err != nil {
		t.Fatal(err)
	}
	transform := func(urn string, payload []byte) *pipepb.PTransform {
		return &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: urn, Payload: payload}}
	}
	source, sink := transform("beam:runner:source:v1", nil), transform("beam:runner:sink:v1", nil)
	state := &pipepb.ApiServiceDescriptor{Url: s.StateEndpoint()}
	h.AddDescriptor(&fnpb.ProcessBundleDescriptor{Id: "plain", StateApiServiceDescriptor: state, Transforms: map[string]*pipepb.PTransform{
		"source": source, "sink": sink}})
	h.AddDescriptor(&fnpb.ProcessBundleDescriptor{Id: "go", StateApiServiceDescriptor: &pipepb.ApiServiceDescriptor{Url: s.BundleEndpoint()},
		Transforms: map[string]*pipepb.PTransform{"source": source, "sink": sink}})
	h.AddDescriptor(&fnpb.ProcessBundleDescriptor{Id: "timers", StateApiServiceDescriptor: state, Transforms: map[string]*pipepb.PTransform{
		"source": source, "sink": sink, "sink2": sink, "pardo": transform("beam:transform:pardo:v1", parDo)}})
}

var (
	plain  = fnapi.BundleSpec{Descriptor: "plain", Source: "source", Sinks: []string{"sink"}}
	timers = fnapi.BundleSpec{Descriptor: "timers", Source: "source", Sinks: []string{"sink", "sink2"},
		Timers: []fnapi.TimerFamily{{Transform: "pardo", Family: "f"}, {Transform: "pardo", Family: "g"}}}
)

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newBundle(t testing.TB, h *fnapi.Harness, spec fnapi.BundleSpec) *fnapi.Bundle {
	t.Helper()
	b, err := h.NewBundle(spec)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// feed sends all the input there is.
func feed(t testing.TB, b *fnapi.Bundle, chunks ...string) {
	t.Helper()
	for _, c := range chunks {
		if err := b.Send([]byte(c)); err != nil {
			t.Fatalf("Send: %v", err)
		}
	}
	if err := b.CloseSend(); err != nil {
		t.Fatalf("CloseSend: %v", err)
	}
}

// collect reads a bundle to its end; the keys are "transform" or "transform/family".
func collect(ctx context.Context, b *fnapi.Bundle) (map[string]string, error) {
	got := map[string]string{}
	for {
		out, err := b.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		key := out.Transform
		if out.Timer != "" {
			key += "/" + out.Timer
		}
		got[key] += string(out.Data)
	}
}

// wantEnd reads a bundle that should end well with this output.
func wantEnd(t testing.TB, b *fnapi.Bundle, want map[string]string) {
	t.Helper()
	got, err := collect(deadline(t), b)
	if err != nil {
		t.Fatalf("Recv: %v", err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got output %v, want %v", got, want)
	}
	if b.Response() == nil {
		t.Error("no response after io.EOF")
	}
}

// wantFailure reads a bundle that should fail with an error of this class.
func wantFailure(t testing.TB, b *fnapi.Bundle, want fault.Class) error {
	t.Helper()
	_, err := collect(deadline(t), b)
	if err == nil || fault.ClassOf(err) != want || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Recv: got error %v of class %v, want class %v", err, fault.ClassOf(err), want)
	}
	return err
}

// echo sends every chunk of data to the sink and every timer to its family.
func echo(b *fnapitest.Bundle) error {
	for in, err := range b.Input() {
		if err != nil {
			return err
		}
		if in.Timer != "" {
			err = b.EmitTimers(in.Transform, in.Timer, in.Data)
		} else {
			err = b.Emit("sink", in.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
