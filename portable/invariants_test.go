package portable_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

var _ failer = (*testing.T)(nil)

// checkPlan checks what holds for every plan.
func checkPlan(t failer, p *plan.Plan) {
	t.Helper()
	for i, s := range p.Stages {
		if s.Index != i {
			t.Errorf("stage %s is at %d but has index %d", s.ID, i, s.Index)
		}
		for _, e := range s.In {
			if e.From.Index >= i {
				t.Errorf("%s comes before %s, which feeds it", s.ID, e.From.ID)
			}
		}
		if s.Exec != nil {
			if p.Environments[s.Exec.Environment] == nil {
				t.Errorf("%s: environment %q is missing", s.ID, s.Exec.Environment)
			}
			for _, d := range []*fnpb.ProcessBundleDescriptor{s.Exec.Descriptor, s.Exec.Draining, s.Exec.Empty} {
				if d != nil {
					checkDescriptor(t, s, d)
				}
			}
		}
	}
	for i, e := range p.Edges {
		checkRunnerOutput(t, e)
		switch {
		case e.Index != i, !slices.Contains(e.From.Out, e), !slices.Contains(e.To.In, e):
			t.Errorf("edge %d isn't where it should be", i)
		case e.Coder == nil:
			t.Errorf("edge %d has no layout", i)
		case e.Coder != inputLayout(e.To) && e.Kind != plan.Broadcast:
			t.Errorf("edge %d into %s isn't laid out as its other inputs", i, e.To.ID)
		case (e.Kind == plan.Broadcast) != (e.From.Kind == plan.SideInput):
			t.Errorf("edge %d from a %v is a %v", i, e.From.Kind, e.Kind)
		case (e.Kind == plan.Keyed) != (e.To.Kind == plan.GroupByKey || e.To.Exec != nil && e.To.Exec.Stateful != nil && e.Kind != plan.Broadcast):
			t.Errorf("edge %d into a %v is a %v", i, e.To.Kind, e.Kind)
		case e.From.Exec != nil && !slices.Contains(e.From.Exec.Sinks, e.Sink):
			t.Errorf("edge %d comes out of the missing sink %q", i, e.Sink)
		}
	}
}

// checkRunnerOutput checks that what a runner's stage makes is encoded as its reader expects.
func checkRunnerOutput(t failer, e *plan.Edge) {
	t.Helper()
	element := e.Coder.Element()
	switch e.From.Kind {
	case plan.Impulse:
		if element.URN() != urns.CoderBytes {
			t.Errorf("edge %d: an Impulse is read as %s", e.Index, element.URN())
		}
	case plan.TestStream:
		if element.URN() != urns.CoderLengthPrefix {
			t.Errorf("edge %d: the elements of a TestStream are read as %s", e.Index, element.URN())
		}
	case plan.GroupByKey:
		in := e.From.Group.Input
		out := element.Components()
		iterable := urns.CoderIterable
		if e.From.Group.StateBacked {
			iterable = urns.CoderStateBackedIterable
		}
		if len(out) != 2 || out[1].URN() != iterable && out[1].URN() != urns.CoderStateBackedIterable || !sameLayout(out[0], in.Element().Components()[0]) ||
			!sameLayout(out[1].Components()[0], in.Element().Components()[1]) || !sameLayout(e.Coder.Window(), in.Window()) {
			t.Errorf("edge %d: groups are not laid out as what went in", e.Index)
		}
	}
}

func sameLayout(a, b *coders.Coder) bool {
	return a.URN() == b.URN() && slices.EqualFunc(a.Components(), b.Components(), sameLayout)
}

func inputLayout(s *plan.Stage) any {
	switch {
	case s.Group != nil:
		return s.Group.Input
	case s.Side != nil:
		return s.Side.Input
	}
	return s.In[0].Coder
}

// checkDescriptor checks that a descriptor of a stage is complete, and that its transforms
// form a graph without cycles that the source reaches all of.
func checkDescriptor(t failer, s *plan.Stage, d *fnpb.ProcessBundleDescriptor) {
	t.Helper()
	fail := func(format string, args ...any) { t.Errorf("%s: %s", s.ID, fmt.Sprintf(format, args...)) }
	for id, p := range d.GetPcollections() {
		if d.Coders[p.GetCoderId()] == nil {
			fail("PCollection %q: coder %q is missing", id, p.GetCoderId())
		}
		if ws := d.WindowingStrategies[p.GetWindowingStrategyId()]; ws == nil {
			fail("PCollection %q: strategy %q is missing", id, p.GetWindowingStrategyId())
		} else if d.Coders[ws.GetWindowCoderId()] == nil {
			fail("strategy %q: coder %q is missing", p.GetWindowingStrategyId(), ws.GetWindowCoderId())
		}
	}
	for id, c := range d.GetCoders() {
		for _, comp := range c.GetComponentCoderIds() {
			if d.Coders[comp] == nil {
				fail("coder %q: component %q is missing", id, comp)
			}
		}
	}
	sides := map[string]bool{}
	for _, ref := range s.Exec.SideInputs {
		sides[ref.Transform+"\x00"+ref.Name] = true
		if !slices.ContainsFunc(s.In, func(e *plan.Edge) bool { return e.From == ref.Stage && e.Kind == plan.Broadcast }) {
			fail("side input %q of %q has no edge", ref.Name, ref.Transform)
		}
	}
	reached := map[string]bool{}
	left := maps.Clone(d.GetTransforms())
	for progress := true; progress; {
		progress = false
		for id, tr := range left {
			if !ready(id, tr, sides, reached) {
				continue
			}
			progress = true
			delete(left, id)
			for _, out := range tr.GetOutputs() {
				if reached[out] {
					fail("PCollection %q has two producers", out)
				}
				reached[out] = true
			}
		}
	}
	for id := range left {
		fail("transform %q isn't reached from the source", id)
	}
	checkPorts(fail, s, d)
}

func ready(id string, tr *pipepb.PTransform, sides, reached map[string]bool) bool {
	for local, in := range tr.GetInputs() {
		if !sides[id+"\x00"+local] && !reached[in] {
			return false
		}
	}
	return true
}

func checkPorts(fail func(string, ...any), s *plan.Stage, d *fnpb.ProcessBundleDescriptor) {
	var sinks []string
	for id, tr := range d.GetTransforms() {
		urn := tr.GetSpec().GetUrn()
		switch urn {
		case urns.TransformSource:
			if id != s.Exec.Source {
				fail("there is a second source %q", id)
			}
		case urns.TransformSink:
			sinks = append(sinks, id)
		default:
			if tr.GetEnvironmentId() != s.Exec.Environment {
				fail("transform %q is of another environment", id)
			}
			continue
		}
		port := &fnpb.RemoteGrpcPort{}
		if err := proto.Unmarshal(tr.GetSpec().GetPayload(), port); err != nil {
			fail("port %q: %v", id, err)
		}
		if d.Coders[port.GetCoderId()].GetSpec().GetUrn() != urns.CoderWindowedValue {
			fail("port %q: coder %q is not windowed", id, port.GetCoderId())
		}
	}
	slices.Sort(sinks)
	if !slices.Equal(sinks, s.Exec.Sinks) {
		fail("sinks are %q, not %q", sinks, s.Exec.Sinks)
	}
}
