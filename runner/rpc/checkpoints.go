package rpc

import (
	"context"
	"io"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// Uploads is where the tasks of a generation put the files of their snapshots. Safe for
// concurrent use.
type Uploads interface {
	// Put uploads content, from its beginning on, as a file of an epoch that has begun. Task is the
	// place of the task among Deployment.Tasks. An error of class fault.Fenced
	// says that the job has a newer generation; all others are final for this epoch only.
	Put(ctx context.Context, epoch, task uint64, content io.ReadSeeker) (protocol.File, error)
}

// Restore is what the tasks of a deployment begin with.
type Restore struct {
	// Manifest of a checkpoint or savepoint, which nobody changes. Its parts lie as those who took the
	// snapshots have put them. Of a checkpoint each task goes on from its own; that of a savepoint is quiet and
	// dealt out anew, whatever the parallelism and however the plan fuses.
	Manifest *protocol.Manifest
	// Update is how names in a savepoint go to those of the plan, and what may be dropped.
	Update protocol.Update
	// Same tells that the manifest is of this very plan at this parallelism: each task finds its own
	// snapshot by its place in Manifest.Tasks.
	Same bool
	// Open reads a file of the manifest. The end of what it reads is an error of class
	// fault.Corruption unless all of it was as it should be: what was read is not to be used before.
	// It is not to be called once Execution.Restored has returned.
	Open func(ctx context.Context, f protocol.File) (io.ReadCloser, error)
	// Metrics are what the job had counted: Execution.Metrics go on from there.
	Metrics []*pipepb.MonitoringInfo
}

// Counted returns Metrics, none of nil.
func (r *Restore) Counted() []*pipepb.MonitoringInfo {
	if r == nil {
		return nil
	}
	return r.Metrics
}

// Stage returns what a stage of a savepoint is called in the plan, and the transform in the savepoint that it is of.
func (r *Restore) Stage(was string) (name, transform string) {
	transform, byKey := strings.CutSuffix(was, plan.ByKey)
	if name = r.Update.Rename(was); byKey && name == was {
		name = r.Update.Rename(transform) + plan.ByKey
	}
	return name, transform
}

// Answer is what a task has to say about epochs.
type Answer struct {
	// Task is the place of the task among Deployment.Tasks.
	Task int
	// Ended: the task is done and all it put out has been delivered. What follows Metrics is zero then; epochs that
	// it has not answered, and later ones, need no snapshot of it.
	Ended bool
	// Metrics are what the task has counted in this run of the job: all that its snapshot has, or to its end.
	Metrics []*pipepb.MonitoringInfo
	// Epoch of the snapshot. Answers to epochs that were concluded are ignored.
	Epoch uint64
	// Snapshot, all of whose files are uploaded: by Uploads.Put for its epoch, or such as the checkpoint
	// protocol.Begun.Over has. Its Task names stage, index and key groups as Deployment.Tasks does.
	Snapshot protocol.Snapshot
	// Err is why there is no snapshot: the epoch comes to nothing, and the job goes on unless the error is of
	// class fault.Fenced.
	Err error
}

// Tasks returns all tasks of the deployment, those of a stage together, in the order of the plan's
// stages: by name, index and key groups, and with nothing else. Workers make their tasks in this order.
func (d *Deployment) Tasks() []protocol.Task {
	var all []protocol.Task
	virtual := d.Plan.Virtual()
	for i, name := range d.Plan.StageNames() {
		s, of := d.Plan.Stages[i], d.Parallelism
		switch {
		case virtual:
			of = 1 // what a TestStream makes is to come in order
		case s.Parallelism > 0:
			of = s.Parallelism
		}
		for n := range of {
			t := protocol.Task{Stage: name, Index: n, Of: of}
			if keyed(s) {
				t.FirstGroup, t.EndGroup = keygroup.Range(n, of, keygroup.DefaultMax)
			}
			all = append(all, t)
		}
	}
	return all
}

// keyed tells whether the tasks of a stage own key groups.
func keyed(s *plan.Stage) bool {
	return s.Group != nil || s.Side != nil || s.Exec != nil && s.Exec.Stateful != nil
}
