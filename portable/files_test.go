package portable_test

import (
	"context"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// Where the runner determines how many files are written, the stage that writes them, at
// whatever depth of the composite, gets few bundles. Other stages don't.
func TestFileWritersGetFewBundles(t *testing.T) {
	for name, c := range map[string]struct {
		payload *pipepb.WriteFilesPayload
		few     bool
	}{
		"runner":    {&pipepb.WriteFilesPayload{RunnerDeterminedSharding: true}, true},
		"automatic": {&pipepb.WriteFilesPayload{AutoSharded: true}, true},
		"user":      {&pipepb.WriteFilesPayload{}, false},
	} {
		p := portabletest.New()
		in := p.Reshuffle("before", portabletest.Bytes, p.ParDo("first", portabletest.Env, portabletest.Bytes, p.Impulse("impulse")))
		out := p.ParDo("bundle to file", portabletest.Env, portabletest.Bytes, in)
		p.ParDo("names", portabletest.Env, portabletest.Bytes, p.Reshuffle("after", portabletest.Bytes, out))
		ends := func(id string) map[string]string { return map[string]string{"x": id} }
		p.Composite("temporary files", "", ends(in), ends(out), "bundle to file")
		write := p.Composite("write", urns.TransformWriteFiles, ends(in), ends(out), "temporary files")
		b, err := proto.Marshal(c.payload)
		if err != nil {
			t.Fatal(err)
		}
		write.Spec.Payload = b
		compiled, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range compiled.Stages {
			if want := c.few && s.Name == "bundle to file"; s.Kind == plan.Executable && s.Exec.FewBundles != want {
				t.Errorf("%s: stage %q: few bundles is %v, want %v", name, s.Name, s.Exec.FewBundles, want)
			}
		}
	}
}
