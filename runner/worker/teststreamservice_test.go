package worker

import (
	"net"
	"slices"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// serveEvents runs a TestStreamService (beam_interactive_api.proto) whose Events streams the
// events, then ends with err. It notes the output ids that were asked for.
func serveEvents(t *testing.T, err error, events ...*pipepb.TestStreamPayload_Event) (url string, asked *[]string) {
	listener, listenErr := net.Listen("tcp", "127.0.0.1:0")
	if listenErr != nil {
		t.Fatal(listenErr)
	}
	asked = new([]string)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); method != "/org.apache.beam.model.interactive.v1.TestStreamService/Events" {
			t.Errorf("%s was called", method)
		}
		request := &emptypb.Empty{}
		if err := stream.RecvMsg(request); err != nil {
			return err
		}
		for rest := request.ProtoReflect().GetUnknown(); len(rest) > 0; {
			_, _, n := protowire.ConsumeTag(rest)
			id, m := protowire.ConsumeString(rest[n:])
			*asked = append(*asked, id)
			rest = rest[n+m:]
		}
		for _, e := range events {
			if err := stream.SendMsg(e); err != nil {
				return err
			}
		}
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String(), asked
}

// served is a pipeline with a TestStream whose events come from an endpoint, two outputs'.
func served(url string, outputs map[string]string) (*portabletest.Pipeline, map[string]doFn) {
	p := portabletest.New()
	payload := &pipepb.TestStreamPayload{CoderId: pKV, Endpoint: &pipepb.ApiServiceDescriptor{Url: url}}
	p.Transform("test", "beam:transform:teststream:v1", "", payload, pKV)
	p.Get("test").Outputs = outputs
	fns := map[string]doFn{}
	for local, out := range outputs {
		p.PCollection(out, pKV)
		p.ParDo("sink "+local, pEnv, pBytes, p.Reshuffle("spread "+local, pKV, p.ParDo("through "+local, pEnv, pKV, out)))
		fns["test/Encode/"+local] = unprefix
		fns["through "+local] = func(c *call) error {
			c.emit(c.element)
			return nil
		}
		fns["sink "+local] = collector
	}
	return p, fns
}

func TestTestStreamService(t *testing.T) {
	events := []*pipepb.TestStreamPayload_Event{elements("", "k=1@10"), elements("b", "k=2@20"), pass(time.Hour), watermark("b", 30), elements("None", "k=3@40")}
	url, asked := serveEvents(t, nil, events...)
	p, fns := served(url, map[string]string{"None": "main", "b": "other"})
	c := compile(t, p, fns)
	r := newRig(t, c.script)
	r.mustRun(c.plan)
	if diff := cmp.Diff([]string{"None", "b"}, *asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	want := map[string][]string{
		"sink None": {string(kvOf("k", "1")), string(kvOf("k", "3"))},
		"sink b":    {string(kvOf("k", "2"))},
	}
	for sink, elements := range want {
		got := c.got(sink)
		slices.Sort(got)
		if diff := cmp.Diff(elements, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sink, diff)
		}
	}
}

func TestTestStreamServiceFails(t *testing.T) {
	url, _ := serveEvents(t, fault.New(fault.Internal, "tape torn"), elements("", "k=1@10"))
	for where, text := range map[string]string{url: "tape torn", "127.0.0.1:1": "TestStreamService at 127.0.0.1:1"} {
		p, fns := served(where, map[string]string{"None": "main"})
		c := compile(t, p, fns)
		_, err := newRig(t, c.script).run(c.plan)
		wantError(t, err, fault.ClassOf(err), text)
	}
}
