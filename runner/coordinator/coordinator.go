// Package coordinator leads jobs: it decides how parallel they run, gives their
// tasks to workers and follows them to their end.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// Config of a Coordinator. Worker is needed.
type Config struct {
	// Worker runs the tasks.
	Worker rpc.Worker
	// Parallelism of stages where the job names none; default GOMAXPROCS.
	Parallelism int
	// MaxParallelism that a job may ask for; default 256.
	MaxParallelism int
	// Logger for the operator; default slog.Default.
	Logger *slog.Logger
}

// Validate fills in the defaults, or says what is wrong.
func (c *Config) Validate() error {
	if c.Worker == nil {
		return errors.New("coordinator: Config needs a Worker")
	}
	if c.Parallelism == 0 {
		c.Parallelism = runtime.GOMAXPROCS(0)
	}
	if c.MaxParallelism == 0 {
		c.MaxParallelism = 256
	}
	if c.Parallelism < 1 || c.Parallelism > c.MaxParallelism {
		return fmt.Errorf("coordinator: parallelism %d is not between 1 and %d", c.Parallelism, c.MaxParallelism)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Coordinator runs jobs. Safe for concurrent use.
type Coordinator struct {
	cfg Config
}

// New returns a coordinator.
func New(cfg Config) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Coordinator{cfg: cfg}, nil
}

// Spec is a job to run. Nothing in it is changed.
type Spec struct {
	// ID is unique and fit for file names.
	ID   string
	Plan *plan.Plan
	// Environments of the pipeline with the dependencies that were staged.
	Environments map[string]*pipepb.Environment
	Options      *structpb.Struct
	// RetrievalToken that harnesses get.
	RetrievalToken string
	// Log receives the job's log; see rpc.Deployment.
	Log func(rpc.Message)
}

// Start begins a job. It ends when it is done, fails or ctx is cancelled.
func (c *Coordinator) Start(ctx context.Context, s Spec) (rpc.Execution, error) {
	o, err := options.Read(s.Options)
	if err != nil {
		return nil, err
	}
	d := rpc.Deployment{
		JobID:          s.ID,
		Generation:     1,
		Plan:           s.Plan,
		Parallelism:    c.cfg.Parallelism,
		Options:        s.Options,
		RetrievalToken: s.RetrievalToken,
		Dependencies:   map[string][]*pipepb.ArtifactInformation{},
		Log:            s.Log,
	}
	if o.Parallelism > 0 {
		d.Parallelism = o.Parallelism
	}
	d.Harnesses = d.Parallelism
	if o.SDKWorkerParallelism > 0 {
		d.Harnesses = o.SDKWorkerParallelism
	}
	if n := max(d.Parallelism, d.Harnesses); n > c.cfg.MaxParallelism {
		return nil, fault.New(fault.Invalid, "parallelism %d is more than this server's maximum of %d", n, c.cfg.MaxParallelism)
	}
	for id := range s.Plan.Environments {
		d.Dependencies[id] = s.Environments[id].GetDependencies()
	}
	c.cfg.Logger.Info("job deployed", "job", s.ID, "stages", len(s.Plan.Stages), "parallelism", d.Parallelism)
	return c.cfg.Worker.Deploy(ctx, d)
}
