// Package external starts workers through a worker pool that somebody else runs: the
// BeamFnExternalWorkerPool service (beam_fn_api.proto) at the endpoint of a beam:env:external:v1
// environment. SDK clients with LOOPBACK serve such a pool themselves.
package external

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
)

// Config is the configuration of a Launcher; its zero value is usable.
type Config struct {
	// StartTimeout bounds reaching the pool and having it start a worker; 60 s if zero. A pool
	// that is not up yet is waited for until then.
	StartTimeout time.Duration
	// StopTimeout bounds telling the pool to stop a worker; 1 s if zero. A worker that hangs is not
	// ours to kill, and its job's end need not wait for it.
	StopTimeout time.Duration
	// Logger is told of pools that cannot be reached for the stop; nothing is logged if nil.
	Logger *slog.Logger
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.StartTimeout < 0 || c.StopTimeout < 0 {
		return fault.New(fault.Invalid, "external environments: timeouts (%v to start, %v to stop) must not be negative",
			c.StartTimeout, c.StopTimeout)
	}
	return nil
}

// Launcher starts workers through external worker pools.
type Launcher struct {
	startTimeout, stopTimeout time.Duration
	log                       *slog.Logger
}

var (
	_ environment.Launcher = (*Launcher)(nil)
	_ environment.Checker  = (*Launcher)(nil)
)

// New returns a launcher.
func New(c Config) (*Launcher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Launcher{
		startTimeout: cmp.Or(c.StartTimeout, 60*time.Second),
		stopTimeout:  cmp.Or(c.StopTimeout, time.Second),
		log:          cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
	}, nil
}

// Check implements environment.Checker.
func (l *Launcher) Check(env *pipepb.Environment) error {
	_, err := payload(env)
	return err
}

func payload(env *pipepb.Environment) (*pipepb.ExternalPayload, error) {
	p := &pipepb.ExternalPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return nil, fault.New(fault.Invalid, "environment %s: payload: %w", env.GetUrn(), err)
	}
	if p.GetEndpoint().GetUrl() == "" {
		return nil, fault.New(fault.Invalid,
			"environment %s names no worker pool: set --environment_config to its host:port", env.GetUrn())
	}
	if auth := p.GetEndpoint().GetAuthentication(); auth != nil {
		return nil, fault.New(fault.Unsupported, "environment %s: the worker pool at %s asks for authentication %q, which is not supported",
			env.GetUrn(), p.GetEndpoint().GetUrl(), auth.GetUrn())
	}
	return p, nil
}

// Launch implements environment.Launcher. The worker's Done is closed by Stop only: the protocol
// has no way to ask a pool whether a worker still runs.
func (l *Launcher) Launch(ctx context.Context, r environment.Request) (environment.Worker, error) {
	p, err := payload(r.Environment)
	if err != nil {
		return nil, err
	}
	w := &worker{launcher: l, id: r.WorkerID, pool: p.GetEndpoint().GetUrl(), done: make(chan struct{})}
	if w.conn, err = dial(w.pool); err != nil {
		return nil, err
	}
	params := maps.Clone(p.GetParams())
	if params == nil {
		params = map[string]string{}
	}
	maps.Copy(params, r.Params)
	if err := w.start(ctx, r.Endpoints, params); err != nil {
		w.conn.Close()
		return nil, err
	}
	return w, nil
}

type worker struct {
	launcher *Launcher
	id, pool string
	conn     *grpc.ClientConn
	once     sync.Once
	done     chan struct{}
}

func (w *worker) Done() <-chan struct{} { return w.done }

func (w *worker) Err() error { return nil }

func (w *worker) start(ctx context.Context, e environment.Endpoints, params map[string]string) error {
	startCtx, cancel := context.WithTimeout(ctx, w.launcher.startTimeout)
	defer cancel()
	reply, err := fnpb.NewBeamFnExternalWorkerPoolClient(w.conn).StartWorker(startCtx, &fnpb.StartWorkerRequest{
		WorkerId:          w.id,
		ControlEndpoint:   descriptor(e.Control),
		LoggingEndpoint:   descriptor(e.Logging),
		ArtifactEndpoint:  descriptor(e.Artifact),
		ProvisionEndpoint: descriptor(e.Provision),
		Params:            params,
	}, grpc.WaitForReady(true))
	switch {
	case err == nil && reply.GetError() == "":
		return nil
	case err == nil:
		return fault.New(fault.Retryable, "the worker pool at %s refuses to start worker %s: %s", w.pool, w.id, reply.GetError())
	}
	// The pool's own clock may end the call a little before ours does.
	late := startCtx.Err() != nil || status.Code(err) == codes.DeadlineExceeded
	if late {
		// It may have started the worker and only answered too late.
		w.stop(context.WithoutCancel(ctx))
	}
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Retryable, "start of worker %s by the worker pool at %s: %w: %w", w.id, w.pool, context.Cause(ctx), err)
	case late:
		return fault.New(fault.Retryable, "the worker pool at %s did not start worker %s within %v: %w", w.pool, w.id, w.launcher.startTimeout, err)
	}
	return fault.New(fault.Retryable, "start of worker %s by the worker pool at %s: %w", w.id, w.pool, err)
}

// Stop tells the pool to stop the worker. A pool that is gone, as that of a client which has
// ended, has taken its workers along: no failure to reach it is an error. Because nothing but this
// call ends a worker in a pool that lives on, it is made even if ctx has ended already.
func (w *worker) Stop(ctx context.Context) error {
	w.once.Do(func() {
		if ctx.Err() != nil {
			ctx = context.WithoutCancel(ctx)
		}
		w.stop(ctx)
		w.conn.Close()
		close(w.done)
	})
	return nil
}

func (w *worker) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.launcher.stopTimeout)
	defer cancel()
	reply, err := fnpb.NewBeamFnExternalWorkerPoolClient(w.conn).StopWorker(ctx, &fnpb.StopWorkerRequest{WorkerId: w.id})
	if err == nil && reply.GetError() != "" {
		err = errors.New(reply.GetError())
	}
	if err != nil {
		w.launcher.log.Debug("worker pool did not stop a worker", "pool", w.pool, "worker", w.id, "err", err)
	}
}

// dial returns what connects to a pool as it is called: the two calls of a worker's life may be days apart.
func dial(pool string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(pool,
		grpc.WithIdleTimeout(10*time.Second),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), // which is asked of the name server first, wherever that is
		grpc.WithNoProxy())              // pools are neighbours; a proxy for the internet cannot reach them
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", pool, err)
	}
	return conn, nil
}

func descriptor(url string) *pipepb.ApiServiceDescriptor {
	return &pipepb.ApiServiceDescriptor{Url: url}
}
