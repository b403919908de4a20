package coordinator

import (
	"strings"
	"testing"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// Whatever a savepoint has, beside what transforms keep, has a place in the plan that reads its elements as they were
// written, or the job doesn't begin.
func TestWhatASavepointHasIsInherited(t *testing.T) {
	p := &plan.Plan{Stages: []*plan.Stage{
		{Name: "Now", Kind: plan.Executable, Exec: &plan.ExecutableSpec{}},
		{Name: "side input new", Kind: plan.SideInput, Side: &plan.SideSpec{Multimap: true}},
	}}
	described := func(name, coder string) protocol.Pipeline {
		return protocol.Pipeline{Transforms: []protocol.Transform{{Name: name, Coder: coder}}}
	}
	renamed := protocol.Update{Names: map[string]string{"Was": "Now", "side input old": "side input new"}}
	for what, c := range map[string]struct {
		stage  string
		kind   protocol.PartKind
		coder  string
		update protocol.Update
		want   string
	}{
		"as it was":           {stage: "Now", kind: protocol.Parked, coder: "bytes"},
		"renamed":             {stage: "Was", kind: protocol.Parked, coder: "bytes", update: renamed},
		"not renamed":         {stage: "Was", kind: protocol.Parked, coder: "bytes", want: `has parked of stage "Was"`},
		"dropped":             {stage: "Was", kind: protocol.State, update: protocol.Update{MayDrop: []string{"Was"}}},
		"other elements":      {stage: "Now", kind: protocol.Parked, coder: "varint", want: "are varint"},
		"a side input by key": {stage: "side input old by key", kind: protocol.Side, update: renamed},
		"another side input":  {stage: "side input old", kind: protocol.Side, update: renamed, want: `"side input old"`},
	} {
		m := &protocol.Manifest{Savepoint: true, Pipeline: described(c.stage, c.coder), Tasks: []protocol.Task{{Stage: c.stage, Of: 1, Parts: []protocol.Part{{Kind: c.kind}}}}}
		err := inherits(p, described("Now", "bytes"), &rpc.Restore{Manifest: m, Update: c.update})
		if c.want == "" && err != nil || c.want != "" && (fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
