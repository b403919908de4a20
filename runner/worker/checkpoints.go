package worker

import (
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/rpc"
)

// refuseCheckpoints keeps a deployment from running without the snapshots that it is to take. There are none
// before step 5 of docs/design/checkpoints.md, and servers refuse jobs that ask for checkpoints.
func refuseCheckpoints(d *rpc.Deployment) error {
	if d.Checkpoints != nil || d.Restore != nil {
		return fault.New(fault.Unsupported, "job %s: this worker takes no snapshots and restores none", d.JobID)
	}
	return nil
}

// Restored is part of rpc.Execution: there is nothing to restore.
func (e *execution) Restored() error { return nil }

// Barrier is part of rpc.Execution; never called, see refuseCheckpoints.
func (e *execution) Barrier(protocol.Begun) {}

// Concluded is part of rpc.Execution; never called.
func (e *execution) Concluded(uint64, bool) {}

// Answers is part of rpc.Execution: there are none.
func (e *execution) Answers() <-chan rpc.Answer { return nil }
