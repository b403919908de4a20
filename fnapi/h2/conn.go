package h2

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	initialWindow = 65535     // of HTTP/2
	maxWindow     = 1<<31 - 1 // of HTTP/2
	leastMaxFrame = 16 << 10  // of HTTP/2; what we ask for, too

	connWindows = 4 // the windows of a connection's streams add up to so many
	maxStreams  = 100
	maxHeader   = 16 << 10
	maxPings    = 16 // that wait for their acknowledgement
	slowPong    = 5  // times PingDelay, after which pings are acknowledged on their own
	silences    = 3  // times Keepalive, after which a peer is taken for lost
)

// conn is a connection. The goroutine of serve reads; any may write.
type conn struct {
	server *Server
	net    net.Conn
	small  net.Conn // the same, to read and to write what is little
	in     *bufio.Reader
	framer *http2.Framer // to read with only

	// Of the reading goroutine alone.
	last    uint32 // the highest stream so far
	greeted bool   // the peer's settings have come
	credit  int    // bytes of all streams received that the peer has not been told of

	heard  atomic.Bool // something has come since the keepalive looked last
	silent int         // of the keepalive: so many times it has found nothing

	mu      sync.Mutex
	streams map[uint32]*Stream
	err     error // why the connection is at its end
	pings   [][8]byte
	pinged  time.Time   // when the first of them came
	pong    *time.Timer // sends their acknowledgements, if nothing is written that takes them along
	alive   *time.Timer // the keepalive
	output
}

func newConn(s *Server, nc net.Conn) *conn {
	small := newSocket(nc)
	c := &conn{server: s, net: nc, small: small, in: bufio.NewReaderSize(small, s.config.ReadBuffer), streams: map[uint32]*Stream{}}
	c.output = output{window: initialWindow, streamWindow: initialWindow, maxFrame: leastMaxFrame, drained: sync.NewCond(&c.mu)}
	c.framer = http2.NewFramer(io.Discard, c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(leastMaxFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = maxHeader
	return c
}

// serve reads the connection to its end.
func (c *conn) serve() {
	c.mu.Lock()
	c.greet()
	c.alive = time.AfterFunc(c.server.config.Keepalive, c.keepAlive)
	c.mu.Unlock()
	err := c.read()
	var broken http2.ConnectionError
	if errors.Is(err, http2.ErrFrameTooLarge) {
		err = http2.ConnectionError(http2.ErrCodeFrameSize)
	}
	c.mu.Lock()
	if errors.As(err, &broken) {
		c.goAway(http2.ErrCode(broken))
		// Nobody is waited for who doesn't read: it is a courtesy.
		_ = c.net.SetWriteDeadline(time.Now().Add(time.Second))
		c.flush()
	}
	c.fail(err)
	c.alive.Stop()
	if c.pong != nil {
		c.pong.Stop()
	}
	streams := c.streams
	c.streams = nil
	for c.writing { // until the one who writes has seen the end
		c.drained.Wait()
	}
	c.mu.Unlock()
	for _, s := range streams {
		s.close()
	}
}

// fail ends the connection: whoever reads or writes it comes to an end. Under mu.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = fmt.Errorf("connection ended: %w", err)
		c.net.Close()
	}
}

// greet begins what we write with our settings. Under mu.
func (c *conn) greet() {
	window := c.server.config.StreamWindow
	c.out.own = appendSettings(c.out.own,
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(window)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeader})
	c.out.own = appendWindowUpdate(c.out.own, 0, connWindows*window-initialWindow)
}

func (c *conn) read() error {
	if err := c.net.SetReadDeadline(time.Now().Add(c.server.config.Handshake)); err != nil {
		return err
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	for {
		c.beforeRead()
		head, err := c.in.Peek(frameHeader)
		switch {
		case err != nil:
		case http2.FrameType(head[3]) == http2.FrameData:
			err = c.readData(head)
		default:
			var frame http2.Frame
			if frame, err = c.framer.ReadFrame(); err == nil {
				err = c.handle(frame)
			}
		}
		c.heard.Store(true)
		var of http2.StreamError
		if errors.As(err, &of) {
			err = c.reset(of)
		}
		if err != nil {
			return err
		}
	}
}

// beforeRead writes what there is to write, if the next frame has not come as a whole or it is much.
func (c *conn) beforeRead() {
	waits := true
	if n := c.in.Buffered(); n >= frameHeader {
		head, _ := c.in.Peek(frameHeader)
		waits = n < frameHeader+int(binary.BigEndian.Uint32(head)>>8)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if waits || c.out.len() > muchOut {
		c.flush()
	}
	for c.writing && c.out.len()-c.messages > muchOut { // somebody else is at it
		c.drained.Wait()
	}
}

// readData reads a DATA frame, whose bytes it leaves where they are until their stream has had them.
func (c *conn) readData(head []byte) error {
	size, flags := int(binary.BigEndian.Uint32(head)>>8), http2.Flags(head[4])
	stream := binary.BigEndian.Uint32(head[5:]) & maxWindow
	switch {
	case size > leastMaxFrame:
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	case !c.greeted || stream == 0 || stream > c.last:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	frame, err := c.in.Peek(frameHeader + size)
	if err != nil {
		return err
	}
	data := frame[frameHeader:]
	if flags.Has(http2.FlagDataPadded) {
		if size == 0 || int(data[0]) >= size {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		data = data[1 : size-int(data[0])]
	}
	err = c.data(stream, data, size, flags.Has(http2.FlagDataEndStream))
	_, _ = c.in.Discard(frameHeader + size) // it is there
	return err
}

// handle acts on a frame. A StreamError ends the stream, any other error the connection.
func (c *conn) handle(frame http2.Frame) error {
	if settings, ok := frame.(*http2.SettingsFrame); ok {
		return c.settings(settings)
	}
	if !c.greeted {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.RSTStreamFrame:
		if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if s := c.stream(f.StreamID); s != nil {
			c.remove(s)
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // others are of no use here, or unknown and to be ignored
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if !c.greeted {
		c.greeted = true
		if err := c.net.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			return c.resize(int64(s.Val))
		case http2.SettingMaxFrameSize:
			c.maxFrame = int(s.Val)
		}
		return nil
	})
	c.out.own = appendFrame(c.out.own, http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.pumpAndUnlock()
	return nil
}

func (c *conn) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pings) == maxPings {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if c.pings = append(c.pings, f.Data); len(c.pings) > 1 {
		return nil
	}
	c.pinged = time.Now()
	if wait := slowPong * c.server.config.PingDelay; c.pong == nil {
		c.pong = time.AfterFunc(wait, c.latePong)
	} else {
		c.pong.Reset(wait)
	}
	return nil
}

// latePong acknowledges the pings so far.
func (c *conn) latePong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acknowledge()
	c.flush()
}

// keepAlive asks a peer that is silent whether it is there, and closes the connection if it doesn't answer.
func (c *conn) keepAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if c.silent++; c.heard.Swap(false) {
		c.silent = 0
	}
	switch c.silent {
	case 0:
	case 1:
		c.out.own = append(appendFrame(c.out.own, http2.FramePing, 0, 0, 8), make([]byte, 8)...)
	case silences:
		c.fail(errors.New("the peer is silent"))
		return
	}
	c.alive.Reset(c.server.config.Keepalive) // before flush, which may take long
	c.flush()
}

func (c *conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// headers begins a stream, or ends what the peer sends on one.
func (c *conn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	switch {
	case id <= c.last: // trailers
		s := c.stream(id)
		if s != nil && f.StreamEnded() {
			s.halfClosed()
		}
		return nil
	case id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.last = id
	s := &Stream{conn: c, id: id}
	c.mu.Lock()
	if len(c.streams) >= maxStreams {
		c.mu.Unlock()
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	s.window = c.streamWindow
	c.streams[id] = s
	c.mu.Unlock()
	if err := s.open(f); err != nil {
		s.End(err)
		return nil
	}
	if f.StreamEnded() {
		s.halfClosed()
	}
	return nil
}

// data hands the data of a frame to its stream. With its padding it has taken size bytes of the window.
func (c *conn) data(stream uint32, data []byte, size int, last bool) error {
	c.mu.Lock()
	if c.credit += size; c.credit > c.server.config.StreamWindow {
		c.out.own = appendWindowUpdate(c.out.own, 0, c.credit)
		c.credit = 0
	}
	s := c.streams[stream]
	over, half := s == nil || s.ended, s != nil && s.half
	c.mu.Unlock()
	switch {
	case over:
		return nil
	case half:
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	}
	err := s.receive(data, size)
	if last && err == nil {
		s.halfClosed()
	}
	return err
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	by := int64(f.Increment)
	c.mu.Lock()
	s := c.streams[f.StreamID]
	switch {
	case f.StreamID == 0:
		if c.window += by; c.window > maxWindow {
			c.mu.Unlock()
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	case s != nil:
		if s.window += by; s.window > maxWindow {
			c.mu.Unlock()
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
		}
	}
	c.pumpAndUnlock()
	return nil
}

// pumpAndUnlock moves on what larger windows permit, and lets go of mu.
func (c *conn) pumpAndUnlock() {
	resume := c.pumpAll()
	c.mu.Unlock()
	for _, s := range resume {
		s.Resume()
	}
}

// reset ends a stream that broke the protocol.
func (c *conn) reset(of http2.StreamError) error {
	if of.StreamID > c.last { // it breaks off in its headers
		c.last = of.StreamID
	}
	c.mu.Lock()
	c.out.own = appendReset(c.out.own, of.StreamID, of.Code)
	s := c.streams[of.StreamID]
	c.mu.Unlock()
	if s != nil {
		c.remove(s)
	}
	return nil
}

// remove forgets a stream that the peer has ended or that has broken the protocol.
func (c *conn) remove(s *Stream) {
	c.mu.Lock()
	s.ended, s.queue, s.trailers = true, queue{}, nil
	delete(c.streams, s.id)
	c.mu.Unlock()
	s.close()
}
