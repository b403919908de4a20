package jobservice

import (
	"context"
	"errors"
	"log/slog"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/portable/plan"
)

// Planner turns a pipeline into something the executor can run. It must be safe
// for concurrent use and must not change its arguments. Its errors refuse the
// job at Prepare: fault.Invalid gives INVALID_ARGUMENT, fault.Unsupported
// FAILED_PRECONDITION, each with the error's text. It should end soon after ctx has.
type Planner func(ctx context.Context, p *pipepb.Pipeline, options *structpb.Struct) (*plan.Plan, error)

// Executor runs jobs. It must be safe for concurrent use.
type Executor interface {
	// Start begins a job; it may block while workers come up. Cancelling ctx
	// cancels the job, during Start and after. An error fails the job with its text.
	Start(ctx context.Context, job Job, sink Sink) (Run, error)
	// Survives tells whether a job takes checkpoints: when the process ends without it, it
	// is started again by the next one, as Resumed.
	Survives(job Job) bool
	// Forget removes what is kept for a job to go on with. The job has ended for good.
	Forget(ctx context.Context, id string) error
	// SavepointURI returns where a savepoint of a job goes for which a URI was given, or "". The error is
	// a fault.Invalid if it can't go there.
	SavepointURI(id, uri string) (string, error)
	// CheckUpdate returns why a job can't go on with the state of another, which runs: a
	// fault.Invalid that names all that stands in the way.
	CheckUpdate(running, next Job) error
}

// ErrStopped is what Run.Wait returns, or wraps, for a job that Run.Stop has ended.
var ErrStopped = errors.New("stopped with a savepoint")

// Savepoint is one that is complete.
type Savepoint struct {
	// URI is where it is, and Bytes what it takes there.
	URI   string
	Bytes int64
}

// Run is a job that the executor has started. Methods may be called concurrently.
type Run interface {
	// Wait returns once nothing of the job runs any more, harnesses included:
	// nil if it is done, context.Canceled (or what wraps it) if ctx was
	// cancelled; any other error fails the job, and its text, with the user's
	// exception and stack, is what clients show.
	Wait() error
	// Drain asks the job to come to an end without loss: its sources stop, and what
	// they have given flows out. Wait returns once that is done. It returns at once,
	// and may be called again.
	Drain()
	// Savepoint takes one, and returns when it is complete at the URI. The job goes on.
	Savepoint(ctx context.Context, uri string) (Savepoint, error)
	// Stop ends the job with a savepoint, after which nothing leaves it, and Wait returns ErrStopped. With drain
	// the job is drained first, and Wait returns as it does then. Stop returns when the savepoint is complete, or
	// comes to nothing; without drain the job then goes on. It does not stay behind when the job has ended.
	Stop(ctx context.Context, uri string, drain bool) (Savepoint, error)
	// Metrics returns the values so far, labelled with the pipeline's own
	// transform names; committed ones count successful bundles only. They hold
	// after Wait too. The caller may keep the messages but not change them.
	Metrics() (attempted, committed []*pipepb.MonitoringInfo)
}

// Job is what an executor gets to run. Nothing in it may be changed.
type Job struct {
	// ID is unique, of a–z, 0–9 and '-': fit for file names.
	ID string
	// Name is the user's, for people.
	Name string
	Plan *plan.Plan
	// Pipeline as submitted, but with environments whose dependencies are those staged.
	Pipeline *pipepb.Pipeline
	// Options as submitted; never nil.
	Options *structpb.Struct
	// RetrievalToken for ProvisionInfo, never empty. It also is the token by
	// which artifact.Service gives the dependencies of an environment.
	RetrievalToken string
	// Submitted is when it was prepared.
	Submitted time.Time
	// Resumed is true for a job that ran in an earlier process, and AtLeast is the newest
	// complete checkpoint that the sink was told of, 0 for none.
	Resumed bool
	AtLeast uint64
	// RestoreFrom is the savepoint with which the job that this one replaces was stopped, "" if it
	// replaces none. It begins with that as with pipeline option restore_from.
	RestoreFrom string
}

// Sink takes what an executor has to tell about a job. Methods may be called
// concurrently, never block for long, and do nothing once the job has ended.
type Sink interface {
	// Message adds to the job's log, for what users should read: runner's news
	// and harness logs. Clients take an error-level message of the Job API for
	// the reason of a failure, so they see error-level messages of this call as
	// warnings; the reason is what Start or Wait returns.
	Message(level slog.Level, text string)
	// HarnessMessage adds what an SDK harness logged. Such messages are in the
	// job's log, but clients of the Job API get them only on demand; see HarnessLogs.
	HarnessMessage(level slog.Level, text string)
	// Running tells that the job's workers are ready and data begins to flow.
	Running()
	// Checkpoint adds to the job's list of checkpoints. A complete one is durable there when it
	// returns, unless the record is broken. Calls come one after the other.
	Checkpoint(c Checkpoint)
}
