package worker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// everywhere, if not nil, has all jobs of rigs begin epochs all the time, and notes their snapshots.
var everywhere *epochs

// inPanes lets groups of bounded input leave in panes too, as they do in jobs with checkpoints, and tells
// whether all stages of the plan can take part in checkpoints then.
func inPanes(p *plan.Plan) bool {
	for _, s := range p.Stages {
		switch {
		case s.Kind == plan.GroupByKey && s.Group.BatchSize == 0:
			s.Group.Panes = true
		case s.Kind == plan.GroupByKey, s.Kind == plan.SideInput && s.Side.Group == nil:
			return false
		}
	}
	return true
}

// epochs notes which snapshots tasks have taken.
type epochs struct {
	t    *testing.T
	news chan struct{} // has a token after each

	mu    sync.Mutex
	jobs  int
	taken map[*task][]uint64
	acted map[*task]int
}

func newEpochs(t *testing.T) *epochs {
	return &epochs{t: t, taken: map[*task][]uint64{}, acted: map[*task]int{}, news: make(chan struct{}, 1)}
}

// note checks that a task has had all epochs in order, and nothing of it went back.
func (n *epochs) note(s *snapshot) {
	defer s.drop()
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.taken[s.task]
	if s.epoch != uint64(len(taken)+1) {
		n.t.Errorf("stage %s, task %d: epoch %d after %v", s.task.stage.ID, s.task.index, s.epoch, taken)
	}
	if s.stream != nil {
		if s.stream.Acted < n.acted[s.task] {
			n.t.Errorf("stage %s, task %d: %d events after %d", s.task.stage.ID, s.task.index, s.stream.Acted, n.acted[s.task])
		}
		n.acted[s.task] = s.stream.Acted
	}
	n.taken[s.task] = append(taken, s.epoch)
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// of returns how many tasks of a stage have taken the snapshot of an epoch.
func (n *epochs) of(transform string, epoch uint64) (tasks int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for task, taken := range n.taken {
		if slices.Contains(task.stage.Transforms, transform) && slices.Contains(taken, epoch) {
			tasks++
		}
	}
	return tasks
}

// newest returns the last epoch that a task of a job has taken the snapshot of.
func (n *epochs) newest(e *execution) (epoch uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for task, taken := range n.taken {
		if task.e == e {
			epoch = max(epoch, taken[len(taken)-1])
		}
	}
	return epoch
}

// execution makes a job whose snapshots are noted, and does not yet run it.
func (r *rig) execution(ctx context.Context, n *epochs) *execution {
	if err := r.cfg.Validate(); err != nil {
		r.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(r.cfg.Dir, "job-")
	if err != nil {
		r.t.Fatal(err)
	}
	jobs := new(atomic.Int64)
	jobs.Add(1)
	e := newExecution(r.cfg, r.deployment, dir, jobs)
	e.spans = e.newSpans(ctx)
	e.snapshots = n.note
	return e
}

// deployWith starts a job in which epochs begin all the time, now and then several at once, the first before
// anything else, or a short job would see none. Between them there is a moment in which virtual time can go
// on. The job ends with the test.
func (r *rig) deployWith(ctx context.Context, n *epochs) *execution {
	ctx, cancel := context.WithCancel(ctx)
	e := r.execution(ctx, n)
	n.mu.Lock()
	n.jobs++
	n.mu.Unlock()
	e.announce(1)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		pause := time.NewTicker(2 * time.Millisecond)
		defer pause.Stop()
		for epoch := uint64(1); ; {
			if n.newest(e) == epoch { // else tasks are slower than we are
				for range 1 + epoch%3%2 {
					epoch++
					e.announce(epoch)
				}
			}
			select {
			case <-pause.C:
			case <-e.done:
				return
			}
		}
	}()
	r.t.Cleanup(func() {
		cancel()
		<-announced
	})
	go e.run(ctx)
	return e
}

// Harnesses hold on to their bundles for as long as they like: all tasks take their snapshots meanwhile,
// those behind them and those whose input has come to its end too.
func TestBarriersDoNotWaitForHarnesses(t *testing.T) {
	p := portabletest.New()
	release := make(chan struct{})
	stuck := make(chan struct{}, 2)
	hold := func(c *call) error {
		stuck <- struct{}{}
		select {
		case <-release:
		case <-time.After(patience):
			return fmt.Errorf("barriers wait")
		}
		c.emit(kvOf("key", c.transform))
		return nil
	}
	first := p.ParDo("first", pEnv, pKV, p.Impulse("impulse"))
	second := p.ParDo("second", pEnv, pKV, p.ParDo("before", pEnv, pBytes, p.Impulse("another")))
	both := p.Flatten("both", pKV, first, second)
	groups := p.GroupByKey("group", both)
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, groups))
	for _, id := range []string{both, groups} {
		p.Proto.Components.Pcollections[id].IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	c := compile(t, p, map[string]doFn{
		"first": hold, "second": hold, "before": split(1), "ungroup": ungroup, "write": collector,
	})
	r := newRig(t, c.script)
	n := newEpochs(t)
	r.deployment.Plan = c.plan
	e := r.execution(t.Context(), n)
	go e.run(t.Context())
	<-stuck
	<-stuck

	const last = 3
	for epoch := range uint64(last) {
		e.announce(epoch + 1)
	}
	late := time.After(patience)
	for n.of("first", last) < 1 || n.of("second", last) < 1 || n.of("group", last) < 2 || n.of("ungroup", last) < 2 || n.of("write", last) < 2 {
		select {
		case <-n.news:
		case <-late:
			t.Fatalf("taken: %v", n.taken)
		}
	}
	close(release)
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{string(bytesOf("key=first")), string(bytesOf("key=second"))}, c.got("write")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever jobs do, they do it the same while epochs begin all the time, and each task takes the snapshot of
// each, in order, until it ends.
func TestBarriersChangeNothing(t *testing.T) {
	everywhere = newEpochs(t)
	defer func() { everywhere = nil }()
	for name, test := range map[string]func(*testing.T){
		"TestStreams in order": TestStreamsActInOrder, "TestStreamService": TestTestStreamService, "drained TestStreams": TestDrainStopsTestStreams,
		"panes": TestGroupsLeaveInPanes, "large panes": TestLargePanes, "accumulators": TestMergingAccumulatorsSurvivesALostHarness,
		"waiting for windows": TestElementsWaitByWindow, "latest pane": TestLatestPaneIsRead, "side inputs of windows": TestElementsAreExplodedIntoWindows,
		"sorted input": TestTimeSortedInput, "timers": TestTimersFireInOrder, "holds": TestTimersHoldTheWatermark, "expiry": TestWindowsExpire,
		"garbage timers": TestGarbageTimers, "residuals": TestResidualsAreProcessed, "delays": TestResidualsWaitForTheirDelay,
		"finalization": TestBundlesAreFinalizedOnceAfterTheirCommit, "unbounded work": TestUnboundedWorkIsCommittedAsItGoes,
		"unbounded work beside TestStreams": TestUnboundedWorkBesideTestStreams, "merging by SDKs": TestWindowCallsSurviveALostHarness,
	} {
		jobs, tasks := everywhere.jobs, len(everywhere.taken)
		t.Run(name, test)
		if everywhere.jobs == jobs || len(everywhere.taken) == tasks {
			t.Errorf("%s: %d jobs had barriers, and took %d snapshots", name, everywhere.jobs-jobs, len(everywhere.taken)-tasks)
		}
	}
}
