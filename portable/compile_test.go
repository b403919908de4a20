package portable_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable"
)

var update = flag.Bool("update", false, "write the plans that are found as the plans to expect")

// pipelines returns the stored pipelines of real SDKs by file name without suffix.
func pipelines(t testing.TB) map[string]*pipepb.Pipeline {
	t.Helper()
	files, err := filepath.Glob("testdata/pipelines/*.pb")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pipelines: %v", err)
	}
	all := map[string]*pipepb.Pipeline{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := &pipepb.Pipeline{}
		if err := proto.Unmarshal(data, p); err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".pb")] = p
	}
	return all
}

func TestGoldenPlans(t *testing.T) {
	for name, p := range pipelines(t) {
		t.Run(name, func(t *testing.T) {
			before := proto.Clone(p)
			for suffix, opts := range map[string]portable.Options{".plan.txt": {}, ".checkpoints.txt": {Checkpoints: true}} {
				plan, err := portable.Compile(context.Background(), p, opts)
				if err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(before, p) {
					t.Error("Compile changed the pipeline")
				}
				checkPlan(t, plan)
				checkSnapshots(t, plan, opts)
				wantGolden(t, filepath.Join("testdata", "plans", name+suffix), plan.Text())
			}
		})
	}
}

// wantGolden compares a text with that of a file.
func wantGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); -update accepts it:\n%s", file, diff)
	}
}
