package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/runner/worker"
)

const (
	defaultJobPort  = 8099
	defaultHTTPPort = 8100
	defaultDataDir  = "./.lintel"
	// patience is how long running jobs and calls have to end when a server stops;
	// all of it, harnesses included, is over within 10 s.
	patience = 8 * time.Second
)

// devFlags are the flags of lintel dev.
type devFlags struct {
	jobPort, httpPort  int
	bind, dataDir      string
	insecure           bool
	parallelism        int
	memory             size
	jobRetention       time.Duration
	preparedRetention  time.Duration
	environments       *environmentFlags
	tracing            *traceConfig
	userSeries         int
	stateBackend       *choice
	checkpoints        *checkpointConfig
	logLevel, logStyle *choice
	readyFile          string
	cpuProfile         string
}

func newDev() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Start a server on this machine: everything in one process",
		Long: `Start a server on this machine: Job API, planner, workers and HTTP in one process.

It prints "ready" on a line of its own once it takes jobs. The first Ctrl-C (or SIGTERM)
cancels all jobs but those with checkpoints, which go on at the next start, says so of
each on standard error, and stops within 10 s; the second stops at once.`,
		Args: exactly(cobra.NoArgs),
	}
	var f devFlags
	fs := cmd.Flags()
	fs.IntVar(&f.jobPort, "job-port", defaultJobPort, "port of the Beam Job API; 0 takes any free one")
	fs.IntVar(&f.httpPort, "http-port", defaultHTTPPort, "port of HTTP; 0 takes any free one")
	fs.StringVar(&f.bind, "bind", "127.0.0.1", "address to listen on")
	fs.BoolVar(&f.insecure, "insecure", false, "allow --bind to addresses that other machines reach: anyone there can run code here")
	fs.StringVar(&f.dataDir, "data-dir", defaultDataDir, "directory of job records, artifacts and spilled data")
	fs.IntVar(&f.parallelism, "parallelism", 0, "tasks of a stage; 0 means one a CPU")
	fs.Var(&f.memory, "memory-budget", "memory that data of running jobs may take before it goes to disk, such as 512M or 2G; 0 means the default")
	fs.DurationVar(&f.jobRetention, "job-retention", 168*time.Hour, "how long a job is remembered after its end")
	fs.DurationVar(&f.preparedRetention, "prepared-retention", time.Hour, "how long a submitted job may wait to be run before it is forgotten")
	fs.StringVar(&f.readyFile, "ready-file", "", "file to write the addresses to, as JSON, once the server takes jobs")
	fs.StringVar(&f.cpuProfile, "cpu-profile", "", "file to write a CPU profile of the server to, for go tool pprof, until it stops")
	fs.IntVar(&f.userSeries, "metrics-user-series", 1000, "how many series of running jobs' own metrics /metrics shows at most")
	f.checkpoints = checkpointFlags(fs)
	f.environments = addEnvironmentFlags(cmd)
	f.tracing = addTraceFlags(cmd)
	f.stateBackend = choiceFlag(cmd, "state-backend", "", "where user state is kept: in memory, in files under the data directory (pebble), or in memory until it is too large (auto)", stateTiered, stateInMemory, stateInPebble)
	f.logLevel = choiceFlag(cmd, "log-level", "", "least level of the server's log", "info", "debug", "warn", "error")
	f.logStyle = choiceFlag(cmd, "log-format", "", "format of the server's log, on standard error", "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func (f *devFlags) check() error {
	switch {
	case f.jobPort < 0 || f.jobPort > 65535:
		return fmt.Errorf("--job-port %d: want 0 to 65535", f.jobPort)
	case f.httpPort < 0 || f.httpPort > 65535:
		return fmt.Errorf("--http-port %d: want 0 to 65535", f.httpPort)
	case f.parallelism < 0:
		return fmt.Errorf("--parallelism %d: want 0 or more", f.parallelism)
	case f.jobRetention <= 0:
		return fmt.Errorf("--job-retention %v: want more than 0", f.jobRetention)
	case f.preparedRetention <= 0:
		return fmt.Errorf("--prepared-retention %v: want more than 0", f.preparedRetention)
	case f.memory != 0 && f.memory < worker.LeastMemoryBytes:
		return fmt.Errorf("--memory-budget %s: want %s or more", &f.memory, asSize(worker.LeastMemoryBytes))
	case f.userSeries < 0:
		return fmt.Errorf("--metrics-user-series %d: want 0 or more", f.userSeries)
	case !isLoopback(f.bind) && !f.insecure:
		return fmt.Errorf("--bind %s: other machines would reach this server, which asks nobody who they are and runs the code they send; "+
			"bind to 127.0.0.1, or say --insecure if the network is yours alone", f.bind)
	}
	return errors.Join(f.checkpoints.check(), f.tracing.check())
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (f *devFlags) run(ctx context.Context, out, logs io.Writer) error {
	if err := f.check(); err != nil {
		return usageError(err)
	}
	environments, err := f.environments.config(f.bind)
	if err != nil {
		return usageError(err)
	}
	stopProfile, err := startProfile(f.cpuProfile)
	if err != nil {
		return err
	}
	err = f.serve(ctx, environments, out, logs)
	return errors.Join(err, stopProfile())
}

// serve runs the server until ctx ends or a part of it fails.
func (f *devFlags) serve(ctx context.Context, environments environmentConfig, out, logs io.Writer) error {
	log := newLog(logs, f.logLevel.value, f.logStyle.value)
	limitMemory(int64(f.memory), log)
	s, err := startServer(serverConfig{
		bind: f.bind, jobPort: f.jobPort, httpPort: f.httpPort, dataDir: f.dataDir,
		parallelism: f.parallelism, memoryBudget: int64(f.memory), stateBackend: f.stateBackend.value,
		checkpoints:  *f.checkpoints,
		jobRetention: f.jobRetention, preparedRetention: f.preparedRetention,
		environments: environments,
		tracing:      *f.tracing,
		userSeries:   f.userSeries,
		log:          log,
	})
	if err != nil {
		return err
	}
	if err := f.announce(s, out); err != nil {
		s.stopWithin(patience)
		return err
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "stopping: jobs are being cancelled, but for those with checkpoints; Ctrl-C again stops at once")
	case err = <-s.failed:
		s.serving--
		err = errors.Join(errors.New("a part of the server ended by itself"), err)
	}
	s.stopWithin(patience)
	if f.readyFile != "" {
		err = errors.Join(err, os.Remove(f.readyFile))
	}
	return err
}

func (s *server) stopWithin(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	s.stop(ctx)
}

// newLog makes a logger; level and style are values of the flags of lintel dev.
func newLog(w io.Writer, level, style string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		panic(err) // the flag takes no other names
	}
	options := &slog.HandlerOptions{Level: l}
	if style == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
