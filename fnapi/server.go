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
	// The flow control window of a data stream in bytes, unless QueueBytes is less: large, so
	// that a message of usual size never waits for a round trip.
	streamWindow = 16 << 20
	readBuffer   = 128 << 10

	defaultQueueBytes = 32 << 20
)

// Config configures a Server. The zero value is usable.
type Config struct {
	// Listen is the TCP address to listen on; default 127.0.0.1:0. Its port is 0, as two more are taken.
	Listen string
	// AdvertisedHost is the host by which harnesses reach us, if it is another than that of Listen:
	// in a container's network, for example.
	AdvertisedHost string
	// Logger gets what concerns no single bundle; default slog.Default().
	Logger *slog.Logger
	// QueueBytes bounds the received bytes of one harness that wait for Bundle.Recv, and
	// what may have been received besides; default 32 MiB. A single larger message is
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

	bundleListener, stateListener net.Listener

	bundles *h2.Server // of instructions and data
	state   *h2.Server // of state requests, which are many and small

	ids   atomic.Uint64  // of instructions; never used twice
	loops sync.WaitGroup // log readers, state calls and what ends streams

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
	var listeners [3]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			for _, l := range listeners[:i] {
				l.Close()
			}
			return nil, fmt.Errorf("fnapi: %w", err)
		}
		listeners[i] = l
	}
	s := &Server{
		config:         cfg,
		log:            cfg.Logger,
		listener:       listeners[0],
		bundleListener: listeners[1],
		stateListener:  listeners[2],
		harnesses:      map[string]*Harness{},
		grpc: grpc.NewServer(
			grpc.ForceServerCodecV2(data.NewCodec()),
			grpc.MaxRecvMsgSize(math.MaxInt32),
			grpc.MaxSendMsgSize(math.MaxInt32),
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
	fnpb.RegisterBeamFnLoggingServer(s.grpc, loggingService{s: s})
	s.bundles = h2.NewServer(h2.Config{StreamWindow: min(cfg.QueueBytes, streamWindow), ReadBuffer: readBuffer}, bundleService{s})
	s.state = h2.NewServer(h2.Config{}, stateService{s})
	return s, nil
}

// Registrar is where further services of the same endpoint are added, before Serve.
func (s *Server) Registrar() grpc.ServiceRegistrar { return s.grpc }

// Endpoint is the host:port of all services but BeamFnControl, BeamFnData and BeamFnState.
func (s *Server) Endpoint() string { return s.endpoint(s.listener) }

// BundleEndpoint is the host:port of BeamFnControl and BeamFnData, for harnesses that start and for
// the data ports of ProcessBundleDescriptor.
func (s *Server) BundleEndpoint() string { return s.endpoint(s.bundleListener) }

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
	var all errgroup.Group
	all.Go(func() error { return s.bundles.Serve(s.bundleListener) })
	all.Go(func() error { return s.state.Serve(s.stateListener) })
	all.Go(func() error {
		if err := s.grpc.Serve(s.listener); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if err := all.Wait(); err != nil {
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
	s.bundles.Stop()
	s.state.Stop()
	// They are closed already if Serve was called.
	for _, l := range []net.Listener{s.listener, s.bundleListener, s.stateListener} {
		l.Close()
	}
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

// statusOf makes the gRPC status that a harness sees for err.
func statusOf(err error) error {
	if err != nil && fault.ClassOf(err) == fault.Invalid {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}
