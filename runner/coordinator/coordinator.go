// Package coordinator leads jobs: it decides how parallel they run, gives their
// tasks to workers, has checkpoints taken, starts jobs again after failures and
// follows them to their end.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/checkpointing"
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
	// Checkpoints is where jobs put them; nil if they can't take any here.
	Checkpoints *Checkpoints
	// Logger for the operator; default slog.Default.
	Logger *slog.Logger
}

// Checkpoints is where checkpoints and savepoints are kept.
type Checkpoints struct {
	// Store has a folder for each job, by its id.
	Store checkpointing.Store
	// Interval of jobs with unbounded input that name none; default 10 s.
	Interval time.Duration
	// Savepoints opens the folder that a savepoint's URI names; nil allows none. Errors are of class
	// fault.Invalid where the URI isn't one that may be used.
	Savepoints func(ctx context.Context, uri string) (SavepointStore, error)
	// Dir is for files of savepoints on their way.
	Dir string
}

// SavepointStore is the folder of one savepoint, to be closed.
type SavepointStore interface {
	checkpointing.Store
	io.Closer
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
	return c.Checkpoints.validate()
}

func (c *Checkpoints) validate() error {
	switch {
	case c == nil:
		return nil
	case c.Store == nil:
		return errors.New("coordinator: Config.Checkpoints needs a Store")
	case c.Interval < 0:
		return fmt.Errorf("coordinator: an interval of %v between checkpoints", c.Interval)
	case c.Interval == 0:
		c.Interval = 10 * time.Second
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
	// ID is unique and fit for file names; Name is the user's.
	ID, Name string
	Plan     *plan.Plan
	// Pipeline as submitted, with the dependencies that were staged in its environments.
	Pipeline *pipepb.Pipeline
	Options  *structpb.Struct
	// Submitted is when.
	Submitted time.Time
	// RetrievalToken that harnesses get.
	RetrievalToken string
	// Resumed is true for a job that ran in an earlier process; AtLeast is the newest checkpoint that it is
	// known to have, 0 for none.
	Resumed bool
	AtLeast uint64
	// Log receives the job's log; see rpc.Deployment.
	Log func(rpc.Message)
	// Checkpoint, if not nil, gets each that has ended. A complete one is durable and
	// nobody knows of it until the call returns: what it notes for AtLeast is never too new. Not
	// called concurrently.
	Checkpoint func(Checkpoint)
}

// Checkpoint is one that is complete or came to nothing.
type Checkpoint struct {
	// Epoch is 0 where there was no store to claim one from.
	Epoch, Generation uint64
	// Savepoint is the URI of what was asked for, "" for a checkpoint.
	Savepoint    string
	Began, Ended time.Time
	// Bytes of all its files, and of those that were uploaded for it.
	Bytes, NewBytes int64
	// Err is why it came to nothing; nil if it is complete.
	Err error
}

// Start begins a job. It ends when it is done, fails for good or ctx is cancelled. A job with
// checkpoints goes on from its newest one, if it has any.
func (c *Coordinator) Start(ctx context.Context, s Spec) (*Job, error) {
	o, err := options.Read(s.Options)
	if err != nil {
		return nil, err
	}
	takes, err := c.Takes(o, s.Plan.Bounded())
	if err != nil {
		return nil, err
	}
	if s.Resumed && !takes {
		return nil, fault.New(fault.Unsupported, "the job had checkpoints, and this server takes none")
	}
	if takes && !s.Plan.Snapshots() {
		return nil, fault.New(fault.Internal, "the plan is not one for checkpoints, which the job takes (portable.Options.Checkpoints)")
	}
	d, err := c.deployment(s, o)
	if err != nil {
		return nil, err
	}
	j := &Job{c: c, spec: s, options: o, deployment: d, restarts: newRestarts(o.Restart), done: make(chan struct{})}
	if takes {
		if err := j.prepare(); err != nil {
			return nil, err
		}
	}
	g, err := j.begin(ctx)
	if err != nil && s.Resumed {
		g, err = j.again(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	go j.lead(ctx, g)
	return j, nil
}

// Takes tells whether a job with these options takes checkpoints, and so goes on after a failure. Options
// that would do nothing are refused: as fault.Unsupported by a server that takes no checkpoints, as
// fault.Invalid for a job that takes none.
func (c *Coordinator) Takes(o *options.Options, bounded bool) (bool, error) {
	takes := o.Checkpoints.Interval > 0 || o.RestoreFrom != "" || o.Updates() || !bounded && !o.Checkpoints.Off
	given := strings.Join(o.NeedCheckpoints(), ", ")
	switch {
	case c.cfg.Checkpoints == nil && given != "":
		return false, fault.New(fault.Unsupported, "pipeline option %s: this server takes no checkpoints; run the job without the option", given)
	case c.cfg.Checkpoints == nil:
		return false, nil
	case !takes && given != "":
		return false, fault.New(fault.Invalid, "pipeline option %s is for jobs with checkpoints, and this one takes none: set checkpoint_interval too", given)
	}
	return takes, nil
}

// deployment returns what all runs of a job have in common.
func (c *Coordinator) deployment(s Spec, o *options.Options) (rpc.Deployment, error) {
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
		return d, fault.New(fault.Invalid, "parallelism %d is more than this server's maximum of %d", n, c.cfg.MaxParallelism)
	}
	for id := range s.Plan.Environments {
		d.Dependencies[id] = s.Pipeline.GetComponents().GetEnvironments()[id].GetDependencies()
	}
	return d, nil
}

// Forget removes all checkpoints of a job that has ended for good.
func (c *Coordinator) Forget(ctx context.Context, id string) error {
	if c.cfg.Checkpoints == nil {
		return nil
	}
	folder, err := checkpointing.Folder(c.cfg.Checkpoints.Store, id)
	if err != nil {
		return err
	}
	return checkpointing.Remove(ctx, checkpointing.Config{Store: folder, Logger: c.cfg.Logger.With("job", id)})
}
