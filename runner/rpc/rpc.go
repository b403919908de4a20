// Package rpc is what a coordinator and its workers say to each other. Today
// both live in one process and pass these values by reference.
package rpc

import (
	"context"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/plan"
)

// Deployment asks a worker to run the tasks of a job.
type Deployment struct {
	JobID string
	// Generation numbers the runs of a job, from 1, for fencing older ones.
	Generation uint64
	Plan       *plan.Plan
	// Parallelism is the number of tasks of a stage that names none.
	Parallelism int
	// Harnesses is the number of harness processes of an environment whose SDK
	// runs bundles on one core only.
	Harnesses int
	// Options, RetrievalToken and Dependencies (by environment id) are handed to
	// harnesses by the provision service.
	Options        *structpb.Struct
	RetrievalToken string
	Dependencies   map[string][]*pipepb.ArtifactInformation
	// Log receives what harnesses and tasks have to tell the user. Never nil;
	// safe for concurrent use; must not block.
	Log func(Message)

	// Checkpoints is where snapshots go; nil for a job that takes no checkpoints, which runs without
	// all that barriers need.
	Checkpoints Uploads
	// Restore is what the tasks begin with; nil: from the beginning. Nil without Checkpoints.
	Restore *Restore
}

// Severity of a message, from Debug to Error.
type Severity int

// Severities of messages in a job's log.
const (
	Debug Severity = iota
	Info
	Warn
	Error
)

// Message is a line of a job's log.
type Message struct {
	Severity Severity
	// Source names who says it: a harness and transform, or a stage.
	Source string
	// Harness is true for what an SDK harness logged or printed.
	Harness bool
	Text    string
}

// Execution is a deployment that runs. Safe for concurrent use.
type Execution interface {
	// Wait returns when all tasks are done and the job's harnesses are gone, or told to go by who runs them:
	// nil, the error that failed the first task, or the context's error.
	Wait() error
	// Drain asks the job to come to an end without loss: sources stop, what they
	// have given is processed, and windows close. It returns at once; asking twice is
	// asking once.
	Drain()
	// Metrics returns what bundles reported: committed ones only, and with those in flight.
	Metrics() (attempted, committed []*pipepb.MonitoringInfo)

	// The rest is for deployments with Checkpoints.

	// Restored returns once all tasks have the state of Deployment.Restore, at once if there is
	// none; or with the error that kept one from it, which ends the execution: of class
	// fault.Corruption where what was read is damaged.
	Restored() error
	// Barrier announces an epoch: sources put its barrier into what they send, and each task answers once
	// all of its channels have delivered it. Epochs come in ascending order, not every number, after
	// Restored; several may be under way. It returns at once.
	// That of a savepoint comes after Quiet: tasks hold back until they have the barrier, or if they are to stay
	// until Resume.
	Barrier(b protocol.Begun)
	// Concluded tells, once for each epoch that was announced, how it has ended: it is durable, or it comes to
	// nothing and needs no answers any more. Barriers of such an epoch travel on, since
	// channels carry every epoch in order. Of epochs under way when the execution ends nobody tells. It returns at once.
	Concluded(epoch uint64, complete bool)
	// Quiet has sources, and whatever else begins by the clock, hold back, and returns when nothing is under way between
	// tasks: all they have is their own, and input only of sources. Checkpoints go on meanwhile. If ctx ends before, tasks
	// go on and the error says who was busy. One call at a time, between which a savepoint's barrier or Resume comes.
	Quiet(ctx context.Context, stay bool) error
	// Resume lets tasks go on that hold back. It returns at once.
	Resume()
	// Finalized returns when all bundles are finalised that the complete checkpoints have, or ctx has ended.
	Finalized(ctx context.Context) error
	// Answers is what tasks say. One reads them, from some time after Restored until the context of
	// Deploy ends or the channel is closed: tasks neither wait for it nor outlast Wait because of it.
	Answers() <-chan Answer
}

// Worker runs tasks.
type Worker interface {
	// Deploy starts a deployment, which ends early when ctx does.
	Deploy(ctx context.Context, d Deployment) (Execution, error)
}
