package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/tracing"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/jobservice/filerecords"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/web/jobcontrol"
	"github.com/lintelrun/lintel/web/metrics"
	"github.com/lintelrun/lintel/web/rest"
)

// serverConfig is what a server in this process is made from.
type serverConfig struct {
	bind              string // host of all listeners
	jobPort, httpPort int    // 0: any free one
	dataDir           string
	parallelism       int   // tasks of a stage, 0: one a CPU
	memoryBudget      int64 // bytes, 0: the worker's default
	stateBackend      string
	checkpoints       checkpointConfig
	environments      environmentConfig
	tracing           traceConfig
	userSeries        int // of running jobs' own metrics, at most
	// How long jobs are remembered, 0: the job service's defaults.
	jobRetention, preparedRetention time.Duration
	log                             *slog.Logger
}

// server is coordinator, worker, Job API and HTTP in one process. Fields are in the
// order of their start; they are stopped the other way round.
type server struct {
	log       *slog.Logger
	lock      *dataLock
	tracing   *tracing.Provider // nil if spans go nowhere
	artifacts *artifact.Service
	fn        *fnapi.Server
	runner    *runner
	records   *filerecords.Records
	service   *jobservice.Service
	jobs      *grpc.Server
	http      *http.Server

	jobAddress, httpAddress string
	state                   atomic.Pointer[string] // why it isn't ready, nil once it is
	serving                 int                    // servers that will report to failed
	failed                  chan error             // one per server: how its Serve ended
}

// startServer brings everything up and returns once it takes jobs. On an error
// nothing is left running.
func startServer(c serverConfig) (s *server, err error) {
	s = &server{log: c.log, failed: make(chan error, 3)}
	s.state.Store(new("starting"))
	defer func() {
		if err != nil {
			s.stop(context.Background())
			s = nil
		}
	}()
	if s.lock, err = lockData(c.dataDir); err != nil {
		return s, err
	}
	jobListener, err := listen("job", c.bind, c.jobPort)
	if err != nil {
		return s, err
	}
	defer closeUnlessServed(&err, jobListener)
	httpListener, err := listen("http", c.bind, c.httpPort)
	if err != nil {
		return s, err
	}
	defer closeUnlessServed(&err, httpListener)
	s.jobAddress, s.httpAddress = jobListener.Addr().String(), httpListener.Addr().String()
	if err := s.assemble(c); err != nil {
		return s, err
	}
	s.serve("Fn API", s.fn.Serve)
	s.serve("Job API", func() error { return s.jobs.Serve(jobListener) })
	s.serve("HTTP", func() error { return s.http.Serve(httpListener) })
	s.state.Store(nil)
	return s, nil
}

// assemble makes all parts; only the Fn API listens yet.
func (s *server) assemble(c serverConfig) (err error) {
	b := readBuild()
	if err := s.startTracing(c); err != nil {
		return err
	}
	reg := metrics.NewRegistry(b.Version, b.Revision, b.Go)
	if s.artifacts, err = artifact.New(artifact.Config{Dir: filepath.Join(c.dataDir, "artifacts"), Logger: c.log}); err != nil {
		return err
	}
	if s.fn, err = fnapi.NewServer(fnapi.Config{
		Listen: net.JoinHostPort(c.bind, "0"), AdvertisedHost: c.environments.advertisedHost, Logger: c.log,
		QueueBytes: queueBytes(c.memoryBudget),
	}); err != nil {
		return err
	}
	s.artifacts.RegisterRetrieval(s.fn.Registrar())
	if s.runner, err = newRunner(c, s.fn, metrics.New(reg), s.tracer()); err != nil {
		return err
	}
	metrics.RegisterHarnesses(reg, s.runner.harnesses)
	if s.records, err = filerecords.Open(filepath.Join(c.dataDir, "jobs")); err != nil {
		return err
	}
	config := jobservice.Config{
		MaxMessageBytes: messageBytes(c.memoryBudget),
		Logger:          c.log, Endpoint: s.jobAddress, Options: options.Descriptors(), Records: s.records,
		Tracer:       s.tracer(),
		JobRetention: c.jobRetention, PreparedRetention: c.preparedRetention,
	}
	if s.service, err = jobservice.New(config, s.runner.plan, s.runner.executor, s.artifacts); err != nil {
		return err
	}
	s.jobs = grpc.NewServer(config.ServerOptions()...)
	s.service.Register(s.jobs)
	jobcontrol.Register(s.jobs, s.service)
	metrics.RegisterJobs(reg, restJobs{s.service}.byState)
	metrics.RegisterCheckpointAges(reg, s.service.CheckpointAges)
	metrics.RegisterUserMetrics(reg, c.userSeries, restJobs{s.service}.running)
	s.http, err = rest.New(rest.Config{Jobs: restJobs{s.service}, Gatherer: reg, Ready: s.ready, Version: b, Logger: c.log})
	return err
}

func (s *server) serve(name string, serve func() error) {
	s.serving++
	go func() {
		err := serve()
		if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
			err = nil
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		s.failed <- err
	}()
}

func (s *server) ready() error {
	if why := s.state.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// stop cancels all jobs, ends all harnesses and then everything else. Once ctx ends
// it stops being patient. It returns when nothing is left.
func (s *server) stop(ctx context.Context) {
	s.state.Store(new("stopping"))
	note := func(what string, err error) {
		if err != nil {
			s.log.Warn("not stopped cleanly", "part", what, "error", err)
		}
	}
	if s.service != nil {
		note("jobs", s.service.Close(ctx))
	}
	if s.runner != nil {
		note("harnesses", s.runner.close(ctx))
	}
	if s.jobs != nil {
		stopGently(ctx, s.jobs)
	}
	if s.fn != nil {
		s.fn.Stop()
	}
	if s.http != nil {
		if err := s.http.Shutdown(ctx); err != nil {
			note("http", s.http.Close())
		}
	}
	for ; s.serving > 0; s.serving-- {
		s.log.Debug("a server has ended", "error", <-s.failed)
	}
	if s.artifacts != nil {
		note("artifacts", s.artifacts.Close())
	}
	if s.records != nil {
		note("job records", s.records.Close())
	}
	if s.tracing != nil {
		note("tracing", s.tracing.Shutdown())
	}
	if s.lock != nil {
		note("lock", s.lock.release())
	}
}

// stopGently lets calls end, which they do soon as the jobs have; those that don't are cut.
func stopGently(ctx context.Context, g *grpc.Server) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, g.Stop)()
	g.GracefulStop()
}

// listen opens a port; flag names it in messages.
func listen(flag, host string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s port %d on %s is in use, perhaps by another lintel dev; stop that, or choose another port by --%s-port (0 takes any free one)",
			flag, port, host, flag)
	case err != nil:
		return nil, fmt.Errorf("%s port %d on %s: %w", flag, port, host, err)
	}
	return l, nil
}

func closeUnlessServed(failed *error, l net.Listener) {
	if *failed != nil {
		l.Close()
	}
}
