package fnapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/fnapi/h2"
	"github.com/lintelrun/lintel/internal/fault"
)

const (
	// The flow control window of a stream in bytes, unless QueueBytes is less: large and
	// fixed, so that a message of usual size never waits for a round trip.
	streamWindow = 16 << 20
	ioBuffer     = 128 << 10

	defaultQueueBytes = 32 << 20
)

// Config configures a Server. The zero value is usable.
type Config struct {
	// Listen is the TCP address to listen on; default 127.0.0.1:0. Its port is 0, as a second one is taken for state.
	Listen string
	// AdvertisedHost is the host by which harnesses reach us, if it is another than that of Listen:
	// in a container's network, for example.
	AdvertisedHost string
	// Logger gets what concerns no single bundle; default slog.Default().
	Logger *slog.Logger
	// QueueBytes bounds the received bytes of one harness that wait for Bundle.Recv, and
	// what gRPC holds of a stream besides; default 32 MiB. A single larger message is
	// still accepted.
	QueueBytes int
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.QueueBytes < 0 {
		return fault.New(fault.Invalid, "fnapi: QueueBytes is %d, want 0 (default) or more", c.QueueBytes)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = defaultQueueBytes
	}
	return c
}

// Server is the Fn API server of one process, shared by all its harnesses.
// Safe for concurrent use.
type Server struct {
	config   Config
	log      *slog.Logger
	listener net.Listener
	grpc     *grpc.Server

	stateListener net.Listener
	state         *h2.Server // of state requests, which are many and small

	ids   atomic.Uint64  // of instructions; never used twice
	loops sync.WaitGroup // readers, writers and state calls

	mu        sync.RWMutex
	stopped   bool
	harnesses map[string]*Harness
}

// NewServer listens, but serves nothing before Serve.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("fnapi: %w", err)
	}
	stateListener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("fnapi: for state: %w", err)
	}
	window := int32(min(max(cfg.QueueBytes, ioBuffer), streamWindow))
	s := &Server{
		config:        cfg,
		log:           cfg.Logger,
		listener:      listener,
		stateListener: stateListener,
		harnesses:     map[string]*Harness{},
		grpc: grpc.NewServer(
			grpc.ForceServerCodecV2(data.NewCodec()),
			grpc.MaxRecvMsgSize(math.MaxInt32),
			grpc.MaxSendMsgSize(math.MaxInt32),
			grpc.StaticStreamWindowSize(window),
			grpc.StaticConnWindowSize(4*window), // control, data, state, logging
			grpc.ReadBufferSize(ioBuffer),
			grpc.WriteBufferSize(ioBuffer),
			grpc.WaitForHandlers(true),
			// Python harnesses ping every 20 s, with or without streams; by
			// default the server would close their connections for it.
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
				MinTime:             time.Second,
				PermitWithoutStream: true,
			}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 2 * time.Minute}),
		),
	}
	fnpb.RegisterProvisionServiceServer(s.grpc, provisionService{s: s})
	fnpb.RegisterBeamFnControlServer(s.grpc, controlService{s: s})
	fnpb.RegisterBeamFnLoggingServer(s.grpc, loggingService{s: s})
	data.Register(s.grpc, dataService{s})
	data.RegisterState(s.grpc, stateService{s}.State)
	s.state = h2.NewServer(h2.Config{}, stateService{s})
	return s, nil
}

// Registrar is where further services of the same endpoint are added, before Serve.
func (s *Server) Registrar() grpc.ServiceRegistrar { return s.grpc }

// Endpoint is the host:port that harnesses connect to.
func (s *Server) Endpoint() string { return s.endpoint(s.listener) }

// StateEndpoint is the host:port of BeamFnState, for ProcessBundleDescriptor.state_api_service_descriptor.
func (s *Server) StateEndpoint() string { return s.endpoint(s.stateListener) }

func (s *Server) endpoint(l net.Listener) string {
	at := l.Addr().String()
	if _, port, err := net.SplitHostPort(at); err == nil && s.config.AdvertisedHost != "" {
		return net.JoinHostPort(s.config.AdvertisedHost, port)
	}
	return at
}

// Serve serves harnesses until Stop. It returns nil if Stop ended it.
func (s *Server) Serve() error {
	var both errgroup.Group
	both.Go(func() error { return s.state.Serve(s.stateListener) })
	both.Go(func() error {
		if err := s.grpc.Serve(s.listener); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if err := both.Wait(); err != nil {
		return fmt.Errorf("fnapi: %w", err)
	}
	return nil
}

// Stop closes every harness, ends Serve and returns once nothing of the server
// runs any more.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopped = true
	harnesses := s.harnesses
	s.harnesses = map[string]*Harness{}
	s.mu.Unlock()
	for _, h := range harnesses {
		h.Close()
	}
	s.grpc.Stop()
	s.state.Stop()
	// They are closed already if Serve was called.
	s.listener.Close()
	s.stateListener.Close()
	s.loops.Wait()
}

// nextID returns a new instruction id, unique in the life of the server.
func (s *Server) nextID() string { return "i" + strconv.FormatUint(s.ids.Add(1), 10) }

// workerID is the id a harness sends with every call; empty if it didn't.
func workerID(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if ids := md.Get("worker_id"); len(ids) > 0 {
		return ids[0]
	}
	return ""
}

// harness finds the announced harness a call comes from; the error is a gRPC status.
func (s *Server) harness(ctx context.Context) (*Harness, error) {
	return s.worker(workerID(ctx))
}

// worker finds the announced harness of a worker id; the error is a gRPC status.
func (s *Server) worker(id string) (*Harness, error) {
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "the call carries no worker_id metadata")
	}
	s.mu.RLock()
	h := s.harnesses[id]
	s.mu.RUnlock()
	if h == nil {
		s.log.Warn("refused a call of an unknown worker", "worker", id)
		return nil, status.Errorf(codes.PermissionDenied, "worker %q is not expected here", id)
	}
	return h, nil
}

// serve runs the loops of a stream and returns when the first of them ends or
// stop is closed. gRPC then cancels the stream, which ends the other loops.
func (s *Server) serve(stop <-chan struct{}, loops ...func() error) error {
	ended := make(chan error, len(loops))
	for _, loop := range loops {
		s.loops.Go(func() { ended <- loop() })
	}
	select {
	case err := <-ended:
		return err
	case <-stop:
		return nil
	}
}

// statusOf makes the gRPC status that a harness sees for err.
func statusOf(err error) error {
	if err != nil && fault.ClassOf(err) == fault.Invalid {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}
