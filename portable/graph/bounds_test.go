package graph

import (
	"maps"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/portabletest"
)

// What a TestStream makes is unbounded, whatever the SDK says, and so is all that is made of
// it; what only looks at it is not.
func TestUnboundedInputMakesUnboundedOutput(t *testing.T) {
	p := portabletest.New()
	stream := p.Transform("stream", "beam:transform:teststream:v1", "", &pipepb.TestStreamPayload{CoderId: portabletest.KV}, portabletest.KV)
	groups := p.GroupByKey("group", p.ParDo("before", portabletest.Env, portabletest.KV, stream))
	words := p.ParDo("words", portabletest.Env, portabletest.Bytes, p.Impulse("impulse"))
	p.ParDo("looks", portabletest.Env, portabletest.Bytes, words, stream)
	p.Flatten("both", portabletest.Bytes, words, p.ParDo("after", portabletest.Env, portabletest.Bytes, groups))
	before := proto.Clone(p.Proto)
	g, err := New(p.Proto, false)
	if err != nil {
		t.Fatal(err)
	}
	var unbounded []string
	for _, id := range slices.Sorted(maps.Keys(g.Components.Pcollections)) {
		if !g.Bounded(id) {
			unbounded = append(unbounded, id)
		}
	}
	if diff := cmp.Diff([]string{"after.out", "before.out", "both.out", "group.out", "stream.out"}, unbounded); diff != "" {
		t.Error(diff)
	}
	if !proto.Equal(before, p.Proto) {
		t.Error("the pipeline was changed")
	}
}
