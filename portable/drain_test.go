package portable_test

import (
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// sdfStage compiles an SDF with a side input and returns the stage that processes it.
func sdfStage(t *testing.T, bounded pipepb.IsBounded_Enum, capabilities ...string) *plan.ExecutableSpec {
	t.Helper()
	p := portabletest.New()
	env := p.Proto.Components.Environments[portabletest.Env]
	env.Capabilities = append(env.Capabilities, capabilities...)
	side := p.ParDo("side", portabletest.Env, portabletest.Bytes, p.Impulse("is"))
	out := p.ParDoWith("sdf", portabletest.Env, &pipepb.ParDoPayload{RestrictionCoderId: portabletest.Opaque}, portabletest.Bytes, p.Impulse("i"), side)
	p.Proto.Components.Pcollections[out].IsBounded = bounded
	made, err := portable.Compile(t.Context(), p.Proto, portable.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range made.Stages {
		if s.Exec != nil && s.Exec.Splittable {
			return s.Exec
		}
	}
	t.Fatal("no splittable stage")
	return nil
}

func TestDrainingTruncatesBeforeItProcesses(t *testing.T) {
	x := sdfStage(t, pipepb.IsBounded_UNBOUNDED, urns.TransformSDFTruncateSized)
	if !x.Unbounded {
		t.Error("the stage is not unbounded")
	}
	var id string
	for tid, tr := range x.Draining.GetTransforms() {
		if tr.GetSpec().GetUrn() == urns.TransformSDFTruncateSized {
			id = tid
		}
	}
	truncate, process := x.Draining.GetTransforms()[id], x.Draining.GetTransforms()["sdf"]
	before := x.Descriptor.GetTransforms()["sdf"]
	if x.Descriptor.GetTransforms()[id] != nil {
		t.Error("it truncates before it is drained")
	}
	for local, in := range truncate.GetInputs() {
		if in != before.GetInputs()[local] {
			t.Errorf("it truncates %q, which is not what is processed", in)
		}
	}
	truncated := truncate.GetOutputs()["i0"]
	if process.GetInputs()["i0"] != truncated || before.GetInputs()["i0"] == truncated {
		t.Errorf("it processes %v, not %q", process.GetInputs(), truncated)
	}
	if string(truncate.GetSpec().GetPayload()) != string(process.GetSpec().GetPayload()) {
		t.Error("the payloads differ")
	}
	was, is := x.Draining.GetPcollections()[before.GetInputs()["i0"]], x.Draining.GetPcollections()[truncated]
	if was.GetCoderId() != is.GetCoderId() {
		t.Errorf("its coder changes from %s to %s", was.GetCoderId(), is.GetCoderId())
	}
	for _, of := range []string{id, "sdf"} {
		if !slices.ContainsFunc(x.SideInputs, func(r plan.SideInputRef) bool { return r.Transform == of && r.Name == "i1" }) {
			t.Errorf("%s lacks its side input", of)
		}
	}
}

func TestDrainingNeedsTheSDK(t *testing.T) {
	if x := sdfStage(t, pipepb.IsBounded_BOUNDED); x.Draining != nil || x.Unbounded {
		t.Errorf("an SDK that can't truncate is to truncate, or a bounded DoFn is unbounded")
	}
}
