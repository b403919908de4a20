package rpc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

func TestTasks(t *testing.T) {
	impulse := &plan.Stage{ID: "s0", Name: "Impulse", Kind: plan.Impulse, Parallelism: 1}
	group := &plan.Stage{Index: 1, ID: "s1", Kind: plan.GroupByKey, Group: &plan.GroupSpec{Name: "Group"}}
	bare := &plan.Stage{Index: 2, ID: "s2", Name: "Map", Kind: plan.Executable}
	d := rpc.Deployment{Plan: &plan.Plan{Stages: []*plan.Stage{impulse, group, bare}}, Parallelism: 2}
	want := []protocol.Task{
		{Stage: "Impulse", Of: 1},
		{Stage: "Group", Of: 2, EndGroup: 512}, {Stage: "Group", Index: 1, Of: 2, FirstGroup: 512, EndGroup: 1024},
		{Stage: "Map", Of: 2}, {Stage: "Map", Index: 1, Of: 2},
	}
	if diff := cmp.Diff(want, d.Tasks()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	d.Plan.Stages = append(d.Plan.Stages, &plan.Stage{Index: 3, Name: "TestStream", Kind: plan.TestStream})
	for _, task := range d.Tasks() {
		if task.Of != 1 {
			t.Errorf("with a TestStream: %+v", task)
		}
	}
}
