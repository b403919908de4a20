package h2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lintelrun/lintel/fnapi/h2"
	"github.com/lintelrun/lintel/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo sends each message back: "later" from another goroutine, "stop" ends the stream.
type echo struct {
	running sync.WaitGroup
	closed  atomic.Int64
}

type echoStream struct {
	*echo
	s *h2.Stream
}

func (e *echo) Open(method string, header h2.Header, s *h2.Stream) (h2.Receiver, error) {
	if method != "/test.Echo/Echo" {
		return nil, status.Errorf(codes.Unimplemented, "no method %s: 100%% sure, ähem", method)
	}
	if header.Get("refuse") != "" {
		return nil, errors.New("refused")
	}
	return &echoStream{e, s}, nil
}

func (e *echoStream) Receive(message []byte) error {
	switch {
	case bytes.HasSuffix(message, []byte("stop")):
		return status.Error(codes.Aborted, "stopped")
	case bytes.HasSuffix(message, []byte("later")):
		m := bytes.Clone(message)
		e.running.Go(func() { e.s.Send(m) })
	default:
		e.s.Queue(message[:len(message)/2], message[len(message)/2:])
	}
	return nil
}

func (e *echoStream) Closed() { e.closed.Add(1) }

func serve(t testing.TB, cfg h2.Config) (*echo, string) {
	t.Helper()
	e := &echo{}
	t.Cleanup(e.running.Wait) // after the server's end
	return e, serveHandler(t, cfg, e)
}

func serveHandler(t testing.TB, cfg h2.Config, h h2.Handler) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, cfg, h)
	return l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, cfg h2.Config, h h2.Handler) {
	t.Helper()
	s := h2.NewServer(cfg, h)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func dial(t testing.TB, at string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(at, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t testing.TB, conn *grpc.ClientConn, method string, pairs ...string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), time.Minute)
	t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const method = "/test.Echo/Echo"

func send(t testing.TB, s grpc.ClientStream, text string) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.Bytes([]byte(text))); err != nil {
		t.Error(err)
	}
}

func want(t testing.TB, s grpc.ClientStream, text string) {
	t.Helper()
	got := new(wrapperspb.BytesValue)
	if err := s.RecvMsg(got); err != nil || string(got.Value) != text {
		t.Errorf("got %.40q (%d bytes), %v; want %.40q (%d bytes)", got.Value, len(got.Value), err, text, len(text))
	}
}

func TestMessagesOfAllSizes(t *testing.T) {
	_, at := serve(t, h2.Config{})
	s := open(t, dial(t, at), method)
	for _, size := range []int{0, 1, 100, 16<<10 - 10, 16 << 10, 16<<10 + 1, 70_000, 1 << 20, 9 << 20} {
		text := string(bytes.Repeat([]byte("x"), size))
		send(t, s, text)
		want(t, s, text)
		send(t, s, text+"later")
		want(t, s, text+"later")
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// Peers with small and with large windows, and streams side by side: none waits for ever, in any order.
func TestManyMessagesOnManyStreams(t *testing.T) {
	for _, window := range []int32{64 << 10, 1 << 20} {
		e, at := serve(t, h2.Config{StreamWindow: 100_000})
		conn := dial(t, at, grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))
		var all sync.WaitGroup
		const streams, messages = 8, 60
		for i := range streams {
			s := open(t, conn, method)
			text := func(j int) string {
				return fmt.Sprint("stream ", i, " message ", j, string(bytes.Repeat([]byte("."), (i*j*j)%90_000)))
			}
			all.Go(func() {
				for j := range messages {
					send(t, s, text(j))
				}
				send(t, s, "stop")
			})
			all.Go(func() {
				for j := range messages {
					want(t, s, text(j))
				}
				if err := s.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.Aborted || status.Convert(err).Message() != "stopped" {
					t.Errorf("at the end: %v", err)
				}
			})
		}
		all.Wait()
		// The peer may hear of it before.
		testkit.Eventually(t, 20*time.Second, "all streams are closed", func() bool { return e.closed.Load() == streams })
	}
}

// A peer that sends without reading is held up, and loses nothing once it reads.
func TestPeerThatDoesNotRead(t *testing.T) {
	_, at := serve(t, h2.Config{})
	s := open(t, dial(t, at, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)), method)
	const messages = 400
	text := func(i int) string { return fmt.Sprint(i, string(bytes.Repeat([]byte("x"), 100_000))) }
	var sent atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range messages {
			send(t, s, text(i))
			sent.Add(1)
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	}()
	for before := int64(-1); before != sent.Load(); <-time.After(200 * time.Millisecond) {
		before = sent.Load()
	}
	if n := sent.Load(); n == messages {
		t.Errorf("all %d messages were taken from a peer that reads nothing", n)
	}
	for i := range messages {
		want(t, s, text(i))
	}
	<-ended
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	_, at := serve(t, h2.Config{})
	conn := dial(t, at)
	for _, c := range []struct {
		method string
		header []string
		code   codes.Code
		text   string
	}{
		{"/test.Echo/Other", nil, codes.Unimplemented, "no method /test.Echo/Other: 100% sure, ähem"},
		{method, []string{"refuse", "yes"}, codes.Unknown, "refused"},
	} {
		err := open(t, conn, c.method, c.header...).RecvMsg(new(wrapperspb.BytesValue))
		if st := status.Convert(err); st.Code() != c.code || c.text != "" && st.Message() != c.text {
			t.Errorf("%s %.20v: got %v", c.method, c.header, err)
		}
	}
	s := open(t, conn, method)
	send(t, s, "still works")
	want(t, s, "still works")
}

func TestCancelledStreamsAreClosed(t *testing.T) {
	e, at := serve(t, h2.Config{})
	conn := dial(t, at)
	for i := range 300 { // more than there may be at a time
		ctx, cancel := context.WithCancel(t.Context())
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		send(t, s, "x")
		want(t, s, "x")
		cancel()
		if i == 0 {
			for e.closed.Load() == 0 {
				<-time.After(time.Millisecond)
			}
		}
	}
}

// raw is a peer of bare frames.
type raw struct {
	net.Conn
	*http2.Framer
}

func dialRaw(t *testing.T, at, preface string) raw {
	t.Helper()
	nc, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, preface); err != nil {
		t.Fatal(err)
	}
	return raw{nc, http2.NewFramer(nc, nc)}
}

// until reads frames until one of a kind, or the end.
func (r raw) until(kind http2.FrameType) (http2.Frame, error) {
	for {
		f, err := r.ReadFrame()
		if err != nil || f.Header().Type == kind {
			return f, err
		}
	}
}

func (r raw) begin(t *testing.T, stream uint32) {
	t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method},
		{Name: "content-type", Value: "application/grpc"}} {
		if err := e.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	_, at := serve(t, h2.Config{PingDelay: time.Millisecond})
	r := dialRaw(t, at, http2.ClientPreface)
	if err := errors.Join(r.WriteSettings(), r.WritePing(false, [8]byte{1, 2, 3})); err != nil {
		t.Fatal(err)
	}
	f, err := r.until(http2.FramePing)
	if p, ok := f.(*http2.PingFrame); !ok || !p.IsAck() || p.Data != [8]byte{1, 2, 3} {
		t.Errorf("got %v, %v", f, err)
	}
}

func TestSilentPeersAreLost(t *testing.T) {
	_, at := serve(t, h2.Config{Keepalive: 20 * time.Millisecond, Handshake: 50 * time.Millisecond})
	for name, preface := range map[string]string{"without a word": "", "in the preface": http2.ClientPreface[:5], "without settings": http2.ClientPreface} {
		if _, err := dialRaw(t, at, preface).until(http2.FrameGoAway); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := dialRaw(t, at, http2.ClientPreface)
	if err := r.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.until(http2.FramePing); err != nil {
		t.Errorf("no ping: %v", err)
	}
	if _, err := r.until(http2.FrameGoAway); err == nil {
		t.Error("it is not lost")
	}
}

// Who sends to a peer that takes nothing from its socket waits until that is taken for lost.
func TestPeersThatReadNothingAreLost(t *testing.T) {
	g := &store{limit: 1, ended: make(chan struct{})}
	r := dialRaw(t, serveHandler(t, h2.Config{Keepalive: 100 * time.Millisecond}, g), http2.ClientPreface)
	if err := errors.Join(r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32}), r.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	r.begin(t, 1)
	if err := r.WriteData(1, false, []byte{0, 0, 0, 0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the stream is open", func() bool { return g.take() != nil })
	g.stream.Batch([][]byte{make([]byte, 256<<20)}) // more than sockets hold
	select {
	case <-g.ended:
	case <-time.After(20 * time.Second):
		t.Error("the stream goes on")
	}
}

func TestViolationsEndTheConnection(t *testing.T) {
	_, at := serve(t, h2.Config{StreamWindow: 1 << 16})
	for name, c := range map[string]struct {
		do   func(r raw) error
		code http2.ErrCode
	}{
		"no settings":        {func(r raw) error { return r.WritePing(false, [8]byte{}) }, http2.ErrCodeProtocol},
		"even stream":        {func(r raw) error { r.settle(t); r.begin(t, 2); return nil }, http2.ErrCodeProtocol},
		"data of no stream":  {func(r raw) error { r.settle(t); return r.WriteData(7, false, nil) }, http2.ErrCodeProtocol},
		"reset of no stream": {func(r raw) error { r.settle(t); return r.WriteRSTStream(7, 0) }, http2.ErrCodeProtocol},
		"push": {func(r raw) error {
			r.settle(t)
			return r.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, http2.ErrCodeProtocol},
		"large frame": {func(r raw) error {
			r.settle(t)
			_, err := r.Write([]byte{0, 0x40, 1, 0, 0, 0, 0, 0, 1}) // its header
			return err
		}, http2.ErrCodeFrameSize},
		"large window": {func(r raw) error { r.settle(t); return r.WriteWindowUpdate(0, math.MaxInt32) }, http2.ErrCodeFlowControl},
		"many pings": {func(r raw) (err error) {
			r.settle(t)
			for range 17 { // what comes after the end might reset the connection
				err = errors.Join(err, r.WritePing(false, [8]byte{}))
			}
			return err
		}, http2.ErrCodeEnhanceYourCalm},
		"initial window": {func(r raw) error {
			r.settle(t)
			return r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxUint32})
		}, http2.ErrCodeFlowControl},
	} {
		r := dialRaw(t, at, http2.ClientPreface)
		if err := c.do(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f, err := r.until(http2.FrameGoAway)
		if g, ok := f.(*http2.GoAwayFrame); !ok || g.ErrCode != c.code {
			t.Errorf("%s: got %v, %v, want %v", name, f, err, c.code)
		}
		if _, err := r.until(http2.FrameGoAway); err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
	}
}

// gRPC's Go client makes its windows larger by its settings alone.
func TestSettingsOpenTheWindow(t *testing.T) {
	_, at := serve(t, h2.Config{})
	r := dialRaw(t, at, http2.ClientPreface)
	message := append([]byte{0, 0, 0, 0, 20}, "twenty bytes of text"...)
	if err := r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}); err != nil {
		t.Fatal(err)
	}
	r.begin(t, 1)
	if err := r.WriteData(1, false, message); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for len(got) < len(message) {
		f, err := r.until(http2.FrameData)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, f.(*http2.DataFrame).Data()...)
		if len(got) == 10 {
			if err := r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(got, message) {
		t.Errorf("got %q", got)
	}
}

func (r raw) settle(t *testing.T) {
	t.Helper()
	if err := r.WriteSettings(); err != nil {
		t.Fatal(err)
	}
}

func TestStopEndsEverything(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{}
	s := h2.NewServer(h2.Config{}, e)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	stream := open(t, dial(t, l.Addr().String()), method)
	send(t, stream, "x")
	want(t, stream, "x")
	s.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err == nil {
		t.Error("the stream goes on")
	}
	if n := e.closed.Load(); n != 1 {
		t.Errorf("%d streams closed", n)
	}
}
