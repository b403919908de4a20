package fnapi

import (
	"context"
	"log/slog"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
)

// Config configures a Server. The zero value is usable.
type Config struct {
	// Listen is the address to listen on; default 127.0.0.1:0.
	Listen string
	// Logger; default slog.Default().
	Logger *slog.Logger
	// BundleBytes bounds the received output bytes that wait for Recv, per bundle; default 32 MiB.
	BundleBytes int
}

type Server struct{}

func NewServer(cfg Config) (*Server, error)                          { panic("skeleton") }
func (s *Server) Registrar() grpc.ServiceRegistrar                   { panic("skeleton") }
func (s *Server) Endpoint() string                                   { panic("skeleton") }
func (s *Server) Serve() error                                       { panic("skeleton") }
func (s *Server) Stop()                                              { panic("skeleton") }
func (s *Server) Expect(workerID string, w Worker) (*Harness, error) { panic("skeleton") }

// Worker is what the server must know of a harness before it connects.
type Worker struct {
	Provision          *fnpb.ProvisionInfo
	Log                func(*fnpb.LogEntry)
	Capabilities       []string // of the environment
	RunnerCapabilities []string // advertised beside the server's own
}

type Harness struct{}

func (h *Harness) ID() string                                    { panic("skeleton") }
func (h *Harness) Ready(ctx context.Context) error               { panic("skeleton") }
func (h *Harness) Done() <-chan struct{}                         { panic("skeleton") }
func (h *Harness) Err() error                                    { panic("skeleton") }
func (h *Harness) Close()                                        { panic("skeleton") }
func (h *Harness) AddDescriptor(d *fnpb.ProcessBundleDescriptor) { panic("skeleton") }
func (h *Harness) NewBundle(spec BundleSpec) (*Bundle, error)    { panic("skeleton") }

type TimerFamily struct{ Transform, Family string }

type BundleSpec struct {
	Descriptor string
	Source     string
	Sinks      []string
	Timers     []TimerFamily
	State      StateHandler
}

type StateHandler interface {
	Get(key *fnpb.StateKey, token []byte) (data, next []byte, err error)
	Append(key *fnpb.StateKey, data []byte) error
	Clear(key *fnpb.StateKey) error
}

type Bundle struct{}

type Output struct {
	Transform, Timer string
	Data             []byte
}

type Progress struct {
	Infos     []*pipepb.MonitoringInfo
	Consuming bool
}

func (b *Bundle) ID() string                                  { panic("skeleton") }
func (b *Bundle) Send(data []byte) error                      { panic("skeleton") }
func (b *Bundle) SendTimers(t TimerFamily, data []byte) error { panic("skeleton") }
func (b *Bundle) CloseSend() error                            { panic("skeleton") }
func (b *Bundle) Recv(ctx context.Context) (Output, error)    { panic("skeleton") }
func (b *Bundle) Response() *fnpb.ProcessBundleResponse       { panic("skeleton") }
func (b *Bundle) Metrics(ctx context.Context) ([]*pipepb.MonitoringInfo, error) {
	panic("skeleton")
}
func (b *Bundle) Progress(ctx context.Context) (*Progress, error) { panic("skeleton") }
func (b *Bundle) Split(ctx context.Context, fraction float64, estimatedInputElements int64, allowed []int64) (*fnpb.ProcessBundleSplitResponse, error) {
	panic("skeleton")
}
func (b *Bundle) Finalize(ctx context.Context) error { panic("skeleton") }
func (b *Bundle) Abort(err error)                    { panic("skeleton") }
