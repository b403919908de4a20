package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/worker"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
	"github.com/lintelrun/lintel/statebackend/tieredstate"
	"github.com/lintelrun/lintel/web/metrics"
)

// runner is what the job service plans and executes with.
type runner struct {
	executor    executor
	planner     planner
	live        *environment.Registry
	state       statebackend.Backend // nil if it was not made
	checkpoints folderStore          // nil if it was not opened
}

func newRunner(c serverConfig, fn *fnapi.Server, m *metrics.Metrics, tracer trace.Tracer) (*runner, error) {
	spill := filepath.Join(c.dataDir, "spill")
	if err := emptyFolder(spill); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	byURN, err := launchers(c, spill)
	if err != nil {
		return nil, err
	}
	set := environment.NewSet(byURN)
	r := &runner{
		planner: planner{check: set.Check, overrides: c.environments.overrides, log: c.log},
		live:    environment.NewRegistry(set),
	}
	if r.state, err = openState(c, spill); err != nil {
		return nil, err
	}
	if r.checkpoints, err = c.checkpoints.open(c.dataDir); err != nil {
		return r, fmt.Errorf("checkpoints: %w", err)
	}
	r.executor, err = newExecutor(c, spill, fn, r, m, tracer)
	return r, err
}

// emptyFolder makes a folder, or empties it: what is there was left by a server that was killed. The folder itself
// stays, as it may be a disk of its own.
func emptyFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	for _, d := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, d.Name())))
	}
	return err
}

const (
	stateTiered   = "auto"
	stateInMemory = "memory"
	stateInPebble = "pebble"
)

// roomy is the memory budget from which on stores have what is fast but takes more than a share of the budget: large memory
// tables, a third of them where images are taken, and two compactions at once. With it a pane of one key takes up to 1.35 times
// 64 MiB, without it 1.1 to 1.2.
const roomy = 512 << 20

// openState has a line for each state backend.
func openState(c serverConfig, spill string) (statebackend.Backend, error) {
	if c.stateBackend == stateInMemory {
		return memstate.New(), nil
	}
	budget := cmp.Or(c.memoryBudget, worker.DefaultMemoryBytes)
	cfg := pebblestate.Config{Dir: filepath.Join(spill, "state"), Logger: c.log, CacheBytes: budget / 16 * 3}
	if budget >= roomy {
		cfg.MemTableBytes, cfg.Images = budget/8, true
	} else {
		cfg.MemTableBytes, cfg.Compactions = budget/16, 1
	}
	disk, err := pebblestate.New(cfg)
	if err != nil || c.stateBackend == stateInPebble {
		return disk, err
	}
	return tieredstate.New(budget/8, disk), nil
}

func newExecutor(c serverConfig, spill string, fn *fnapi.Server, r *runner, m *metrics.Metrics, tracer trace.Tracer) (executor, error) {
	w, err := worker.New(worker.Config{
		Server:      fn,
		Launcher:    r.live,
		State:       r.state,
		Dir:         spill,
		MemoryBytes: c.memoryBudget,
		Uploads:     c.checkpoints.uploads(),
		Logger:      c.log,
		Hooks:       worker.Hooks{BundleDone: m.BundleDone, Spilled: m.Spilled, Idle: returnMemory(time.Second)},

		Tracer:       tracer,
		TraceBundles: c.tracing.bundles,
	})
	if err != nil {
		return executor{}, err
	}
	savepoints, err := c.checkpoints.folders(c.dataDir)
	if err != nil {
		return executor{}, err
	}
	co, err := coordinator.New(coordinator.Config{
		Worker: w, Parallelism: c.parallelism, Logger: c.log, Checkpoints: c.checkpoints.coordinator(r.checkpoints, savepoints, spill),
	})
	if err != nil {
		return executor{}, err
	}
	return executor{co, savepoints}, nil
}

// plan implements jobservice.Planner.
func (r *runner) plan(ctx context.Context, p *pipepb.Pipeline, given *structpb.Struct) (*plan.Plan, error) {
	o, err := options.Read(given)
	if err != nil {
		return nil, err
	}
	return r.planner.plan(ctx, p, o, func(bounded bool) (bool, error) { return r.executor.Takes(o, bounded) })
}

func (r *runner) harnesses() int { return len(r.live.Live()) }

// close ends all harnesses, the state backend and the store of checkpoints, which jobs must have left.
func (r *runner) close(ctx context.Context) error {
	err := r.live.StopAll(ctx)
	if r.state != nil {
		err = errors.Join(err, r.state.Close())
	}
	if r.checkpoints != nil {
		err = errors.Join(err, r.checkpoints.Close())
	}
	return err
}
