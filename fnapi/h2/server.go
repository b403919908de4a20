package h2

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Handler decides which streams are served. Its method is called concurrently for
// different connections.
type Handler interface {
	// Open begins a stream of a method, as "/package.Service/Method". An error refuses it, with
	// the error's gRPC status. It must not block.
	Open(method string, header Header, s *Stream) (Receiver, error)
}

// Receiver gets what a peer sends on one stream.
type Receiver interface {
	// Receive is given each message, one after another, by the goroutine that reads the
	// connection, which serves no other stream meanwhile. The bytes belong to the callee
	// during the call only, unless it asks Stream.Keep for them.
	// An error ends the stream with its gRPC status.
	Receive(message []byte) error
	// Closed is called once, when the stream has ended, whoever has ended it; a call of
	// Receive may still be running. It must not block.
	Closed()
}

// Gate is implemented by receivers that cannot take messages at all times.
type Gate interface {
	// Full tells that no more messages are to be handed on before Stream.Resume is called. It is asked before
	// each, and must not block.
	Full() bool
}

// Header is what a call carries, with names in lower case.
type Header []hpack.HeaderField

// Get returns the first value of a name, "" if there is none.
func (h Header) Get(name string) string {
	for _, f := range h {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Config configures a Server. The zero value is usable.
type Config struct {
	// StreamWindow is how many bytes a peer may send on a stream ahead of their being received, beyond those of a
	// message that is still incomplete; all streams of a connection share four times as much. Default 1 MiB.
	StreamWindow int
	// ReadBuffer is how many bytes are read at once; default 32 KiB.
	ReadBuffer int
	// PingDelay is how long the acknowledgement of a ping is put off, and five times as long while nothing else is sent;
	// default 100 ms.
	PingDelay time.Duration
	// Keepalive is after how long without a word from the peer it is sent a ping; after three
	// times as long the connection is closed. Default one minute.
	Keepalive time.Duration
	// Handshake is how long a peer may take for its first words; default 20 s.
	Handshake time.Duration
}

func (c Config) withDefaults() Config {
	if c.StreamWindow <= 0 {
		c.StreamWindow = 1 << 20
	}
	if c.ReadBuffer <= 0 {
		c.ReadBuffer = 32 << 10
	}
	c.ReadBuffer = max(c.ReadBuffer, leastMaxFrame+frameHeader)
	c.StreamWindow = min(max(c.StreamWindow, initialWindow), maxWindow/connWindows)
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{{&c.PingDelay, 100 * time.Millisecond}, {&c.Keepalive, time.Minute}, {&c.Handshake, 20 * time.Second}} {
		if *d.at <= 0 {
			*d.at = d.def
		}
	}
	return c
}

// Server serves the connections of one listener. Safe for concurrent use.
type Server struct {
	config  Config
	handler Handler
	running sync.WaitGroup

	stopping chan struct{} // closed by Stop, under mu

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
}

// NewServer returns a server that serves nothing before Serve.
func NewServer(cfg Config, h Handler) *Server {
	return &Server{config: cfg.withDefaults(), handler: h, stopping: make(chan struct{}), conns: map[*conn]struct{}{}}
}

// Serve serves the connections of l until Stop, which closes it, and then returns nil. It is called once.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	if stopped(s.stopping) {
		l.Close()
		return nil
	}
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.begin(nc)
		case stopped(s.stopping):
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("h2: %w", err)
		default: // out of file descriptors, for example
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-s.stopping:
			}
		}
	}
}

func (s *Server) begin(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stopped(s.stopping) {
		nc.Close()
		return
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	s.running.Go(func() {
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

func stopped(stopping <-chan struct{}) bool {
	select {
	case <-stopping:
		return true
	default:
		return false
	}
}

// Stop closes the listener and all connections. It is called once, and returns when no goroutine of the server runs any more.
func (s *Server) Stop() {
	s.mu.Lock()
	close(s.stopping)
	if s.listener != nil {
		s.listener.Close()
	}
	for c := range s.conns {
		c.net.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}
