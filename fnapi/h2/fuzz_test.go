package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lintelrun/lintel/fnapi/h2"
)

// both serves echoes, and what is sent to another method it keeps.
type both struct{ echo }

func (b *both) Open(method string, header h2.Header, s *h2.Stream) (h2.Receiver, error) {
	if method == keepMethod {
		return &keeper{both: b, stream: s}, nil
	}
	return b.echo.Open(method, header, s)
}

const keepMethod = "/test.Keeper/Keep"

var seed = maphash.MakeSeed()

// keeper keeps parts of what it receives, takes a rest after each message, and finds at the end that they are as they
// were. It panics where they are not, as the fuzzer then knows the input.
type keeper struct {
	*both
	stream *h2.Stream

	mu    sync.Mutex
	rests bool
	kept  [][]byte
	sums  []uint64
}

func (k *keeper) Receive(message []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rests {
		panic("received while the gate is shut")
	}
	part := message[len(message)/3:]
	k.kept, k.sums = append(k.kept, k.stream.Keep(part)), append(k.sums, maphash.Bytes(seed, part))
	k.rests = true
	k.stream.Send(message)
	k.running.Go(func() {
		k.mu.Lock()
		k.rests = false
		k.mu.Unlock()
		k.stream.Resume()
	})
	return nil
}

func (k *keeper) Full() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rests
}

func (k *keeper) Closed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, part := range k.kept {
		if maphash.Bytes(seed, part) != k.sums[i] {
			panic(fmt.Sprintf("what was kept of message %d has changed", i))
		}
	}
}

// conversation is a connection's input: a call of a method with such data, and its end.
func conversation(f *testing.F, method string, messages ...[]byte) []byte {
	var b, headers bytes.Buffer
	b.WriteString(http2.ClientPreface)
	framer, e := http2.NewFramer(&b, nil), hpack.NewEncoder(&headers)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", method}, {"content-type", "application/grpc"}} {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			f.Fatal(err)
		}
	}
	err := errors.Join(framer.WriteSettings(), framer.WriteSettingsAck(),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers.Bytes(), EndHeaders: true}))
	for _, m := range messages {
		err = errors.Join(err, framer.WriteData(1, false, m))
	}
	if err := errors.Join(err, framer.WriteDataPadded(1, true, []byte("\x00\x00\x00\x00\x04stop"), []byte{0, 0}),
		framer.WriteWindowUpdate(1, 5), framer.WritePing(false, [8]byte{}), framer.WriteRSTStream(1, 0), framer.WriteGoAway(1, 0, nil)); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// Whatever comes, nothing panics, and the connection comes to an end with its peer.
func FuzzConnection(f *testing.F) {
	f.Add([]byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Add(conversation(f, method, []byte("\x00\x00\x00\x00\x05hello\x00\x00\x00\x00\x05later\x00\x00")))
	long := append([]byte{0, 0, 0, 0x50, 0}, bytes.Repeat([]byte("long "), 0x5000/5)...)
	f.Add(conversation(f, keepMethod, []byte("\x00\x00\x00\x00\x05hello\x00\x00\x00\x00\x05again\x00\x00"), []byte("\x00\x00\x01x"), long[:10_000], long[10_000:]))
	b := &both{}
	f.Cleanup(b.running.Wait)
	at := filepath.Join(f.TempDir(), "socket") // there are only so many ports
	l, err := net.Listen("unix", at)
	if err != nil {
		f.Fatal(err)
	}
	serveOn(f, l, h2.Config{PingDelay: time.Millisecond}, b)
	f.Fuzz(func(t *testing.T, sent []byte) {
		nc, err := net.Dial("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write(sent) // the server may have had enough
		_ = nc.(*net.UnixConn).CloseWrite()
		var e net.Error
		if _, err := io.Copy(io.Discard, nc); errors.As(err, &e) && e.Timeout() {
			t.Error("the connection does not end")
		}
	})
}
