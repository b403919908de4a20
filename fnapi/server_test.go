package fnapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
)

func TestUnknownWorkersAreRefused(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	conn, err := fnapitest.Dial(s.BundleEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other, err := fnapitest.Dial(s.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, c := range map[string]struct {
		ctx  context.Context
		want codes.Code
	}{
		"no worker id":      {deadline(t), codes.InvalidArgument},
		"unknown worker id": {fnapitest.WithWorkerID(deadline(t), "stranger"), codes.PermissionDenied},
	} {
		control, err := fnpb.NewBeamFnControlClient(conn).Control(c.ctx)
		if err == nil {
			_, err = control.Recv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: control stream got %v, want %v", name, err, c.want)
		}
		if _, err := fnpb.NewProvisionServiceClient(other).GetProvisionInfo(c.ctx, &fnpb.GetProvisionInfoRequest{}); status.Code(err) != c.want {
			t.Errorf("%s: provision got %v, want %v", name, err, c.want)
		}
	}
}

func TestWorkerIDsAreUniqueAndForgotten(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	h, err := s.Expect("w", fnapi.Worker{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Expect("w", fnapi.Worker{}); err == nil {
		t.Error("a worker id was given twice")
	}
	h.Close()
	h.Close()
	if err := h.Ready(deadline(t)); fault.ClassOf(err) != fault.Retryable {
		t.Errorf("Ready of a closed harness: %v", err)
	}
	if _, err := s.Expect("w", fnapi.Worker{}); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

func TestProvision(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	given := &fnpb.ProvisionInfo{RetrievalToken: "token", ArtifactEndpoint: &pipepb.ApiServiceDescriptor{Url: "elsewhere:1"}}
	_, sdk := newHarness(t, s, fnapi.Worker{Provision: given, RunnerCapabilities: []string{"extra"}}, fnapitest.Script{})
	info, err := sdk.Provision()
	if err != nil {
		t.Fatal(err)
	}
	if info.GetRetrievalToken() != "token" || info.GetArtifactEndpoint().GetUrl() != "elsewhere:1" ||
		info.GetControlEndpoint().GetUrl() != s.BundleEndpoint() || info.GetLoggingEndpoint().GetUrl() != s.Endpoint() {
		t.Errorf("got %v", info)
	}
	for _, want := range []string{"beam:protocol:monitoring_info_short_ids:v1", "beam:protocol:control_response_elements_embedding:v1", "extra"} {
		if !slices.Contains(info.GetRunnerCapabilities(), want) {
			t.Errorf("runner capabilities lack %s", want)
		}
	}
	if given.GetControlEndpoint() != nil {
		t.Error("the caller's message was changed")
	}
}

func TestDescriptors(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	_, sdk := newHarness(t, s, fnapi.Worker{}, fnapitest.Script{})
	if d, err := sdk.Descriptor("plain"); err != nil || d.GetId() != "plain" {
		t.Errorf("got %v, %v", d, err)
	}
	if _, err := sdk.Descriptor("none"); status.Code(err) != codes.NotFound {
		t.Errorf("unknown descriptor: %v", err)
	}
	conn, err := fnapitest.Dial(s.BundleEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d, err := fnpb.NewBeamFnControlClient(conn).GetProcessBundleDescriptor(deadline(t), &fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: "timers"})
	if err != nil || d.GetId() != "timers" {
		t.Errorf("without worker id: got %v, %v", d, err)
	}
}

func TestMetricsResolveShortIDsOnce(t *testing.T) {
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Infos: map[string]*pipepb.MonitoringInfo{
			"a": {Urn: "urn:a", Type: "sum", Labels: map[string]string{"NAME": "x"}},
			"b": {Urn: "urn:b"},
		},
		Process: func(b *fnapitest.Bundle) error {
			if err := b.Drain(); err != nil {
				return err
			}
			b.Terminate()
			return b.Respond(&fnpb.ProcessBundleResponse{
				MonitoringData: map[string][]byte{"a": []byte(b.ID), "b": {2}},
			})
		},
	})
	for range 3 {
		b := newBundle(t, h, plain)
		feed(t, b)
		wantEnd(t, b, nil)
		infos, err := b.Metrics(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(infos, func(a, b fnapi.Metric) int { return strings.Compare(a.Info.GetUrn(), b.Info.GetUrn()) })
		if len(infos) != 2 || infos[0].Info.GetUrn() != "urn:a" || string(infos[0].Payload) != b.ID() || infos[0].Info.GetLabels()["NAME"] != "x" {
			t.Errorf("got %v", infos)
		}
	}
	asked := 0
	for _, req := range sdk.Asked() {
		if req.GetMonitoringInfos() != nil {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the harness was asked %d times for its short ids, want once", asked)
	}
}

// TypeScript sends both forms and can't explain its short ids.
func TestMetricsInFullNeedNoShortIDs(t *testing.T) {
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			if err := b.Drain(); err != nil {
				return err
			}
			b.Terminate()
			return b.Respond(&fnpb.ProcessBundleResponse{
				MonitoringData:  map[string][]byte{"m0": {7}},
				MonitoringInfos: []*pipepb.MonitoringInfo{{Urn: "urn:a", Payload: []byte{7}}},
			})
		},
	})
	b := newBundle(t, h, plain)
	feed(t, b)
	wantEnd(t, b, nil)
	infos, err := b.Metrics(deadline(t))
	if err != nil || len(infos) != 1 || infos[0].Info.GetUrn() != "urn:a" || string(infos[0].Payload) != "\a" {
		t.Errorf("got %v, %v", infos, err)
	}
	for _, req := range sdk.Asked() {
		if req.GetMonitoringInfos() != nil {
			t.Errorf("the harness was asked for its short ids: %v", req)
		}
	}
}

func TestProgressSplitFinalize(t *testing.T) {
	finalized := make(chan string, 1)
	reading := make(chan struct{})
	consuming := false
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error { close(reading); return b.Drain() },
		Progress: func(*fnapitest.Bundle) *fnpb.ProcessBundleProgressResponse {
			return &fnpb.ProcessBundleProgressResponse{
				ConsumingReceivedData: &consuming,
				MonitoringInfos:       []*pipepb.MonitoringInfo{{Urn: "beam:metric:data_channel:read_index:v1"}},
			}
		},
		Split: func(_ *fnapitest.Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			want := req.GetDesiredSplits()["source"]
			return &fnpb.ProcessBundleSplitResponse{ChannelSplits: []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{
				TransformId: "source", LastPrimaryElement: want.GetEstimatedInputElements(), FirstResidualElement: want.GetAllowedSplitPoints()[0],
			}}}
		},
		Finalize: func(bundle string) error { finalized <- bundle; return errors.New("expired") },
	})
	b := newBundle(t, h, plain)
	<-reading
	p, err := b.Progress(deadline(t))
	if err != nil || p == nil || p.Consuming || len(p.Metrics) != 1 {
		t.Errorf("Progress: %v, %v", p, err)
	}
	split, err := b.Split(deadline(t), 0.5, 10, []int64{7})
	if err != nil || len(split.GetChannelSplits()) != 1 || split.GetChannelSplits()[0].GetLastPrimaryElement() != 10 || split.GetChannelSplits()[0].GetFirstResidualElement() != 7 {
		t.Errorf("Split: %v, %v", split, err)
	}
	// Responses nobody waits for do no harm.
	sdk.Respond(&fnpb.InstructionResponse{InstructionId: "i12345", Error: "stale"})
	feed(t, b)
	wantEnd(t, b, nil)
	if p, err := b.Progress(deadline(t)); p != nil || err != nil {
		t.Errorf("Progress of an ended bundle: %v, %v", p, err)
	}
	if split, err := b.Split(deadline(t), 0, 10, nil); err != nil || len(split.GetChannelSplits()) != 0 {
		t.Errorf("Split of an ended bundle: %v, %v", split, err)
	}
	if err := b.Finalize(deadline(t)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("Finalize: %v", err)
	}
	if got := <-finalized; got != b.ID() {
		t.Errorf("finalized %s, want %s", got, b.ID())
	}
}

// After a split an SDK may leave input unread and respond early.
func TestResponseBeforeTheEndOfInputAfterASplit(t *testing.T) {
	split := make(chan struct{})
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(*fnapitest.Bundle) error { <-split; return nil },
		Split: func(*fnapitest.Bundle, *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			close(split)
			return &fnpb.ProcessBundleSplitResponse{}
		},
	})
	b := newBundle(t, h, plain)
	if _, err := b.Split(deadline(t), 0, 1, nil); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, b, nil)
	if err := errors.Join(b.Send([]byte("unwanted")), b.CloseSend()); err != nil {
		t.Errorf("sending after the end: %v", err)
	}
}

// The server reads all that a harness logs however slow Log is, and accounts
// for what it had to drop.
// Java reports a failure if its logging stream ends before it has closed it.
func TestLoggingStreamIsTheHarnessesToEnd(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	heard := make(chan struct{}, 1)
	h, _ := newHarness(t, s, fnapi.Worker{Log: func(*fnpb.LogEntry) { heard <- struct{}{} }}, fnapitest.Script{})
	conn, err := fnapitest.Dial(s.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	logs, err := fnpb.NewBeamFnLoggingClient(conn).Logging(fnapitest.WithWorkerID(deadline(t), h.ID()))
	if err != nil {
		t.Fatal(err)
	}
	entry := &fnpb.LogEntry_List{LogEntries: []*fnpb.LogEntry{{Message: "text"}}}
	if err := logs.Send(entry); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := logs.Recv()
		ended <- err
	}()
	<-heard
	h.Close()
	for range 100 { // round trips, so that an end of the stream would have come
		fnpb.NewProvisionServiceClient(conn).GetProvisionInfo(deadline(t), &fnpb.GetProvisionInfoRequest{})
	}
	select {
	case err := <-ended:
		t.Fatalf("the server ended the stream: %v", err)
	default:
	}
	if err := errors.Join(logs.Send(entry), logs.CloseSend()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestLogging(t *testing.T) {
	var messages []string
	dropped := 0
	block := make(chan struct{})
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{Log: func(e *fnpb.LogEntry) {
		<-block
		n := 0
		if _, err := fmt.Sscanf(e.GetMessage(), "%d log entries of harness worker", &n); err == nil {
			dropped += n
			return
		}
		messages = append(messages, e.GetMessage())
	}}, fnapitest.Script{})
	const total = 4000
	for i := range 4 {
		var entries []*fnpb.LogEntry
		for j := range total / 4 {
			entries = append(entries, &fnpb.LogEntry{Message: fmt.Sprint("entry ", i*total/4+j)})
		}
		if err := sdk.Log(entries...); err != nil {
			t.Fatal(err)
		}
	}
	close(block)
	h.Close()
	if len(messages)+dropped != total || dropped == 0 || dropped == total {
		t.Fatalf("%d entries were delivered and %d reported as dropped, of %d", len(messages), dropped, total)
	}
	for i, m := range messages {
		if m != fmt.Sprint("entry ", i) {
			t.Fatalf("message %d is %q", i, m)
		}
	}
}

func TestMalformedMessagesLoseTheHarness(t *testing.T) {
	for name, method := range map[string]string{
		"control":             "BeamFnControl/Control",
		"data":                "BeamFnData/Data",
		"state":               "BeamFnState/State",
		"state where data is": "BeamFnState/State",
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, fnapi.Config{})
			h, err := s.Expect("worker", fnapi.Worker{})
			if err != nil {
				t.Fatal(err)
			}
			addDescriptors(t, s, h)
			b := newBundle(t, h, plain)
			endpoint := s.BundleEndpoint()
			if name == "state" {
				endpoint = s.StateEndpoint()
			}
			conn, err := fnapitest.Dial(endpoint)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			stream, err := conn.NewStream(fnapitest.WithWorkerID(deadline(t), "worker"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
				"/org.apache.beam.model.fn_execution.v1."+method)
			if err != nil {
				t.Fatal(err)
			}
			// Field 1 as a truncated string; a wrapper message is as good as any other.
			if err := stream.SendMsg(wrapperspb.UInt64(1 << 60)); err != nil {
				t.Fatal(err)
			}
			garbage := &emptypb.Empty{}
			garbage.ProtoReflect().SetUnknown([]byte{0x0a, 0x7f, 0x01})
			stream.SendMsg(garbage)
			wantFailure(t, b, fault.Retryable)
			if got := fault.ClassOf(h.Err()); got != fault.Invalid {
				t.Errorf("harness lost with class %v (%v), want invalid", got, h.Err())
			}
			for err == nil {
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("the harness is told %v", err)
			}
		})
	}
}

func TestSecondControlStreamIsRefused(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	h, _ := newHarness(t, s, fnapi.Worker{}, fnapitest.Script{Process: echo})
	conn, err := fnapitest.Dial(s.BundleEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control, err := fnpb.NewBeamFnControlClient(conn).Control(fnapitest.WithWorkerID(deadline(t), "worker"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Recv(); status.Code(err) != codes.AlreadyExists {
		t.Errorf("got %v", err)
	}
	b := newBundle(t, h, plain)
	feed(t, b, "still works")
	wantEnd(t, b, map[string]string{"sink": "still works"})
}

func TestConfigIsValidated(t *testing.T) {
	if _, err := fnapi.NewServer(fnapi.Config{QueueBytes: -1}); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestStopWithoutServe(t *testing.T) {
	s, err := fnapi.NewServer(fnapi.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := s.Expect("w", fnapi.Worker{}); err == nil {
		t.Error("a stopped server expects harnesses")
	}
}

func TestPeerIsTheHarnessesEndOfItsControlConnection(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		t.Fatal(err)
	}
	if at := h.Peer(); at != nil {
		t.Errorf("before it has connected: %v", at)
	}
	dialed := make(chan net.Conn, 1)
	conn, err := grpc.NewClient(s.BundleEndpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", at)
			if err == nil {
				dialed <- c
			}
			return c, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fnpb.NewBeamFnControlClient(conn).Control(fnapitest.WithWorkerID(deadline(t), "worker")); err != nil {
		t.Fatal(err)
	}
	if err := h.Ready(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if got, want := h.Peer(), (<-dialed).LocalAddr(); got == nil || got.String() != want.String() {
		t.Errorf("got %v, want %v", got, want)
	}
}
