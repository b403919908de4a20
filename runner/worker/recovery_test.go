package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/rpc"
)

// whole is a doFn that emits a group as one line.
func whole(c *call) error {
	key, values := group(c.element)
	slices.Sort(values)
	c.emit(bytesOf(key + ": " + strings.Join(values, " ")))
	return nil
}

// slowly is a doFn that takes its time.
func slowly(d time.Duration, do doFn) doFn {
	return func(c *call) error {
		<-time.After(d)
		return do(c)
	}
}

// groupsOf are the lines of whole for n elements by modulo.
func groupsOf(n, k int) []string {
	values := map[int][]string{}
	for i := range n {
		values[i%k] = append(values[i%k], fmt.Sprint(i))
	}
	var want []string
	for key, v := range values {
		slices.Sort(v)
		want = append(want, string(bytesOf(fmt.Sprintf("k%d: %s", key, strings.Join(v, " ")))))
	}
	slices.Sort(want)
	return want
}

// eachSeed runs a test several times, with other moments each time.
func eachSeed(t *testing.T, seeds uint64, test func(t *testing.T, seed uint64)) {
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { test(t, seed) })
	}
}

// What is grouped has all elements once, wherever the job was when it was ended.
func TestRecoveredGroupsAreExact(t *testing.T) {
	eachSeed(t, 4, func(t *testing.T, seed uint64) {
		const n, k = 200, 7
		c := shuffle(t, n, k, slowly(time.Millisecond, modulo(k)))
		c.fns["ungroup"] = slowly(2*time.Millisecond, whole)
		r := newRig(t, c.script)
		v := newRecovery(t, r, seed)
		v.to(c.plan, 5)
		if diff := cmp.Diff(groupsOf(n, k), slices.Compact(c.got("write"))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if v.taken < 4 {
			t.Errorf("%d checkpoints", v.taken)
		}
	})
}

// State has counted each element once.
func TestRecoveredStateIsExact(t *testing.T) {
	for _, backend := range []string{"memory", "pebble"} {
		eachSeed(t, 3, func(t *testing.T, seed uint64) {
			const n, k = 200, 7
			c := stateful(t, n, k, slowly(time.Millisecond, count))
			r := newRig(t, c.script)
			r.cfg.State = stateBackend(t, backend)
			v := newRecovery(t, r, seed)
			v.to(c.plan, 5)
			if diff := cmp.Diff(counts(n, k), slices.Compact(c.got("write"))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", backend, diff)
			}
		})
	}
}

// Metrics have counted each element once: those of SDKs, and ours.
func TestRecoveredMetricsAreExact(t *testing.T) {
	eachSeed(t, 4, func(t *testing.T, seed uint64) {
		const n, k = 200, 7
		var elements sync.Map // counts by bundle
		c := shuffle(t, n, k, func(c *call) error {
			of, _ := elements.LoadOrStore(c.bundle, new(int))
			*of.(*int)++
			<-time.After(time.Millisecond)
			return modulo(k)(c)
		})
		c.fns["ungroup"] = slowly(2*time.Millisecond, whole)
		c.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
			of, ok := elements.Load(b)
			if !ok {
				return nil
			}
			return b.Respond(&fnpb.ProcessBundleResponse{MonitoringInfos: []*pipepb.MonitoringInfo{counter("elements", int64(*of.(*int)))}})
		}
		r := newRig(t, c.script)
		v := newRecovery(t, r, seed)
		v.to(c.plan, 5)
		if got := counted(t, v.last, "elements"); got != n {
			t.Errorf("the counter is at %d, want %d", got, n)
		}
		_, infos := v.last.Metrics()
		counts, sizes := countsOf(t, infos)
		if counts["impulse.out"] != 1 || counts["group.out"] != k || sizes["group.out"][0] != k {
			t.Errorf("counts %v, sizes %v", counts, sizes)
		}
		if v.taken < 4 {
			t.Errorf("%d checkpoints", v.taken)
		}
	})
}

// journaled returns the lines of a journal.
func journaled(j *journal) func() []string {
	return func() []string {
		j.mu.Lock()
		defer j.mu.Unlock()
		var all []string
		for key, lines := range j.lines {
			for _, line := range lines {
				all = append(all, key+": "+line)
			}
		}
		return all
	}
}

func written(p *program) func() []string { return func() []string { return p.got("write") } }

// totals counts the elements of each key, and says so when all have come.
func totals(c *call) error {
	if c.timer == nil {
		c.set("f", "", 1000, 1000)
		return c.bundle.StateAppend(c.bag("bag"), []byte{'x'})
	}
	bag, err := c.bundle.StateGet(c.bag("bag"))
	c.emit(bytesOf(fmt.Sprintf("%s has %d", c.key(), len(bag))))
	return err
}

// earlyPanes is a TestStream whose elements are grouped in panes as time goes by.
func earlyPanes(t *testing.T) (*program, func() []string) {
	p := portabletest.New()
	p.Proto.Components.WindowingStrategies[portabletest.Global].AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	p.Proto.Components.WindowingStrategies[portabletest.Global].Trigger = early(5 * time.Minute)
	var events []*pipepb.TestStreamPayload_Event
	for i := range 12 {
		events = append(events, elements("", fmt.Sprintf("k=%d@%d", i, i), fmt.Sprintf("j=%d@%d", i, 2*i)), pass(2*time.Minute))
	}
	out := testStream(p, "test", []string{"o"}, append(events, watermark("", coders.MaxTimestamp))...)[0]
	groups := p.GroupByKey("group", out)
	p.ParDo("write", pEnv, pBytes, groups)
	p.Proto.Components.Pcollections[groups].IsBounded = pipepb.IsBounded_UNBOUNDED
	j := &journal{}
	c := compile(t, p, map[string]doFn{"test/Encode/o": unprefix, "write": func(c *call) error {
		pane, _, err := coders.DecodePane(c.run.header[12:])
		if err != nil {
			return err
		}
		key, values := group(c.element)
		slices.Sort(values)
		j.note(key, "%s, pane %d, timing %d", strings.Join(values, " "), pane.Index, pane.Timing)
		return nil
	}})
	return c, journaled(j)
}

// interrupted is a job that gives the same however often it is interrupted.
type interrupted struct {
	made func(t *testing.T) (p *program, got func() []string)
	with []protocol.PartKind // that checkpoints have
	// quiet are those that savepoints have.
	quiet []protocol.PartKind
}

// want is what it gives when it is not.
func (c *interrupted) want(t *testing.T) []string {
	whole, want := c.made(t)
	inPanes(whole.plan)
	newRig(t, whole.script).mustRun(whole.plan)
	lines := slices.Sorted(slices.Values(want()))
	if len(lines) < 2 {
		t.Fatalf("it gives %q", lines)
	}
	return lines
}

func jobsToInterrupt() map[string]interrupted {
	return map[string]interrupted{
		"timers": {func(t *testing.T) (*program, func() []string) {
			p := stateful(t, 150, 7, totals, "f")
			return p, written(p)
		}, []protocol.PartKind{protocol.State, protocol.Inbox}, nil},
		"panes of a TestStream": {earlyPanes, []protocol.PartKind{protocol.State, protocol.Position}, []protocol.PartKind{protocol.State, protocol.Position}},
		"stable panes": {func(t *testing.T) (*program, func() []string) {
			p, got := earlyPanes(t)
			for _, s := range p.plan.Stages {
				if s.Exec != nil && s.Exec.Transforms[0] == "write" {
					s.Exec.StableInput = true
				}
			}
			return p, got
		}, []protocol.PartKind{protocol.Parked}, nil},
		"waiting for windows": {func(t *testing.T) (*program, func() []string) {
			s := newSidePipeline(t, 10, 20, nil, nil,
				elements("main", "a=1@1", "b=2@11", "c=3@21"), watermark("main", 25),
				elements("side", "k=x@2", "k=y@12", "k=z@45"), watermark("side", 20),
				elements("main", "d=4@3", "e=5@41"), watermark("side", 40), elements("main", "f=6@22"), watermark("side", 100),
			)
			return s.program, journaled(&s.j)
		}, []protocol.PartKind{protocol.State, protocol.Position, protocol.Parked}, []protocol.PartKind{protocol.State, protocol.Position, protocol.Parked}},
		"large panes": {func(t *testing.T) (*program, func() []string) {
			p := largePanes(t, 300, 3000, 50)
			return p, written(p)
		}, []protocol.PartKind{protocol.State, protocol.Position, protocol.Spool}, nil},
		"residuals": {func(t *testing.T) (*program, func() []string) {
			p, _ := countdown(t, "20", 2*time.Millisecond)
			return p, written(p)
		}, []protocol.PartKind{protocol.Residuals}, []protocol.PartKind{protocol.Residuals}},
		"output without credit": {func(t *testing.T) (*program, func() []string) {
			p := shuffle(t, 50, 7, func(c *call) error {
				c.emit(kvOf("k"+text(c.element)[:1], text(c.element)+strings.Repeat(" ", 200<<10)))
				return nil
			})
			p.fns["ungroup"] = slowly(10*time.Millisecond, whole)
			return p, func() []string {
				var lines []string
				for _, line := range p.got("write") {
					lines = append(lines, strings.Join(strings.Fields(line), " "))
				}
				return lines
			}
		}, []protocol.PartKind{protocol.Outbox}, nil},
		"sorted input": {func(t *testing.T) (*program, func() []string) {
			p := stateful(t, 150, 7, count)
			for _, s := range p.plan.Stages {
				if s.Exec != nil && s.Exec.Stateful != nil {
					s.Exec.Stateful.TimeSorted = true
				}
			}
			return p, written(p)
		}, []protocol.PartKind{protocol.State}, nil},
	}
}

// A job that is ended in the middle of everything, again and again, gives what one gives that runs to its end.
func TestRecoveredJobsGiveTheSame(t *testing.T) {
	for name, c := range jobsToInterrupt() {
		t.Run(name, func(t *testing.T) {
			lines := slices.Compact(c.want(t))
			found := map[protocol.PartKind]int{}
			eachSeed(t, 3, func(t *testing.T, seed uint64) {
				p, got := c.made(t)
				for id, do := range p.fns {
					p.fns[id] = slowly(time.Millisecond, do)
				}
				r := newRig(t, p.script)
				r.cfg.MemoryBytes = LeastMemoryBytes
				v := newRecovery(t, r, seed)
				v.with = c.with
				v.to(p.plan, 6)
				for kind, n := range v.found {
					found[kind] += n
				}
				if diff := cmp.Diff(lines, slices.Compact(slices.Sorted(slices.Values(got())))); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
			for _, kind := range c.with {
				if found[kind] == 0 {
					t.Errorf("no job went on from a checkpoint with a part of kind %v: %v", kind, found)
				}
			}
		})
	}
}

// Bundles are finalised once a checkpoint is complete that has them, and not by one that comes to nothing. Tasks answer
// while harnesses hold on to their bundles for as long as they like.
func TestBundlesAreFinalizedOnceTheyAreDurable(t *testing.T) {
	p := shuffle(t, 100, 5, nil)
	stuck, release := make(chan struct{}, 100), make(chan struct{})
	p.fns["ungroup"] = func(c *call) error {
		stuck <- struct{}{}
		<-release
		return ungroup(c)
	}
	succeeded := finalizing(p)
	r := newRig(t, nil)
	r.cfg.Attempts = 100
	var finalized sync.Map
	news := make(chan struct{}, 1000)
	r.launcher.script = func(*process) fnapitest.Script {
		return fnapitest.Script{Process: p.process, Finalize: func(bundle string) error {
			finalized.Store(bundle, true)
			news <- struct{}{}
			return nil
		}}
	}
	inPanes(p.plan)
	v := newRecovery(t, r, 0)
	v.store.generation = 1
	r.deployment.Plan, r.deployment.Checkpoints = p.plan, &v.store
	e := r.start(t.Context(), r.deployment)
	if err := e.Restored(); err != nil {
		t.Fatal(err)
	}
	<-stuck
	ended := map[int]bool{}
	take := func(epoch uint64) {
		e.Barrier(protocol.Begun{Epoch: epoch})
		answered := maps.Clone(ended) // by no more than one of a task: it may answer and then end
		for len(answered) < len(r.deployment.Tasks()) {
			select {
			case a, ok := <-e.Answers():
				switch {
				case !ok:
					return
				case a.Err != nil:
					t.Fatal(a.Err)
				case a.Ended:
					ended[a.Task], answered[a.Task] = true, true
				case a.Epoch == epoch:
					answered[a.Task] = true
				}
			case <-time.After(patience):
				t.Fatalf("epoch %d: answers of %v, ended are %v", epoch, answered, ended)
			}
		}
	}
	take(1)
	e.Concluded(1, false)
	take(2)
	if len(news) > 0 {
		t.Error("bundles are finalised that are not durable")
	}
	e.Concluded(2, true)
	select {
	case <-news:
	case <-time.After(patience):
		t.Fatal("no bundle is finalised")
	}
	close(release)
	for epoch := uint64(3); len(ended) < len(r.deployment.Tasks()); epoch++ { // they end once all is durable
		take(epoch)
		e.Concluded(epoch, true)
	}
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	wantShuffled(t, p, 100, 5)
	succeeded.Range(func(bundle, _ any) bool {
		if _, ok := finalized.Load(bundle); !ok {
			t.Errorf("bundle %s is not finalised", bundle)
		}
		return true
	})
}

// A task has few bundles that wait to be finalised: it waits with them.
func TestFewBundlesWaitToBeFinalized(t *testing.T) {
	const n, most, underWay = 40_000, 3, 10
	p := shuffle(t, n, 5, nil)
	var waiting atomic.Int64
	p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "kv" {
			return nil
		}
		if now := waiting.Add(1); now > most+underWay {
			t.Errorf("%d bundles wait to be finalised", now)
		}
		return b.Respond(&fnpb.ProcessBundleResponse{RequiresFinalization: true})
	}
	r := newRig(t, nil)
	r.launcher.script = func(*process) fnapitest.Script {
		return fnapitest.Script{Process: p.process, Finalize: func(string) error {
			waiting.Add(-1)
			return nil
		}}
	}
	r.deployment.Parallelism, r.cfg.Unfinalized = 1, most
	v := newRecovery(t, r, 0)
	v.checked = func(*protocol.Manifest) { <-time.After(100 * time.Millisecond) } // there would be 16 bundles from one to the next
	v.to(p.plan, 0)
	wantShuffled(t, p, n, 5)
	if left := waiting.Load(); left != 0 {
		t.Errorf("%d bundles were not finalised", left)
	}
}

// A file that is damaged keeps the job from beginning, and is named as such; so that an older checkpoint may be tried.
func TestDamagedCheckpointsAreNotRestored(t *testing.T) {
	c := shuffle(t, 50, 5, slowly(time.Millisecond, modulo(5)))
	r := newRig(t, c.script)
	v := newRecovery(t, r, 1)
	inPanes(c.plan)
	r.deployment.Plan = c.plan
	v.run(func() bool { return v.taken > 2 })
	f := v.newest.Files[len(v.newest.Files)-1]
	v.store.all[f.FileID] = v.store.all[f.FileID][1:]
	r.deployment.Checkpoints, r.deployment.Restore = &v.store, &rpc.Restore{Manifest: v.newest, Same: true, Open: v.store.open}
	e := r.start(t.Context(), r.deployment)
	wantError(t, e.Restored(), fault.Corruption, f.Name())
	if err := r.wait(e); err == nil {
		t.Error("the job ran")
	}
}

// Uploads that fail, or that nobody wants any more, end their epoch and not the job; those that are slow hold up no task.
func TestUploadsThatFailEndTheirEpoch(t *testing.T) {
	c := shuffle(t, 50, 5, slowly(time.Millisecond, modulo(5)))
	r := newRig(t, c.script)
	v := newRecovery(t, r, 1)
	inPanes(c.plan)
	refused := fault.New(fault.Retryable, "the store is full")
	v.store.generation = 1
	v.store.put = func(ctx context.Context, epoch, _ uint64) error {
		if epoch == 1 {
			return refused
		}
		<-ctx.Done()
		return ctx.Err()
	}
	r.deployment.Plan, r.deployment.Checkpoints = c.plan, &v.store
	e := r.start(t.Context(), r.deployment)
	if err := e.Restored(); err != nil {
		t.Fatal(err)
	}
	e.Barrier(protocol.Begun{Epoch: 1})
	for a := range e.Answers() {
		if errors.Is(a.Err, refused) {
			break
		}
	}
	e.Barrier(protocol.Begun{Epoch: 2})
	e.Concluded(1, false)
	e.Concluded(2, false)
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	wantShuffled(t, c, 50, 5)
}

// No job runs without the checkpoints that it is to have, nor with such as its plan isn't made for.
func TestPlansThatTakeNoCheckpointsAreRefused(t *testing.T) {
	c := shuffle(t, 1, 1, nil)
	r := newRig(t, nil)
	w, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.deployment.Plan, r.deployment.Checkpoints = c.plan, &files{}
	_, err = w.Deploy(t.Context(), r.deployment)
	wantError(t, err, fault.Invalid, "was not planned")
	r.deployment.Checkpoints, r.deployment.Restore = nil, &rpc.Restore{}
	_, err = w.Deploy(t.Context(), r.deployment)
	wantError(t, err, fault.Invalid, "take none")
}

// Uploads of all tasks together keep to their rate.
func TestUploadsKeepToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newUploadLimit(Uploads{AtOnce: 1, BytesPerSecond: 1000})
		before := time.Now()
		if err := l.pay(t.Context(), 5000); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took < 3900*time.Millisecond || took > 4100*time.Millisecond { // a second's worth is there at once
			t.Errorf("5000 bytes at 1000 a second took %v", took)
		}
	})
}
