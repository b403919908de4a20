// Package worker runs tasks: each has an owner goroutine around its pure core,
// which speaks to SDK harnesses, other tasks and the disk.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/machine"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend"
)

// DefaultMemoryBytes is the budget of Config.MemoryBytes unless it says otherwise.
const DefaultMemoryBytes = 512 << 20

// LeastMemoryBytes is the least that Config.MemoryBytes may be.
const LeastMemoryBytes = 16 << 20

// Config of a Worker. Server, Launcher and State are needed; the rest has defaults.
type Config struct {
	// Server is where harnesses connect.
	Server *fnapi.Server
	// Launcher starts harnesses.
	Launcher environment.Launcher
	// State keeps user state.
	State statebackend.Backend
	// Dir is for spilled data; it must exist. Default: the system's temporary folder.
	Dir string
	// MemoryBytes is the budget of all that jobs may hold in memory before they
	// spill; those that run at once share it. Default DefaultMemoryBytes.
	MemoryBytes int64
	// HeldBytes bounds what a task whose input has to be stable holds until there is a checkpoint, and lets come nevertheless:
	// what is beyond slows those who send it. Past the memory budget it is on disk. Default 64 MiB.
	HeldBytes int
	// Unfinalized is how many bundles of a task may wait for the checkpoint with which they are finalised, but for those under
	// way. No others start then: SDKs keep things for each of them, and sources what they have read. Default 2,000.
	Unfinalized int
	// ConnectTimeout is how long a launched harness may take to connect; default 2 minutes.
	ConnectTimeout time.Duration
	// RestartDelay is how long a harness waits that replaces the second of two which were lost in a row, before any
	// bundle was done; each further one waits twice as long. Default 250 ms.
	RestartDelay time.Duration
	// Attempts of a bundle before its job fails; default 4.
	Attempts int
	// Splits says when running bundles are split for idle tasks.
	Splits Splits
	// Checkpoints says when bundles of unbounded splittable DoFns are interrupted.
	Checkpoints Checkpoints
	// Uploads says how snapshots go to the store of checkpoints.
	Uploads Uploads
	// Processors returns how long the machine's processors have been idle and have been
	// there, both in all: stages run more bundles at once when processors are idle while
	// their bundles take long. Default: what Linux says; after errors nothing is known.
	Processors func() (idle, total time.Duration, err error)
	// Process finds the process of a harness by its end of a connection: where it asks for
	// little while bundles take long, stages run more of them too. Default: what Linux says
	// of processes of this machine; after errors nothing is known.
	Process func(peer net.Addr) (Process, error)
	// Logger for the operator; default slog.Default.
	Logger *slog.Logger
	// Hooks watch the work.
	Hooks Hooks
	// Tracer makes spans of deployments, stages and bundles, below what the context of
	// Deploy has; nil for none, which costs nothing.
	Tracer trace.Tracer
	// TraceBundles is of how many bundles of a stage one gets a span; default 100.
	// Those that fail have one always.
	TraceBundles int
}

// Splits says when running bundles are split for idle tasks.
type Splits struct {
	// After is how long a bundle runs before it may be split; default 500 ms.
	After time.Duration
	// LookEvery is how often a task that runs bundles looks whether others are
	// idle; default 250 ms.
	LookEvery time.Duration
	// StuckAfter is when a bundle counts as waiting and not as busy; default 2 s.
	StuckAfter time.Duration
	// Timeout is how long a harness may take to answer; default 30 s. What it
	// gives away in an answer after that would be lost, so the bundle fails then.
	Timeout time.Duration
}

// Checkpoints says how long bundles of unbounded splittable DoFns run before they
// are interrupted, so that their output can be committed: between Least (default
// 10 ms) and Most (default 1 s), by what it costs and yields.
type Checkpoints struct{ Least, Most time.Duration }

func (c *Checkpoints) setDefaults() {
	if c.Least == 0 {
		c.Least = 10 * time.Millisecond
	}
	if c.Most == 0 {
		c.Most = max(time.Second, c.Least)
	}
}

func (s *Splits) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&s.After, 500 * time.Millisecond}, {&s.LookEvery, 250 * time.Millisecond},
		{&s.StuckAfter, 2 * time.Second}, {&s.Timeout, 30 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// Hooks are called as work goes on, from many goroutines; nil ones are skipped.
type Hooks struct {
	// BundleDone is called for each attempt of a bundle.
	BundleDone func(ok bool, elements, inputBytes, outputBytes int, took time.Duration)
	// Spilled is called with bytes written to disk.
	Spilled func(bytes int64)
	// Idle is called when the last running job has ended and let go of all that it had.
	Idle func()
}

// Validate fills in the defaults, or says what is wrong.
func (c *Config) Validate() error {
	if c.Server == nil || c.Launcher == nil || c.State == nil {
		return errors.New("worker: Config needs Server, Launcher and State")
	}
	if c.Dir == "" {
		c.Dir = os.TempDir()
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = DefaultMemoryBytes
	}
	if c.MemoryBytes < LeastMemoryBytes {
		return fmt.Errorf("worker: a memory budget of %d bytes is too small, %d are the least", c.MemoryBytes, LeastMemoryBytes)
	}
	if c.HeldBytes == 0 {
		c.HeldBytes = 64 << 20
	}
	if c.Unfinalized == 0 {
		c.Unfinalized = 2000
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 2 * time.Minute
	}
	if c.RestartDelay == 0 {
		c.RestartDelay = 250 * time.Millisecond
	}
	if c.Attempts == 0 {
		c.Attempts = 4
	}
	c.Splits.setDefaults()
	c.Checkpoints.setDefaults()
	if c.TraceBundles == 0 {
		c.TraceBundles = 100
	}
	if c.TraceBundles < 0 {
		return fmt.Errorf("worker: one bundle in %d can't be traced", c.TraceBundles)
	}
	if c.Processors == nil {
		c.Processors = machine.Processors
	}
	if c.Process == nil {
		c.Process = func(peer net.Addr) (Process, error) { return machine.Peer(peer) }
	}
	if c.Uploads.AtOnce == 0 {
		c.Uploads.AtOnce = 4
	}
	if c.Uploads.AtOnce < 0 || c.Uploads.BytesPerSecond < 0 {
		return fmt.Errorf("worker: %d uploads at once of %d bytes a second, neither may be negative", c.Uploads.AtOnce, c.Uploads.BytesPerSecond)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Hooks.BundleDone == nil {
		c.Hooks.BundleDone = func(bool, int, int, int, time.Duration) {}
	}
	if c.Hooks.Spilled == nil {
		c.Hooks.Spilled = func(int64) {}
	}
	if c.Hooks.Idle == nil {
		c.Hooks.Idle = func() {}
	}
	return nil
}

// Worker runs the tasks it is given. Safe for concurrent use.
type Worker struct {
	cfg     Config
	jobs    atomic.Int64 // that run
	uploads *uploadLimit
}

// New returns a worker.
func New(cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Worker{cfg: cfg, uploads: newUploadLimit(cfg.Uploads)}, nil
}

// Deploy starts all tasks of d and returns at once. The execution ends when its
// tasks are done, one of them fails or ctx ends.
func (w *Worker) Deploy(ctx context.Context, d rpc.Deployment) (rpc.Execution, error) {
	if d.Parallelism < 1 || d.Harnesses < 1 {
		return nil, fault.New(fault.Invalid, "job %s: parallelism %d and %d harnesses, both must be at least 1", d.JobID, d.Parallelism, d.Harnesses)
	}
	if err := checkPlan(&d); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(w.cfg.Dir, filepath.Base(d.JobID)+"-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for spilled data: %w", err)
	}
	w.jobs.Add(1)
	e := newExecution(w.cfg, d, dir, &w.jobs)
	e.spans = e.newSpans(ctx)
	if e.checkpoints != nil {
		e.checkpoints.limit = w.uploads
	}
	go e.run(ctx)
	return e, nil
}
