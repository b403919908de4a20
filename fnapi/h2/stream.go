package h2

import (
	"encoding/binary"
	"math"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	prefix = 5 // of a gRPC message: whether it is compressed, and its length

	// muchQueued is how many bytes may wait for the peer's flow control before no more
	// messages of a stream are received.
	muchQueued = 4 << 20
	// keptPartial is the capacity up to which the buffer of an incomplete message is kept.
	keptPartial = 1 << 20
)

// Stream is a bidirectional stream of messages. Its methods are safe for concurrent use.
type Stream struct {
	conn     *conn
	id       uint32
	receiver Receiver
	closing  sync.Once

	// Of the reading goroutine alone.
	partial  []byte // received, and not yet a message or not yet to be handed on
	parked   bool   // no more messages are handed on until the queue is shorter
	withheld int    // bytes received while parked
	taken    int    // bytes of the window that the peer has used
	credit   int    // bytes of taken that it may use again, but has not been told of

	// Under conn.mu.
	window   int64
	queue    []byte // messages that wait for the peer's flow control
	trailers []byte // what goes out after them
	ended    bool   // no more is sent or received
	half     bool   // the peer sends no more; written by the reading goroutine only
}

// open begins the stream.
func (s *Stream) open(f *http2.MetaHeadersFrame) error {
	header := Header(f.Fields)
	switch kind := header.Get("content-type"); {
	case f.Truncated:
		return status.Errorf(codes.ResourceExhausted, "more than %d bytes of metadata", maxHeader)
	case header.Get(":method") != "POST":
		return status.Error(codes.Internal, "not a gRPC call: the method is not POST")
	case !strings.HasPrefix(kind, "application/grpc"):
		return status.Errorf(codes.Internal, "not a gRPC call: the content type is %q", kind)
	}
	r, err := s.conn.server.handler.Open(header.Get(":path"), header, s)
	if err != nil {
		return err
	}
	c := s.conn
	c.mu.Lock()
	s.receiver = r
	ended := s.ended
	if !ended {
		c.out = c.appendHeaders(c.out, s.id, false, [2]string{":status", "200"}, [2]string{"content-type", "application/grpc"})
	}
	c.mu.Unlock()
	if ended { // while it was opened
		s.close()
	}
	return nil
}

// receive takes the data of a frame, which with its padding has taken size bytes of the window.
func (s *Stream) receive(data []byte, size int) {
	if s.parked {
		s.partial = append(s.partial, data...)
		s.withheld += size
		return
	}
	s.giveBack(size)
	if len(s.partial) > 0 {
		s.partial = append(s.partial, data...)
		s.handOnPartial()
		return
	}
	s.partial = append(s.partial, data[s.handOn(data):]...)
}

// resume goes on after the queue has become shorter.
func (s *Stream) resume() {
	s.parked = false
	s.giveBack(s.withheld)
	s.withheld = 0
	s.handOnPartial()
	if s.half && !s.parked {
		s.End(nil)
	}
}

// giveBack lets the peer send so many bytes more, and tells it so when they have become many.
func (s *Stream) giveBack(size int) {
	if s.credit += size; s.credit > s.conn.server.config.StreamWindow/2 {
		s.conn.mu.Lock()
		s.conn.out = appendWindowUpdate(s.conn.out, s.id, s.credit)
		s.conn.mu.Unlock()
		s.taken -= s.credit
		s.credit = 0
	}
}

func (s *Stream) handOnPartial() {
	n := s.handOn(s.partial)
	if s.partial = s.partial[:copy(s.partial, s.partial[n:])]; len(s.partial) == 0 && cap(s.partial) > keptPartial {
		s.partial = nil
	}
}

// handOn hands on the messages at the beginning of b, and returns their length.
func (s *Stream) handOn(b []byte) (n int) {
	for len(b)-n >= prefix && !s.parked {
		m := b[n:]
		size := binary.BigEndian.Uint32(m[1:])
		switch {
		case m[0] != 0:
			s.End(status.Error(codes.Unimplemented, "messages must not be compressed"))
			return len(b)
		case size > math.MaxInt32-prefix:
			s.End(status.Errorf(codes.ResourceExhausted, "a message of %d bytes; there may be less than 2 GiB", size))
			return len(b)
		case len(m)-prefix < int(size):
			return n
		}
		end := prefix + int(size)
		if err := s.receiver.Receive(m[prefix:end:end]); err != nil {
			s.End(err)
			return len(b)
		}
		n += end
		if s.afterMessage() {
			return len(b)
		}
	}
	return n
}

// afterMessage parks the stream if too much of what it sends waits, and tells whether it has ended.
func (s *Stream) afterMessage() (ended bool) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.parked = len(s.queue) > muchQueued
	return s.ended
}

// halfClosed notes that the peer sends no more.
func (s *Stream) halfClosed() {
	s.conn.mu.Lock()
	s.half = true
	s.conn.mu.Unlock()
	if !s.parked {
		s.End(nil)
	}
}

// Reply sends a message, the concatenation of parts, in answer to one that is being received: within
// Receive only. It goes out when the connection's input so far has been worked through. The parts
// are copied. After the end of the stream it does nothing.
func (s *Stream) Reply(parts ...[]byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.send(s, parts)
}

// Send sends a message, the concatenation of parts, at once. The parts are copied. It does not
// wait for the peer's flow control, but may for the socket. After the end of the stream it does nothing.
func (s *Stream) Send(parts ...[]byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.send(s, parts)
	s.conn.flush()
}

// End ends the stream, after what has been sent, with the gRPC status of err. Idempotent.
func (s *Stream) End(err error) {
	c := s.conn
	c.mu.Lock()
	if s.ended || c.err != nil {
		c.mu.Unlock()
		return
	}
	s.ended = true
	s.trailers = c.appendTrailers(nil, s, status.Convert(err))
	c.pump(s)
	c.flush()
	c.mu.Unlock()
	s.close()
}

// close tells the receiver of the end.
func (s *Stream) close() {
	s.conn.mu.Lock()
	r := s.receiver
	s.conn.mu.Unlock()
	if r != nil {
		s.closing.Do(r.Closed)
	}
}
