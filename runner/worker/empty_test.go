package worker

import (
	"testing"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// The plan of a pipeline without transforms is done at once.
func TestPlanWithoutStages(t *testing.T) {
	server, err := fnapi.NewServer(fnapi.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nothing := struct{ environment.Launcher }{} // panics if asked to launch
	w, err := New(Config{Server: server, Launcher: nothing, State: memstate.New(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	e, err := w.Deploy(t.Context(), rpc.Deployment{JobID: "job", Generation: 1, Plan: &plan.Plan{}, Parallelism: 2, Harnesses: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(); err != nil {
		t.Error(err)
	}
}
