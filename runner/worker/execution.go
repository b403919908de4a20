package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"golang.org/x/sync/errgroup"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/runner/sideinput"
	"github.com/lintelrun/lintel/runner/timers"
)

// execution is one deployment on this worker.
type execution struct {
	cfg   Config
	d     rpc.Deployment
	dir   string
	log   *slog.Logger
	envs  map[string]*pool
	sides []atomic.Pointer[sideinput.View] // by stage index, set when complete
	lives []*liveSide                      // by stage index; nil for other stages
	reads gate                             // before all that state requests read
	large []largeGroups                    // by stage index
	// windows is what SDKs have said of windows.
	windows windowCache
	// running counts the bundles in flight of each stage, all tasks together.
	running  []atomic.Int32
	crowds   []crowd // by stage index
	clock    *clock
	draining *draining
	stats    *progress
	spans    *spans
	// staging is the memory of output that is not yet committed or waits for credit.
	staging *budget
	// timers is the memory of the timers of all tasks.
	timers *timers.Memory
	// jobs is how many jobs the worker runs, which share the budget.
	jobs  *atomic.Int64
	tasks []*task
	// checkpoints is nil for jobs that take none.
	checkpoints *checkpointer
	// snapshots, if not nil, takes what tasks were at barriers instead. Their goroutines call it; it must not wait.
	snapshots func(*snapshot)

	done chan struct{}
	err  error // set before done is closed
}

func newExecution(cfg Config, d rpc.Deployment, dir string, jobs *atomic.Int64) *execution {
	e := &execution{
		cfg:      cfg,
		d:        d,
		dir:      dir,
		log:      cfg.Logger.With("job", d.JobID),
		envs:     map[string]*pool{},
		running:  make([]atomic.Int32, len(d.Plan.Stages)),
		crowds:   make([]crowd, len(d.Plan.Stages)),
		sides:    make([]atomic.Pointer[sideinput.View], len(d.Plan.Stages)),
		lives:    make([]*liveSide, len(d.Plan.Stages)),
		clock:    newClock(d.Plan),
		draining: newDraining(),
		stats:    newProgress(d.Plan, d.Restore.Counted()),
		jobs:     jobs,
		done:     make(chan struct{}),
	}
	e.staging = newBudget(e.alone(stagingShare), jobs)
	e.timers = timers.NewMemory(e.share(timersShare))
	e.large = e.newLargeGroups()
	e.tasks = e.makeTasks()
	e.checkpoints = newCheckpointer(e)
	return e
}

// Wait is part of rpc.Execution.
func (e *execution) Wait() error {
	<-e.done
	return e.err
}

// Metrics is part of rpc.Execution.
func (e *execution) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	return e.stats.metrics()
}

func (e *execution) run(ctx context.Context) {
	defer close(e.done)
	if c := e.checkpoints; c != nil {
		go c.answers.run(e.done)
		defer c.close()
	}
	defer func() {
		if e.jobs.Add(-1) == 0 {
			e.cfg.Hooks.Idle()
		}
	}()
	defer func() {
		if err := os.RemoveAll(e.dir); err != nil {
			e.log.Warn("spilled data not removed", "error", err)
		}
	}()
	defer e.closeSides()
	if e.err = e.makeLives(); e.err == nil {
		e.err = e.makePools()
	}
	e.spans.expect(e.envs, e.err)
	if e.err != nil {
		return
	}
	g, ctx := errgroup.WithContext(ctx)
	working, finished := context.WithCancel(ctx) // while there are tasks
	defer finished()
	for _, p := range e.envs {
		for range p.keepers {
			g.Go(func() error { return e.keep(working, p) })
		}
	}
	g.Go(func() error {
		e.stats.watch(working)
		return nil
	})
	if e.checkpoints != nil {
		e.checkpoints.final.start(ctx)
	}
	var tasks sync.WaitGroup
	for _, t := range e.tasks {
		tasks.Add(1)
		g.Go(func() error {
			defer tasks.Done()
			err := t.run(ctx)
			e.spans.taskEnded(t.stage, err)
			if err != nil && ctx.Err() == nil {
				// Not the stage's name: it lists transforms that had no part in the
				// failure, and the SDK's text names the one that had.
				return fmt.Errorf("stage %s, task %d: %w", t.stage.ID, t.index, err)
			}
			if err == nil {
				e.taskEnded(t)
			}
			return err
		})
	}
	g.Go(func() error {
		tasks.Wait()
		if e.checkpoints != nil {
			e.checkpoints.final.end()
		}
		finished()
		return nil
	})
	e.err = g.Wait()
}

// taskEnded notes that a task has ended well, with all that it was to leave behind.
func (e *execution) taskEnded(t *task) {
	e.releaseLarge(t.stage)
	if e.checkpoints != nil {
		e.checkpoints.readerEnded(t.stage)
		e.checkpoints.stillness.taskEnded(t.place, t.traffic())
		e.checkpoints.answers.put(rpc.Answer{Task: t.place, Ended: true, Metrics: e.stats.counted(t).Infos()})
	}
}

// parallelism of a stage. What a TestStream makes is to come in order.
func (e *execution) parallelism(s *plan.Stage) int {
	if e.clock.virtual {
		return 1
	}
	if s.Parallelism > 0 {
		return s.Parallelism
	}
	return e.d.Parallelism
}

// makeTasks makes all tasks and joins them: a channel of a task is one in-edge and
// one task of the stage where it begins.
func (e *execution) makeTasks() []*task {
	var all []*task
	inboxes := make([][]*exchange.Inbox, len(e.d.Plan.Stages))
	n := 0
	for i, s := range e.d.Plan.Stages {
		inboxes[i] = make([]*exchange.Inbox, e.parallelism(s))
		n += len(inboxes[i])
	}
	capacity := e.inboxBytes(n)
	for i := range inboxes {
		for j := range inboxes[i] {
			inboxes[i][j] = exchange.NewInbox(capacity)
		}
	}
	for _, s := range e.d.Plan.Stages {
		for i, inbox := range inboxes[s.Index] {
			t := &task{
				e: e, stage: s, index: i, place: len(all), inbox: inbox,
				log: e.log.With("stage", s.ID, "task", i),
			}
			var outlets []*exchange.Outlet
			for _, edge := range s.Out {
				to := inboxes[edge.To.Index]
				t.routes = append(t.routes, route{edge: edge, first: len(outlets), tasks: len(to), home: i % len(to)})
				for _, in := range to {
					outlets = append(outlets, &exchange.Outlet{To: in, Channel: e.channel(edge, i)})
				}
			}
			t.outbox = exchange.NewOutbox(outlets)
			main, side := e.channels(s)
			t.aligner = engine.NewAligner[exchange.Message](main + side)
			if e.clock.virtual {
				t.outbox.Sent = func() { e.clock.begin(1) }
				t.held = 1 // it is about to look around
				e.clock.begin(1)
			}
			all = append(all, t)
		}
	}
	return all
}

// channel is the number, at the receiving tasks, of the channel that edge makes
// with task from of the sending stage.
func (e *execution) channel(edge *plan.Edge, from int) int {
	n := 0
	for _, in := range edge.To.In {
		if in == edge {
			return n + from
		}
		n += e.parallelism(in.From)
	}
	panic(fmt.Sprintf("edge %d is not an input of stage %s", edge.Index, edge.To.ID))
}

// channels counts the main and side channels of a stage. Main edges come first.
func (e *execution) channels(s *plan.Stage) (main, side int) {
	for _, in := range s.In {
		if in.Kind == plan.Broadcast {
			side += e.parallelism(in.From)
		} else {
			main += e.parallelism(in.From)
		}
	}
	return main, side
}
