package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/fnapi/h2"
	"github.com/lintelrun/lintel/internal/testkit"
)

// store keeps messages until they are taken, so many bytes at most.
type store struct {
	stream *h2.Stream
	limit  int64
	queued atomic.Int64
	most   atomic.Int64

	mu   sync.Mutex
	kept [][]byte

	ended chan struct{} // closed at the stream's end, unless nil
}

func (g *store) Open(_ string, _ h2.Header, s *h2.Stream) (h2.Receiver, error) {
	g.stream = s
	return g, nil
}

func (g *store) Receive(message []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kept = append(g.kept, g.stream.Keep(message))
	if n := g.queued.Add(int64(len(message))); n > g.most.Load() {
		g.most.Store(n)
	}
	return nil
}

func (g *store) Full() bool { return g.queued.Load() >= g.limit }

func (g *store) Closed() {
	if g.ended != nil {
		close(g.ended)
	}
}

func (g *store) take() []byte {
	g.mu.Lock()
	var m []byte
	if len(g.kept) > 0 {
		m, g.kept = g.kept[0], g.kept[1:]
	}
	g.mu.Unlock()
	if m != nil {
		if n := g.queued.Add(-int64(len(m))); n < g.limit && n+int64(len(m)) >= g.limit {
			g.stream.Resume()
		}
	}
	return m
}

// A peer is held up while its receiver is full; what was kept stays as it was, in order, and nothing is lost.
func TestGateHoldsUpThePeer(t *testing.T) {
	g := &store{limit: 100_000}
	stream := open(t, dial(t, serveHandler(t, h2.Config{StreamWindow: 100_000}, g)), method)
	const messages = 300
	text := func(i int) string { return fmt.Sprint(i, string(bytes.Repeat([]byte{byte('a' + i%26)}, i*i%50_000))) }
	var sent atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range messages {
			send(t, stream, text(i))
			sent.Add(1)
		}
	}()
	testkit.Eventually(t, 20*time.Second, "the receiver is full", g.Full)
	for before := int64(-1); before != sent.Load(); <-time.After(100 * time.Millisecond) {
		before = sent.Load()
	}
	if n := sent.Load(); n == messages {
		t.Errorf("all %d messages were taken from the peer of a full receiver", n)
	}
	for i := range messages {
		var m []byte
		testkit.Eventually(t, 20*time.Second, "the next message comes", func() bool { m = g.take(); return m != nil })
		if !bytes.HasSuffix(m, []byte(text(i))) { // behind the head of protobuf
			t.Fatalf("message %d is %.20q (%d bytes), want %.20q", i, m, len(m), text(i))
		}
	}
	<-ended
	if most := g.most.Load(); most > g.limit+60_000 {
		t.Errorf("%d bytes were handed on to a receiver that is full with %d", most, g.limit)
	}
}

// Messages are not taken for more than they are: a long one gets its memory as it comes.
func TestLongMessagesAreNotTrusted(t *testing.T) {
	_, at := serve(t, h2.Config{})
	for range 20 { // 40 GB
		r := dialRaw(t, at, http2.ClientPreface)
		r.settle(t)
		r.begin(t, 1)
		if err := r.WriteData(1, false, []byte{0, 0x7f, 0xff, 0xff, 0xf0, 1, 2, 3}); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dial(t, at, grpc.WithInitialWindowSize(1<<20)), method)
	send(t, s, "still works")
	want(t, s, "still works")
}

// What a peer began to send and did not end is nobody's message, and a stream that has ended hands on nothing.
func TestCutOffMessagesAreNotReceived(t *testing.T) {
	half := []byte{0, 0, 0, 0, 10, 'h', 'a', 'l', 'f'}
	whole := []byte{0, 0, 0, 0, 2, 'o', 'k'}
	for name, end := range map[string]func(r raw) error{
		"connection": func(r raw) error { return r.Close() },
		"stream":     func(r raw) error { return r.WriteRSTStream(1, http2.ErrCodeCancel) },
		"input":      func(r raw) error { return r.WriteData(1, true, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			g := &store{limit: 2, ended: make(chan struct{})}
			r := dialRaw(t, serveHandler(t, h2.Config{}, g), http2.ClientPreface)
			r.settle(t)
			r.begin(t, 1)
			// The first fills the receiver, so that the second waits while the stream ends.
			if err := r.WriteData(1, false, append(slices.Clone(whole), whole...)); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, 20*time.Second, "the receiver is full", g.Full) // a connection that is cut takes along what nobody has read
			if err := errors.Join(r.WriteData(1, false, half), end(r)); err != nil {
				t.Fatal(err)
			}
			taken := 0
			testkit.Eventually(t, 20*time.Second, "the stream has ended", func() bool {
				select {
				case <-g.ended:
					return true
				default:
				}
				if name == "input" && g.take() != nil { // it is to be taken to its end
					taken++
				}
				return false
			})
			for g.take() != nil {
				taken++
			}
			g.stream.Resume()
			if m := g.take(); m != nil {
				t.Errorf("received after the end: %q", m)
			}
			if taken > 2 || name == "input" && taken != 2 {
				t.Errorf("%d messages were received", taken)
			}
		})
	}
}

func TestPeerIsTheOtherEnd(t *testing.T) {
	g := &store{limit: 100}
	r := dialRaw(t, serveHandler(t, h2.Config{}, g), http2.ClientPreface)
	r.settle(t)
	r.begin(t, 1)
	if err := r.WriteData(1, false, []byte{0, 0, 0, 0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the stream is open", func() bool { return g.take() != nil })
	if got, want := g.stream.Peer().String(), r.LocalAddr().String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
