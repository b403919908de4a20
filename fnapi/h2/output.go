package h2

import (
	"encoding/binary"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/status"
)

const (
	frameHeader = 9
	// muchOut is how many bytes may wait to be written before nothing more is read, and the
	// capacity up to which their buffer is kept.
	muchOut = 256 << 10
)

// output is the sending side of a connection, under its mu.
type output struct {
	window       int64 // of the connection
	streamWindow int64 // of new streams
	maxFrame     int

	out, spare []byte
	writing    bool       // a goroutine is writing; it takes along what others add to out
	drained    *sync.Cond // writing has become false, or out shorter
	fields     strings.Builder
	encoder    *hpack.Encoder
}

// flush writes what is to be written, unless another goroutine is at it, which will. Under mu,
// which it lets go of while it writes.
func (c *conn) flush() {
	if c.writing {
		return
	}
	c.writing = true
	for len(c.out) > 0 && c.err == nil {
		b := c.out
		c.out, c.spare = c.spare, nil
		c.mu.Unlock()
		_, err := c.net.Write(b)
		c.mu.Lock()
		if cap(b) <= muchOut {
			c.spare = b[:0]
		}
		if err != nil {
			c.fail(err)
		}
		c.drained.Broadcast()
	}
	c.writing = false
	c.drained.Broadcast()
}

// send appends a message of a stream to what is to be written, or to what waits for flow control.
func (c *conn) send(s *Stream, parts [][]byte) {
	if s.ended || c.err != nil {
		return
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	var head [prefix]byte
	binary.BigEndian.PutUint32(head[1:], uint32(size))
	to := &s.queue
	if n := prefix + size; len(s.queue) == 0 && n <= c.maxFrame && int64(n) <= min(s.window, c.window) {
		c.out = appendFrame(c.out, http2.FrameData, 0, s.id, n)
		c.window -= int64(n)
		s.window -= int64(n)
		to = &c.out
	}
	*to = append(*to, head[:]...)
	for _, p := range parts {
		*to = append(*to, p...)
	}
	c.pump(s)
}

// pump moves what flow control permits of a stream's queue to what is to be written.
func (c *conn) pump(s *Stream) {
	for len(s.queue) > 0 {
		n := min(int64(len(s.queue)), int64(c.maxFrame), s.window, c.window)
		if n <= 0 {
			return
		}
		c.out = append(appendFrame(c.out, http2.FrameData, 0, s.id, int(n)), s.queue[:n]...)
		c.window -= n
		s.window -= n
		s.queue = s.queue[n:]
	}
	s.queue = nil
	if s.trailers != nil {
		c.out = append(c.out, s.trailers...)
		s.trailers = nil
		delete(c.streams, s.id)
	}
}

// pumpAll pumps all streams, and returns those that were parked and may go on.
func (c *conn) pumpAll() (resume []*Stream) {
	for _, s := range c.streams {
		if c.pump(s); s.parked && !s.ended && len(s.queue) <= muchQueued/2 {
			resume = append(resume, s)
		}
	}
	return resume
}

// resize changes the windows of all streams to come, and of those that are by as much.
func (c *conn) resize(window int64) error {
	by := window - c.streamWindow
	c.streamWindow = window
	for _, s := range c.streams {
		if s.window += by; s.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	}
	return nil
}

// goAway tells the peer why the connection ends.
func (c *conn) goAway(code http2.ErrCode) {
	c.out = appendFrame(c.out, http2.FrameGoAway, 0, 0, 8)
	c.out = binary.BigEndian.AppendUint32(c.out, c.last)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
}

// appendTrailers appends the end of a stream, which is all there is of one that was refused.
func (c *conn) appendTrailers(b []byte, s *Stream, st *status.Status) []byte {
	code := [2]string{"grpc-status", strconv.Itoa(int(st.Code()))}
	message := [2]string{"grpc-message", percentEncoded(st.Message())}
	if s.receiver == nil {
		b = c.appendHeaders(b, s.id, true, [2]string{":status", "200"}, [2]string{"content-type", "application/grpc"}, code, message)
	} else {
		b = c.appendHeaders(b, s.id, true, code, message)
	}
	if !s.half {
		b = appendReset(b, s.id, http2.ErrCodeNo)
	}
	return b
}

// appendHeaders appends a HEADERS frame. Nothing of it goes into the table of the encoding.
func (c *conn) appendHeaders(b []byte, stream uint32, last bool, fields ...[2]string) []byte {
	c.fields.Reset()
	if c.encoder == nil {
		c.encoder = hpack.NewEncoder(&c.fields)
	}
	for _, f := range fields {
		// The builder does not fail.
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	flags := http2.FlagHeadersEndHeaders
	if last {
		flags |= http2.FlagHeadersEndStream
	}
	return append(appendFrame(b, http2.FrameHeaders, flags, stream, c.fields.Len()), c.fields.String()...)
}

// maxStatus bounds the text of a status, so that headers fit a frame.
const maxStatus = 4 << 10

// percentEncoded is the encoding of grpc-message.
func percentEncoded(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < maxStatus; i++ {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// appendFrame appends the header of a frame with size bytes.
func appendFrame(b []byte, kind http2.FrameType, flags http2.Flags, stream uint32, size int) []byte {
	b = append(b, byte(size>>16), byte(size>>8), byte(size), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendSettings(b []byte, settings ...http2.Setting) []byte {
	b = appendFrame(b, http2.FrameSettings, 0, 0, 6*len(settings))
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}

func appendWindowUpdate(b []byte, stream uint32, by int) []byte {
	b = appendFrame(b, http2.FrameWindowUpdate, 0, stream, 4)
	return binary.BigEndian.AppendUint32(b, uint32(by))
}

func appendReset(b []byte, stream uint32, code http2.ErrCode) []byte {
	b = appendFrame(b, http2.FrameRSTStream, 0, stream, 4)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}
