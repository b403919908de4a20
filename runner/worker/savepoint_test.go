package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// tour is a pipeline to go from savepoint to savepoint: sources count up to a limit, all numbers are counted by key in state,
// where timers say how many there were at last, and grouped.
type tour struct {
	*counters
	keys, sources, limit int
	// restless has a timer of processing time set itself again and again for each key.
	restless atomic.Bool
	ticks    atomic.Int64
	// weight is how long the names of restrictions are.
	weight int
}

// itinerary is how the pipeline of a tour is made.
type itinerary struct {
	// counter is the name of the transform that keeps state, "count" if "".
	counter string
	// fused has transforms share stages, and detour adds one before that which counts.
	fused, detour bool
	// stable has the input of what counts be stable.
	stable bool
	// without leaves out what groups.
	without bool
}

func newTour(t *testing.T, by itinerary) *tour {
	p := portabletest.New()
	p.Environment(pEnv, "")
	p.Environment("sources", "another, so that these are not fused with what follows")
	u := &tour{counters: &counters{tick: time.Millisecond, fails: func() bool { return false }, ran: map[string]*process{}, finalized: map[string]int{}}, keys: 23, sources: 5, limit: 60}
	counter := cmp.Or(by.counter, "count")
	payload := &pipepb.ParDoPayload{RestrictionCoderId: pBytes, RequestsFinalization: true}
	numbers := p.ParDoWith("source", "sources", payload, pBytes, p.Impulse("impulse"))
	keyed := p.ParDo("key", pEnv, pKV, numbers)
	if by.detour {
		keyed = p.ParDo("detour", pEnv, pKV, keyed)
	}
	state := payloadOf("f", "clock")
	state.RequiresStableInput = by.stable
	counted := p.ParDoWith(counter, pEnv, state, pBytes, keyed)
	p.ParDo("write", pEnv, pBytes, counted)
	if !by.without {
		p.ParDo("lines", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", keyed)))
	}
	for id := range p.Proto.Components.Pcollections {
		if pc := p.Proto.Components.Pcollections[id]; pc != nil && !strings.Contains(id, "impulse") {
			pc.IsBounded = pipepb.IsBounded_UNBOUNDED
		}
	}
	u.program = compileAs(t, p, portable.Options{SeparateStages: !by.fused, Checkpoints: true}, map[string]doFn{
		"source/PairWithRestriction": func(c *call) error {
			c.emit(slices.Concat(c.element, bytesOf("")))
			return nil
		},
		"source/SplitAndSize": func(c *call) error {
			for i := range u.sources {
				id := fmt.Sprintf("%-*d", u.weight, i)
				c.emit(slices.Concat(kvOf(id, fmt.Sprintf("0-%d", u.limit)), make([]byte, 8)))
			}
			return nil
		},
		"key": func(c *call) error {
			var id, n int
			fmt.Sscanf(text(c.element), "%d:%d", &id, &n)
			c.emit(kvOf(fmt.Sprintf("k%d", (id*u.limit+n)%u.keys), text(c.element)))
			return nil
		},
		"detour": func(c *call) error {
			c.emit(c.element)
			return nil
		},
		counter: func(c *call) error {
			soon := time.Now().Add(time.Millisecond).UnixMilli()
			switch {
			case c.timer != nil && c.timer.family == "clock":
				u.ticks.Add(1)
				if u.restless.Load() {
					c.set("clock", "", soon, c.timer.hold)
				}
				return nil
			case c.timer == nil:
				c.set("f", "", 1<<40, 1<<40)
				if u.restless.Load() {
					c.set("clock", "", soon, 1<<40)
				}
				return count(c)
			}
			bag, err := c.bundle.StateGet(c.bag("bag"))
			c.emit(bytesOf(fmt.Sprintf("%s has %d", c.key(), len(bag))))
			return err
		},
		"ungroup": whole,
		"write":   collector,
		"lines":   collector,
	})
	return u
}

// on has a rig's harnesses run the tour.
func (u *tour) on(r *rig) *tour {
	u.rig, r.launcher.script = r, u.script
	return u
}

// want is all that a tour writes, and groups.
func (u *tour) want() (written, groups []string) {
	byKey := map[string][]string{}
	for i := range u.sources * u.limit {
		key := fmt.Sprintf("k%d", i%u.keys)
		byKey[key] = append(byKey[key], fmt.Sprintf("%d:%d", i/u.limit, i%u.limit))
		written = append(written, string(bytesOf(fmt.Sprintf("%s=%d", key, len(byKey[key])))))
	}
	for key, all := range byKey {
		slices.Sort(all)
		written = append(written, string(bytesOf(fmt.Sprintf("%s has %d", key, len(all)))))
		groups = append(groups, string(bytesOf(key+": "+strings.Join(all, " "))))
	}
	slices.Sort(written)
	slices.Sort(groups)
	return written, groups
}

// check checks what was written by programs one after the other.
func (u *tour) check(t *testing.T, all ...*tour) {
	t.Helper()
	var written, groups []string
	for _, p := range append(all, u) {
		written, groups = append(written, p.got("write")...), append(groups, p.got("lines")...)
	}
	slices.Sort(written)
	slices.Sort(groups)
	wantWritten, wantGroups := u.want()
	if diff := gocmp.Diff(wantWritten, written); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(wantGroups, groups); diff != "" {
		t.Errorf("grouped (-want +got):\n%s", diff)
	}
}

// until is a leg in which sources count to a part of their limit, and which ends when half of what is new has been written;
// all of it for 1.
func (u *tour) until(part float64, parallelism int, backend string) leg {
	l := leg{parallelism: parallelism, backend: backend}
	before := u.ceiling.Swap(int64(part * float64(u.limit)))
	if part < 1 {
		enough := u.sources * int(before+u.ceiling.Load()) / 2
		l.after = func() bool { return len(u.got("write")) >= enough }
	}
	return l
}

// A job that is stopped with a savepoint and goes on, at another parallelism and in another state backend each time, does
// all once: it was quiet at each, so that nothing was under way but at its sources.
func TestJobsTravel(t *testing.T) {
	eachSeed(t, 3, func(t *testing.T, seed uint64) {
		r := newRig(t, nil)
		u := newTour(t, itinerary{stable: seed == 2}).on(r)
		v := newTravel(t, r, seed)
		wantQuiet(t, v.to(u.plan, u.until(0.25, 1, "memory")))
		wantQuiet(t, v.to(u.plan, u.until(0.5, 8, "pebble")))
		wantQuiet(t, v.to(u.plan, u.until(0.75, 3, "memory")))
		v.to(u.plan, u.until(1, 2, "pebble"))
		u.check(t)
		for _, kind := range []protocol.PartKind{protocol.State, protocol.Residuals} {
			if v.found[kind] == 0 {
				t.Errorf("no savepoint had %v", kind)
			}
		}
	})
}

// Jobs of all kinds give each line once, wherever they are stopped with savepoints.
func TestStoppedJobsGiveTheSame(t *testing.T) {
	for name, c := range jobsToInterrupt() {
		t.Run(name, func(t *testing.T) {
			want := c.want(t)
			found := map[protocol.PartKind]int{}
			eachSeed(t, 2, func(t *testing.T, seed uint64) {
				p, got := c.made(t)
				for id, do := range p.fns {
					p.fns[id] = slowly(time.Millisecond, do)
				}
				inPanes(p.plan)
				r := newRig(t, p.script)
				r.cfg.MemoryBytes = LeastMemoryBytes
				v := newTravel(t, r, seed)
				for i := range 4 {
					last := v.taken + v.rand.IntN(5)
					l := leg{1 + (i+int(seed))%3, []string{"memory", "pebble"}[i%2], func() bool { return v.taken > last }}
					if m := v.to(p.plan, l); m == nil {
						break
					}
				}
				if v.newest != nil {
					v.to(p.plan, leg{2, "memory", nil})
				}
				for kind, n := range v.found {
					found[kind] += n
				}
				if diff := gocmp.Diff(want, slices.Sorted(slices.Values(got()))); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
			for _, kind := range c.quiet {
				if found[kind] == 0 {
					t.Errorf("no savepoint had %v: %v", kind, found)
				}
			}
		})
	}
}

// A savepoint is not the end of a job, and any number of jobs go on from it, each to the same end.
func TestForks(t *testing.T) {
	r := newRig(t, nil)
	u := newTour(t, itinerary{}).on(r)
	v := newTravel(t, r, 1)
	v.goOn = func() { u.ceiling.Store(0) }
	m := v.to(u.plan, u.until(0.5, 2, "memory"))
	wantQuiet(t, m)
	u.check(t)
	var ends [][]string
	for _, parallelism := range []int{1, 4} {
		w := newTour(t, itinerary{}).on(r)
		fork := newTravel(t, r, 1)
		fork.store.all, fork.newest, fork.epoch = v.store.copy(), m, v.epoch
		fork.to(w.plan, w.until(1, parallelism, "pebble"))
		ends = append(ends, w.got("lines"), w.got("write"))
	}
	_, groups := u.want()
	if !slices.Equal(ends[0], groups) || !slices.Equal(ends[2], groups) {
		t.Errorf("groups are %q and %q, not %q", ends[0], ends[2], groups)
	}
	if diff := gocmp.Diff(ends[1], ends[3]); diff != "" {
		t.Errorf("forks differ:\n%s", diff)
	}
	if n := len(ends[1]); n == 0 || n >= len(u.got("write")) {
		t.Errorf("a fork wrote %d lines of %d", n, len(u.got("write")))
	}
}

// A job goes on in an updated pipeline: with a transform renamed, one added, one gone, and fused in another way.
func TestUpdatedPipelinesGoOn(t *testing.T) {
	for name, c := range map[string]struct {
		now    itinerary
		update protocol.Update
	}{
		"renamed":         {itinerary{counter: "tally"}, protocol.Update{Names: map[string]string{"count": "tally"}}},
		"added":           {itinerary{detour: true}, protocol.Update{}},
		"fused":           {itinerary{fused: true}, protocol.Update{}},
		"all of it":       {itinerary{counter: "tally", detour: true, fused: true}, protocol.Update{Names: map[string]string{"count": "tally"}}},
		"groups left out": {itinerary{without: true}, protocol.Update{MayDrop: []string{"group"}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			before, after := newTour(t, itinerary{}).on(r), newTour(t, c.now)
			v := newTravel(t, r, 1)
			wantQuiet(t, v.to(before.plan, before.until(0.5, 2, "memory")))
			v.update = c.update
			v.to(after.on(r).plan, after.until(1, 3, "pebble"))
			if c.now.without {
				want, _ := after.want()
				if got := slices.Sorted(slices.Values(append(before.got("write"), after.got("write")...))); !slices.Equal(got, want) {
					t.Errorf("counted: %q", got)
				}
				return
			}
			after.check(t, before)
		})
	}
}

// What an update drops begins anew, and the rest goes on.
func TestDroppedStateBeginsAnew(t *testing.T) {
	for name, update := range map[string]protocol.Update{
		"a transform":        {MayDrop: []string{"count"}},
		"a state of it only": {MayDrop: []string{"count:bag"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			before, after := newTour(t, itinerary{}).on(r), newTour(t, itinerary{})
			v := newTravel(t, r, 1)
			wantQuiet(t, v.to(before.plan, before.until(0.5, 2, "memory")))
			v.update = update
			v.to(after.on(r).plan, after.until(1, 2, "memory"))
			wantWritten, wantGroups := after.want()
			if got := after.got("lines"); !slices.Equal(got, wantGroups) {
				t.Errorf("groups: %q", got)
			}
			total := 0
			for _, line := range after.got("write") {
				var n int
				if _, has, ok := strings.Cut(line, " has "); ok {
					fmt.Sscan(has, &n)
					total += n
				}
			}
			if want := len(wantWritten) - after.keys - len(before.got("write")); total != want {
				t.Errorf("%d were counted anew, not %d", total, want)
			}
		})
	}
}

// Timers that set themselves again and again stand still for a savepoint, and go on after it.
func TestClocksStandStillForSavepoints(t *testing.T) {
	r := newRig(t, nil)
	u := newTour(t, itinerary{}).on(r)
	u.restless.Store(true)
	v := newTravel(t, r, 1)
	wantQuiet(t, v.to(u.plan, u.until(0.5, 2, "memory")))
	if u.ticks.Load() == 0 {
		t.Error("no timer has fired")
	}
	v.goOn = func() {
		before := u.ticks.Load()
		testkit.Eventually(t, patience, "timers fire again", func() bool { return u.ticks.Load() > before })
		u.restless.Store(false) // at the end of time they would not wait
		u.ceiling.Store(0)
	}
	wantQuiet(t, v.to(u.plan, u.until(0.9, 3, "pebble")))
	u.check(t)
}

// What comes to a source that holds back is kept, however much it is, and dealt out to those that go on.
func TestInputOfSourcesIsKept(t *testing.T) {
	r := newRig(t, nil)
	r.cfg.MemoryBytes = LeastMemoryBytes
	u := newTour(t, itinerary{}).on(r)
	u.sources, u.limit, u.weight = 40, 4, 100<<10
	split := u.fns["source/SplitAndSize"]
	begun, goOn := make(chan struct{}), make(chan struct{})
	u.fns["source/SplitAndSize"] = func(c *call) error {
		close(begun)
		<-goOn
		return split(c)
	}
	v := newTravel(t, r, 1)
	after := func() bool {
		select {
		case <-begun:
			time.AfterFunc(50*time.Millisecond, func() { close(goOn) }) // when sources hold back
			return true
		default:
			return false
		}
	}
	m := v.to(u.plan, leg{2, "memory", after})
	wantQuiet(t, m)
	v.to(u.plan, leg{3, "memory", nil})
	u.check(t)
	if v.found[protocol.Parked] == 0 {
		t.Errorf("the savepoint had %v", v.found)
	}
}

// A job that doesn't come to rest in time has no savepoint, says which stage was busy, and goes on.
func TestSavepointsThatFindNoRest(t *testing.T) {
	r := newRig(t, nil)
	u := newTour(t, itinerary{}).on(r)
	key := u.fns["key"]
	stuck, release := make(chan struct{}, 100), make(chan struct{})
	u.fns["key"] = func(c *call) error {
		select {
		case stuck <- struct{}{}:
		default:
		}
		<-release
		return key(c)
	}
	v := newTravel(t, r, 1)
	g := v.deploy(t.Context(), u.plan, u.until(1, 2, "memory"))
	<-stuck
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := g.e.Quiet(ctx, true)
	wantError(t, err, fault.Retryable, "did not come to rest", "(key)")
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "count") {
		t.Errorf("it was %v", err)
	}
	close(release)
	v.finish(t.Context(), g)
	u.check(t)
}

// A savepoint that comes to nothing after the job was quiet lets it go on.
func TestSavepointsThatComeToNothing(t *testing.T) {
	r := newRig(t, nil)
	u := newTour(t, itinerary{}).on(r)
	v := newTravel(t, r, 1)
	l := u.until(0.5, 2, "memory")
	g := v.deploy(t.Context(), u.plan, l)
	testkit.Eventually(t, patience, "half of it", l.after)
	if err := g.e.Quiet(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	u.ceiling.Store(0)
	before := len(u.got("write"))
	g.e.Barrier(protocol.Begun{Epoch: 1, Savepoint: "s"})
	for answered := map[int]bool{}; len(answered) < len(g.tasks); {
		a := <-g.e.Answers()
		answered[a.Task] = true
		g.ended[a.Task] = a.Ended
	}
	if n := len(u.got("write")); n != before {
		t.Errorf("%d lines were written by a job that holds back", n-before)
	}
	g.e.Concluded(1, false)
	g.e.Resume()
	g.epoch = 1
	v.finish(t.Context(), g)
	u.check(t)
}

// What was not taken while the job was quiet is refused, as only tasks like those that took it could go on with it.
func TestSavepointsThatAreNotQuietAreRefused(t *testing.T) {
	p := shuffle(t, 120, 7, func(c *call) error {
		c.emit(kvOf("k"+text(c.element)[:1], text(c.element)+strings.Repeat(" ", 200<<10)))
		return nil
	})
	p.fns["ungroup"] = slowly(10*time.Millisecond, whole)
	inPanes(p.plan)
	r := newRig(t, p.script)
	r.cfg.MemoryBytes = LeastMemoryBytes
	v := newTravel(t, r, 1)
	r.deployment.Plan = p.plan
	if v.run(func() bool { return v.newest != nil && v.has(protocol.Outbox) }) {
		t.Fatal("no output waited for credit")
	}
	m := *v.newest
	m.Savepoint = true
	v.newest = &m
	g := v.deploy(t.Context(), p.plan, leg{parallelism: 2, backend: "memory"})
	wantError(t, g.e.Restored(), fault.Unsupported, "not taken while the job was quiet")
	if err := r.wait(g.e); err == nil {
		t.Error("the job ran")
	}
}

// Elements that wait go to the owner of their key, and where there are no keys each to one of the tasks.
func TestWaitingElementsAreDealtOut(t *testing.T) {
	const tasks = 3
	stages := stateful(t, 1, 1, count).plan.Stages
	at := slices.IndexFunc(stages, func(s *plan.Stage) bool { return s.Exec != nil && s.Exec.Stateful != nil })
	whole := frame.Frame{MinTimestamp: 0}
	for i := range 100 {
		whole.Data = append(whole.Data, windowed(int64(i), kvOf(fmt.Sprint("k", i), "v"))...)
		whole.Elements++
	}
	keyed, dealt, least := 0, 0, int64(math.MaxInt64)
	for i := range tasks {
		r := &restored{Task: protocol.Task{Index: i, Of: tasks}, t: &task{stage: stages[at]}, heir: &heir{}}
		for n := range 10 {
			f, err := r.share(whole, n)
			if err != nil {
				t.Fatal(err)
			}
			dealt += f.Elements
		}
		r.FirstGroup, r.EndGroup = keygroup.Range(i, tasks, keygroup.DefaultMax)
		f, err := r.share(whole, i)
		if err != nil {
			t.Fatal(err)
		}
		if n, _, err := stages[at].In[0].Coder.Count(f.Data); err != nil || n != f.Elements || n == 0 {
			t.Errorf("task %d has %d elements, and says %d: %v", i, n, f.Elements, err)
		}
		keyed += f.Elements
		least = min(least, f.MinTimestamp)
	}
	if keyed != whole.Elements || dealt != 10*whole.Elements || least != 0 {
		t.Errorf("%d of %d elements by key, the first at %d; %d of %d in turn", keyed, whole.Elements, least, dealt, 10*whole.Elements)
	}
}
