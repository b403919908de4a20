package worker

import (
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// No job runs without the checkpoints that it is to have.
func TestDeploymentsWithCheckpointsAreRefused(t *testing.T) {
	w, err := New(newRig(t, nil).cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := rpc.Deployment{JobID: "job", Generation: 1, Plan: &plan.Plan{}, Parallelism: 1, Harnesses: 1, Log: func(rpc.Message) {}, Restore: &rpc.Restore{}}
	if _, err := w.Deploy(t.Context(), d); fault.ClassOf(err) != fault.Unsupported {
		t.Errorf("deployed: %v", err)
	}
}
