package h2

import (
	"bytes"
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/status"
)

const (
	frameHeader = 9
	// muchOut is how many bytes of what the reading goroutine has to say may wait to be written before
	// it reads no more, and the capacity up to which their buffer is kept.
	muchOut = 256 << 10
	// worthSharing is the length from which a part of a message is not copied on its way out.
	worthSharing = 2 << 10
)

// output is the sending side of a connection, under its mu.
type output struct {
	window       int64 // of the connection
	streamWindow int64 // of new streams
	maxFrame     int

	out, spare pieces
	writing    bool       // a goroutine is writing; it takes along what others add to out
	drained    *sync.Cond // writing has become false, or out shorter
	messages   int        // bytes in out of messages, without those that are answers
	fields     strings.Builder
	encoder    *hpack.Encoder
}

// pieces is bytes to be written: a list, whose pieces are parts of own or belong to senders, and then own[cut:].
type pieces struct {
	list net.Buffers
	size int // of list
	own  []byte
	cut  int
}

func (p *pieces) len() int { return p.size + len(p.own) - p.cut }

// seal moves what there is to the list.
func (p *pieces) seal() {
	if rest := p.own[p.cut:]; len(rest) > 0 {
		p.list = append(p.list, rest)
		p.size += len(rest)
		p.cut = len(p.own)
	}
}

// append appends a part of a message. One that is not shared is copied.
func (p *pieces) append(part []byte, shared bool) {
	if !shared || len(part) < worthSharing {
		p.own = append(p.own, part...)
		return
	}
	p.seal()
	p.list = append(p.list, part)
	p.size += len(part)
}

func (p *pieces) writeTo(c *conn) error {
	if len(p.list) == 0 {
		_, err := c.small.Write(p.own)
		return err
	}
	p.seal()
	rest := p.list
	_, err := rest.WriteTo(c.net)
	clear(p.list)
	return err
}

// reset makes it empty. What it has of memory is kept, unless that is much.
func (p *pieces) reset() {
	if cap(p.own) > muchOut || cap(p.list) > muchOut/64 {
		*p = pieces{}
		return
	}
	p.own, p.cut, p.list, p.size = p.own[:0], 0, p.list[:0], 0
}

// flush writes what is to be written, unless another goroutine is at it, which will. Under mu,
// which it lets go of while it writes.
func (c *conn) flush() {
	if c.writing {
		return
	}
	c.writing = true
	for c.out.len() > 0 && c.err == nil {
		c.acknowledgeDue()
		b := c.out
		c.out, c.spare, c.messages = c.spare, pieces{}, 0
		c.mu.Unlock()
		err := b.writeTo(c)
		b.reset()
		c.mu.Lock()
		c.spare = b
		if err != nil {
			c.fail(err)
		}
		c.drained.Broadcast()
	}
	c.writing = false
	c.drained.Broadcast()
}

// acknowledgeDue adds the acknowledgements of pings to what is about to be written, if they are due.
func (c *conn) acknowledgeDue() {
	if len(c.pings) > 0 && time.Since(c.pinged) >= c.server.config.PingDelay {
		c.acknowledge()
	}
}

func (c *conn) acknowledge() {
	for _, data := range c.pings {
		c.out.own = append(appendFrame(c.out.own, http2.FramePing, http2.FlagPingAck, 0, len(data)), data[:]...)
	}
	c.pings = c.pings[:0]
}

// send appends a message of a stream to what is to be written, or to what waits for flow control.
// Its parts are copied unless they are shared.
func (c *conn) send(s *Stream, parts [][]byte, shared bool) (size int) {
	if s.ended || c.err != nil {
		return 0
	}
	var head [prefix]byte
	for _, p := range parts {
		size += len(p)
	}
	binary.BigEndian.PutUint32(head[1:], uint32(size))
	n := prefix + size
	if s.queue.size == 0 && s.opened && n <= c.maxFrame && int64(n) <= min(s.window, c.window) {
		c.out.own = appendFrame(c.out.own, http2.FrameData, 0, s.id, n)
		c.window -= int64(n)
		s.window -= int64(n)
		c.out.append(head[:], false)
		for _, p := range parts {
			c.out.append(p, shared)
		}
		return frameHeader + n
	}
	s.queue.push(head[:], false)
	for _, p := range parts {
		s.queue.push(p, shared)
	}
	return c.pump(s)
}

// pump moves what flow control permits of a stream's queue to what is to be written, and returns its length.
func (c *conn) pump(s *Stream) (size int) {
	for s.opened && s.queue.size > 0 {
		n := int(min(int64(s.queue.size), int64(c.maxFrame), s.window, c.window))
		if n <= 0 {
			break
		}
		c.out.own = appendFrame(c.out.own, http2.FrameData, 0, s.id, n)
		s.queue.moveTo(&c.out, n)
		c.window -= int64(n)
		s.window -= int64(n)
		size += frameHeader + n
	}
	if s.room != nil && s.queue.size <= muchQueued/2 {
		s.makeRoom()
	}
	if s.queue.size == 0 && s.trailers != nil {
		c.out.own = append(c.out.own, s.trailers...)
		s.trailers = nil
		delete(c.streams, s.id)
	}
	return size
}

// pumpAll pumps all streams, and returns those that were parked and may go on.
func (c *conn) pumpAll() (resume []*Stream) {
	for _, s := range c.streams {
		c.messages += c.pump(s)
		if s.crowded && !s.ended && s.queue.size <= muchQueued/2 {
			s.crowded = false
			resume = append(resume, s)
		}
	}
	return resume
}

// queue is what of a stream waits for the peer's flow control.
type queue struct {
	parts [][]byte
	gone  int  // bytes of parts[0]
	size  int  // bytes that wait
	open  bool // the last part is ours, and may be appended to
}

func (q *queue) push(part []byte, shared bool) {
	q.size += len(part)
	switch n := len(q.parts); {
	case shared && len(part) >= worthSharing:
		q.parts, q.open = append(q.parts, part), false
	case q.open:
		q.parts[n-1] = append(q.parts[n-1], part...)
	default:
		q.parts, q.open = append(q.parts, bytes.Clone(part)), true
	}
}

// moveTo moves the first n bytes, of which there must be as many.
func (q *queue) moveTo(out *pieces, n int) {
	for q.size -= n; n > 0; {
		part := q.parts[0][q.gone:]
		if len(part) > n {
			out.append(part[:n], true)
			q.gone += n
			return
		}
		out.append(part, true)
		n -= len(part)
		q.parts[0] = nil
		q.parts, q.gone = q.parts[1:], 0
	}
	if len(q.parts) == 0 {
		*q = queue{}
	}
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
	b := appendFrame(c.out.own, http2.FrameGoAway, 0, 0, 8)
	b = binary.BigEndian.AppendUint32(b, c.last)
	c.out.own = binary.BigEndian.AppendUint32(b, uint32(code))
}

// appendTrailers appends the end of a stream, which is all there is of one that was refused.
func (c *conn) appendTrailers(b []byte, s *Stream, st *status.Status) []byte {
	code := [2]string{"grpc-status", strconv.Itoa(int(st.Code()))}
	message := [2]string{"grpc-message", percentEncoded(st.Message())}
	if !s.opened {
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
