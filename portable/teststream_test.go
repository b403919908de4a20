package portable_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

func elementsFor(tag string) *pipepb.TestStreamPayload_Event {
	return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ElementEvent{
		ElementEvent: &pipepb.TestStreamPayload_Event_AddElements{Tag: tag},
	}}
}

// testStream adds a TestStream whose unbounded output is of a coder.
func testStream(p *Pipeline, coder string, events ...*pipepb.TestStreamPayload_Event) string {
	out := p.Transform("test", urns.TransformTestStream, "", &pipepb.TestStreamPayload{CoderId: coder, Events: events}, coder)
	p.Proto.Components.Pcollections[out].IsBounded = pipepb.IsBounded_UNBOUNDED
	return out
}

// The elements of a TestStream go through an SDK before the runner looks at their keys, and
// what is grouped of them leaves in panes.
func TestTestStream(t *testing.T) {
	p := New()
	out := testStream(p, KV, elementsFor(""), elementsFor("o0"))
	p.PCollection("groups.out", Groups).IsBounded = pipepb.IsBounded_UNBOUNDED
	p.ParDo("write", Env, Bytes, p.GroupByKey("groups", out))
	pl := wantShape(t, p, `
s0 test-stream
s1 executable test/Encode/o0 <forward s0
s2 group-by-key <keyed s1
s3 executable write <forward s2
`)
	if test := pl.Stages[0].Test; test.Delimited || len(test.Events) != 2 || test.Outputs[""] != test.Outputs["o0"] || test.Outputs[""] == out {
		t.Errorf("the TestStream is %+v", test)
	}
	if g := pl.Stages[2].Group; !g.Panes || g.Name != "groups" || g.StateBacked {
		t.Errorf("the GroupByKey is %+v", g)
	}
}

// What reads a TestStream shares a stage with the transform that encodes its elements; of
// several outputs each has its own, and the main one has no tag.
func TestTestStreamWithTags(t *testing.T) {
	p := New()
	p.Coder("prefixed", urns.CoderLengthPrefix, Opaque)
	out := testStream(p, "prefixed", elementsFor(""), elementsFor("None"), elementsFor("b"))
	p.PCollection("b", "prefixed")
	p.Get("test").Outputs = map[string]string{"None": out, "b": "b"}
	p.ParDo("x", Env, Bytes, out)
	p.ParDo("y", Other, Bytes, "b")
	pl := wantShape(t, p, `
s0 test-stream
s1 executable test/Encode/None,x <forward s0
s2 executable test/Encode/b,y <forward s0
`)
	test := pl.Stages[0].Test
	if tags := slices.Sorted(maps.Keys(test.Outputs)); !slices.Equal(tags, []string{"", "None", "b"}) || test.Outputs[""] != test.Outputs["None"] || !test.Delimited {
		t.Errorf("the TestStream is %+v", test)
	}
}

func TestBrokenTestStreams(t *testing.T) {
	broken(t, "no coder", fault.Invalid, func(p *Pipeline) {
		testStream(p, "absent")
		p.PCollection("test.out", Bytes)
	}, `"test"`, `no coder "absent"`)
	broken(t, "no such output", fault.Invalid, func(p *Pipeline) {
		testStream(p, Bytes, elementsFor(""), elementsFor("x"))
	}, `event 1 is for output "x"`)
	broken(t, "no main output", fault.Invalid, func(p *Pipeline) {
		out := testStream(p, Bytes, elementsFor(""))
		p.PCollection("other", Bytes)
		p.Get("test").Outputs = map[string]string{"a": out, "b": "other"}
	}, `event 0 is for output ""`)
	broken(t, "no event", fault.Unsupported, func(p *Pipeline) {
		testStream(p, Bytes, &pipepb.TestStreamPayload_Event{})
	}, "event 0 is of the unknown type")
	broken(t, "other windows", fault.Invalid, func(p *Pipeline) {
		other := proto.Clone(p.Proto.Components.WindowingStrategies[Global]).(*pipepb.WindowingStrategy)
		other.WindowCoderId = Bytes
		p.Proto.Components.WindowingStrategies["other"] = other
		p.Proto.Components.Pcollections[testStream(p, Bytes)].WindowingStrategyId = "other"
	}, "a TestStream makes global ones")

	p := New()
	testStream(p, Bytes)
	if _, err := portable.Compile(context.Background(), p.Proto, portable.Options{}); fault.ClassOf(err) != fault.Unsupported {
		t.Errorf("with nobody to encode elements: %v", err)
	}
}
