package h2

import (
	"bytes"
	"encoding/binary"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	prefix = 5 // of a gRPC message: whether it is compressed, and its length

	// muchQueued is how many bytes may wait for the peer's flow control before a stream without a Gate receives
	// no more messages, and senders had better wait.
	muchQueued = 4 << 20
	// keptPartial is the capacity up to which the buffer of an incomplete message is kept.
	keptPartial = 1 << 20
	// trusted is for how long a message a peer's word is taken: longer ones get their memory as they come.
	trusted = 16 << 20
)

// Stream is a bidirectional stream of messages. Its methods are safe for concurrent use.
type Stream struct {
	conn     *conn
	id       uint32
	receiver Receiver
	gate     Gate // the receiver, if it is one; nil for others
	closing  sync.Once

	// receiving is held by who hands on what the peer has sent: the reading goroutine, or Resume's caller.
	// It protects what follows, and is taken before conn.mu.
	receiving sync.Mutex
	partial   []byte // the beginning of a message
	wants     int    // its length in all, 0 before that is known
	kept      bool   // by the receiver, whose own partial is now
	parked    bool   // no more messages are handed on until the stream is resumed
	backlog   []byte // received while parked
	withheld  int    // bytes of the window that it has taken
	taken     int    // bytes of the window that the peer has used
	credit    int    // bytes of taken that it may use again, but has not been told of
	whole     bool   // the peer has sent all

	asked atomic.Bool // to resume

	// Under conn.mu.
	opened   bool // its headers are out
	window   int64
	queue    queue         // messages that wait for the peer's flow control
	room     chan struct{} // closed when the queue has become short; nil while nobody waits
	crowded  bool          // parked because of the queue
	trailers []byte        // what goes out after them
	ended    bool          // no more is sent or received
	half     bool          // the peer sends no more
}

// Peer is the peer's address.
func (s *Stream) Peer() net.Addr { return s.conn.net.RemoteAddr() }

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
	s.gate, _ = r.(Gate)
	ended := s.ended
	if !ended {
		c.out.own = c.appendHeaders(c.out.own, s.id, false, [2]string{":status", "200"}, [2]string{"content-type", "application/grpc"})
		s.opened = true
		c.messages += c.pump(s) // what was sent meanwhile
	}
	c.mu.Unlock()
	if ended { // while it was opened
		s.close()
	}
	return nil
}

// receive takes the data of a frame, which with its padding has taken size bytes of the window.
func (s *Stream) receive(data []byte, size int) error {
	s.receiving.Lock()
	defer s.received()
	if s.taken += size; s.taken > s.conn.server.config.StreamWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if s.parked {
		s.backlog = append(s.backlog, data...)
		s.withheld += size
		return nil
	}
	s.giveBack(size)
	s.handOn(data)
	return nil
}

// Resume goes on with a stream whose Gate has opened. It may hand on messages, but
// not within Receive or Closed, after which they are handed on.
func (s *Stream) Resume() {
	s.asked.Store(true)
	s.resumeIfAsked()
}

// received lets go of receiving, whose next holder may be one who has asked to resume meanwhile.
func (s *Stream) received() {
	s.receiving.Unlock()
	s.resumeIfAsked()
}

func (s *Stream) resumeIfAsked() {
	for s.asked.Load() && s.receiving.TryLock() {
		s.asked.Store(false)
		resumed := s.parked && s.resume()
		s.receiving.Unlock()
		if resumed {
			s.conn.mu.Lock()
			s.conn.flush()
			s.conn.mu.Unlock()
		}
	}
}

// resume hands on what came while the stream was parked, unless it has to stay so.
func (s *Stream) resume() bool {
	if ended, full := s.state(); ended || full {
		return false
	}
	data := s.backlog
	s.parked, s.backlog = false, nil
	s.handOn(data)
	still := min(s.withheld, len(s.backlog)) // if it is parked again
	s.giveBack(s.withheld - still)
	s.withheld = still
	return true
}

// giveBack lets the peer send so many bytes more, and tells it so when they have become many.
func (s *Stream) giveBack(size int) {
	if s.credit += size; s.credit > s.conn.server.config.StreamWindow/2 {
		s.conn.mu.Lock()
		s.conn.out.own = appendWindowUpdate(s.conn.out.own, s.id, s.credit)
		s.conn.mu.Unlock()
		s.taken -= s.credit
		s.credit = 0
	}
}

// handOn hands on the messages that end in data.
func (s *Stream) handOn(data []byte) {
	for len(data) > 0 {
		switch ended, full := s.state(); {
		case ended:
			return
		case full:
			s.parked = true
			s.backlog = append(s.backlog, data...)
			return
		}
		message, n, err := s.next(data)
		if err == nil && message != nil {
			s.kept = false
			err = s.receiver.Receive(message)
		}
		if err != nil {
			s.End(err)
			return
		}
		data = data[n:]
		if message != nil && s.wants > 0 { // it was in partial
			if s.partial, s.wants = s.partial[:0], 0; s.kept || cap(s.partial) > keptPartial {
				s.partial = nil
			}
		}
	}
	if s.whole {
		s.End(nil)
	}
}

// next returns the first message that ends in data, and how much of data belongs to it; nil if
// there is none, and all is kept.
func (s *Stream) next(data []byte) (message []byte, n int, err error) {
	if len(s.partial) == 0 && len(data) >= prefix {
		size, err := messageSize(data)
		if err != nil {
			return nil, 0, err
		}
		if end := prefix + size; end <= len(data) {
			return data[prefix:end:end], end, nil
		}
	}
	if missing := prefix - len(s.partial); missing > 0 {
		n = min(missing, len(data))
		if s.partial = append(s.partial, data[:n]...); n < missing {
			return nil, n, nil
		}
	}
	if s.wants == 0 {
		size, err := messageSize(s.partial)
		if err != nil {
			return nil, n, err
		}
		s.wants = prefix + size
	}
	more := data[n:min(len(data), n+s.wants-len(s.partial))]
	s.partial = append(s.makePartial(len(more)), more...)
	n += len(more)
	if len(s.partial) < s.wants {
		return nil, n, nil
	}
	return s.partial[prefix:s.wants:s.wants], n, nil
}

// makePartial makes room in partial for so many bytes: at once for all that it wants, unless that is
// much more than has come.
func (s *Stream) makePartial(more int) []byte {
	if len(s.partial)+more <= cap(s.partial) {
		return s.partial
	}
	partial := make([]byte, len(s.partial), min(s.wants, max(trusted, 2*(len(s.partial)+more))))
	copy(partial, s.partial)
	return partial
}

// messageSize reads the prefix of a message.
func messageSize(b []byte) (int, error) {
	size := binary.BigEndian.Uint32(b[1:])
	switch {
	case b[0] != 0:
		return 0, status.Error(codes.Unimplemented, "messages must not be compressed")
	case size > math.MaxInt32-prefix:
		return 0, status.Errorf(codes.ResourceExhausted, "a message of %d bytes; there may be less than 2 GiB", size)
	}
	return int(size), nil
}

// Keep returns a part of the message that is being received, for its receiver to keep: within Receive only.
// It is copied if it lies where the next message will.
func (s *Stream) Keep(part []byte) []byte {
	if s.wants == 0 {
		return bytes.Clone(part)
	}
	s.kept = true
	return slices.Clip(part)
}

// state tells whether the stream has ended, and whether no more messages are to be handed on.
func (s *Stream) state() (ended, full bool) {
	s.conn.mu.Lock()
	ended = s.ended || s.conn.err != nil
	s.crowded = s.gate == nil && s.queue.size > muchQueued
	full = s.crowded
	s.conn.mu.Unlock()
	return ended, full || s.gate != nil && s.gate.Full()
}

// halfClosed notes that the peer sends no more.
func (s *Stream) halfClosed() {
	s.conn.mu.Lock()
	s.half = true
	s.conn.mu.Unlock()
	s.receiving.Lock()
	defer s.received()
	s.whole = true
	if !s.parked {
		s.End(nil)
	}
}

// Queue sends a message, the concatenation of parts, together with what is sent next, or, within Receive,
// when the connection's input so far has been worked through. The parts
// are copied. After the end of the stream it does nothing.
func (s *Stream) Queue(parts ...[]byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.send(s, parts, false)
}

// Send sends a message, the concatenation of parts, at once. The parts are copied. It does not
// wait for the peer's flow control, but may for the socket. After the end of the stream it does nothing.
func (s *Stream) Send(parts ...[]byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.messages += s.conn.send(s, parts, false)
	s.conn.flush()
}

// Batch sends messages at once. Otherwise it is as Send, but what is large of their parts is not copied: it
// must not be changed any more.
func (s *Stream) Batch(messages ...[][]byte) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for _, parts := range messages {
		s.conn.messages += s.conn.send(s, parts, true)
	}
	s.conn.flush()
}

// Crowded is not nil while much of what has been sent waits for the peer's flow control; it is closed
// when that has become little, and when the stream ends.
func (s *Stream) Crowded() <-chan struct{} {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.queue.size <= muchQueued || s.ended || s.conn.err != nil {
		return nil
	}
	if s.room == nil {
		s.room = make(chan struct{})
	}
	return s.room
}

// makeRoom wakes those who wait for the queue to become short. Under conn.mu.
func (s *Stream) makeRoom() {
	close(s.room)
	s.room = nil
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
	if !s.opened {
		s.queue = queue{}
	}
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
	if s.room != nil {
		s.makeRoom()
	}
	s.conn.mu.Unlock()
	if r != nil {
		s.closing.Do(r.Closed)
	}
}
