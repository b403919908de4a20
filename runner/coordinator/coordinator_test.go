package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// deployed is a worker that only notes what it is given.
type deployed struct {
	rpc.Deployment
	err error
}

func (w *deployed) Deploy(ctx context.Context, d rpc.Deployment) (rpc.Execution, error) {
	w.Deployment = d
	if w.err != nil {
		return nil, w.err
	}
	e := newExecution(ctx)
	e.result <- nil
	return e, nil
}

func newCoordinator(t *testing.T, w rpc.Worker) *Coordinator {
	t.Helper()
	c, err := New(Config{Worker: w, Parallelism: 3, MaxParallelism: 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func spec(t *testing.T, options map[string]any) Spec {
	t.Helper()
	o, err := structpb.NewStruct(options)
	if err != nil {
		t.Fatal(err)
	}
	env := &pipepb.Environment{Dependencies: []*pipepb.ArtifactInformation{{TypeUrn: "file"}}}
	return Spec{
		ID:   "job-1",
		Plan: &plan.Plan{Environments: map[string]*pipepb.Environment{"used": env}},
		Pipeline: &pipepb.Pipeline{Components: &pipepb.Components{
			Environments: map[string]*pipepb.Environment{"used": env, "merged into another": {}},
		}},
		Options:        o,
		RetrievalToken: "token",
		Log:            func(rpc.Message) {},
	}
}

func TestParallelismOfAJob(t *testing.T) {
	for _, c := range []struct {
		options          map[string]any
		tasks, harnesses int
		err              string
	}{
		{nil, 3, 3, ""},
		{map[string]any{"parallelism": 7}, 7, 7, ""},
		{map[string]any{"parallelism": -1}, 3, 3, ""},
		{map[string]any{"sdk_worker_parallelism": 2}, 3, 2, ""},
		{map[string]any{"parallelism": 10, "sdk_worker_parallelism": 10}, 10, 10, ""},
		{map[string]any{"parallelism": 11}, 0, 0, "parallelism 11 is more than this server's maximum of 10"},
		{map[string]any{"sdk_worker_parallelism": 1000000}, 0, 0, "parallelism 1000000 is more than this server's maximum of 10"},
		{map[string]any{"parallelism": "many"}, 0, 0, "parallelism"},
	} {
		w := &deployed{}
		_, err := newCoordinator(t, w).Start(t.Context(), spec(t, c.options))
		if c.err != "" {
			if fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: error %v, want %q", c.options, err, c.err)
			}
			continue
		}
		if err != nil || w.Parallelism != c.tasks || w.Harnesses != c.harnesses {
			t.Errorf("%v: %d tasks, %d harnesses, %v; want %d and %d", c.options, w.Parallelism, w.Harnesses, err, c.tasks, c.harnesses)
		}
	}
}

func TestDeployment(t *testing.T) {
	w := &deployed{err: errors.New("no room")}
	s := spec(t, nil)
	if _, err := newCoordinator(t, w).Start(t.Context(), s); !errors.Is(err, w.err) {
		t.Errorf("error %v, want that of the worker", err)
	}
	if w.JobID != s.ID || w.Plan != s.Plan || w.Options != s.Options || w.RetrievalToken != s.RetrievalToken || w.Generation == 0 || w.Log == nil {
		t.Errorf("deployed is %+v", w.Deployment)
	}
	if len(w.Dependencies) != 1 || len(w.Dependencies["used"]) != 1 {
		t.Errorf("dependencies %v, want those of the environment that is used", w.Dependencies)
	}
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		"needs a Worker":                        {},
		"parallelism 20 is not between 1 and 4": {Worker: &deployed{}, Parallelism: 20, MaxParallelism: 4},
		"parallelism -1 is not between 1":       {Worker: &deployed{}, Parallelism: -1},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	cfg := Config{Worker: &deployed{}}
	if err := cfg.Validate(); err != nil || cfg.Parallelism < 1 || cfg.MaxParallelism != 256 || cfg.Logger == nil {
		t.Errorf("defaults %+v, %v", cfg, err)
	}
}
