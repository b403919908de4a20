package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/runner/frame"
)

// A task from which snapshots are taken does what it would without, whatever becomes of them.
func TestSnapshotsChangeNothing(t *testing.T) {
	testkit.Scripts(t, false, func(out *strings.Builder) func([]string) error {
		s := &script{now: time.Unix(0, 0), out: out}
		return func(words []string) error {
			err := s.line(words)
			scribble(s.task.Snapshot())
			return err
		}
	})
}

// scribble overwrites what is the snapshot's own.
func scribble(s *Snapshot) {
	clear(s.Inbox)
	for i := range s.Bundles {
		clear(s.Bundles[i].Frames)
		clear(s.Bundles[i].Rest)
	}
	clear(s.Residuals)
	clear(s.Marks)
	clear(s.Main)
	clear(s.Side)
}

// saved is a moment of an sdfJob.
type saved struct {
	snapshot  *Snapshot
	seen      map[span]int
	wants     map[span]time.Time
	truncated map[span]bool
	watermark int64
	drained   bool
	sent      int
}

func (j *sdfJob) save() saved {
	return saved{j.task.Snapshot(), maps.Clone(j.seen), maps.Clone(j.wants), maps.Clone(j.truncated), j.watermark, j.drained, j.sent}
}

// goBack drops all since a moment: what ran, and what was put out.
func (j *sdfJob) goBack(to saved) {
	clear(j.running)
	clear(j.asked)
	j.seen, j.wants, j.truncated = maps.Clone(to.seen), maps.Clone(to.wants), maps.Clone(to.truncated)
	j.watermark, j.drained, j.sent = to.watermark, to.drained, to.sent
	j.credit, j.received = 0, to.snapshot.Bytes()
	j.cfg.Restore = to.snapshot
	j.task = NewTask(j.cfg)
}

// What is true of splittable elements stays so if the task goes back to a snapshot of any moment, again and again.
func TestSplittableElementsSurviveCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := newSDFJob(t)
		last := j.save()
		crashes := rapid.IntRange(0, 5).Draw(t, "crashes")
		j.run(func() {
			switch rapid.IntRange(0, 9).Draw(t, "then") {
			case 0, 1:
				last = j.save()
			case 2:
				if crashes > 0 {
					crashes--
					before := j.watermark
					if j.goBack(last); j.watermark > before {
						t.Fatalf("the snapshot's watermark is %d, where %d was the last", j.watermark, before)
					}
				}
			}
		})
	})
}

// Tasks that go on from one snapshot don't disturb each other.
func TestSnapshotsAreRestoredMoreThanOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := newSDFJob(t)
		for range rapid.IntRange(0, 10).Draw(t, "steps") {
			j.step(false)
		}
		start := j.save()
		text := fmt.Sprintf("%+v", start.snapshot)
		for range 2 {
			j.goBack(start)
			j.run(func() {})
			if again := fmt.Sprintf("%+v", start.snapshot); again != text {
				t.Fatalf("the snapshot was\n%s\nand is\n%s", text, again)
			}
		}
	})
}

// clocked is a stateful task: an element at a time sets timers of its key, which may set others.
type clocked struct {
	t         *rapid.T
	cfg       Config
	task      *Task
	timers    *heldTimers
	log       []string // what was committed
	watermark int64
	running   *Bundle
	at        int // of the input
}

// heldTimers are a few timers, which fire one by one.
type heldTimers struct{ set []Timer }

func (h *heldTimers) Due(watermark int64, _ time.Time, _ int) ([]Timer, error) {
	slices.SortFunc(h.set, func(a, b Timer) int { return cmp.Or(cmp.Compare(a.Fire, b.Fire), cmp.Compare(a.Key, b.Key)) })
	if len(h.set) == 0 || h.set[0].Fire >= watermark {
		return nil, nil
	}
	return slices.Clone(h.set[:1]), nil
}

func (h *heldTimers) GiveBack([]Timer) {}

func (h *heldTimers) Hold() int64 {
	hold := int64(frame.MaxTimestamp)
	for _, v := range h.set {
		hold = min(hold, v.Hold)
	}
	return hold
}

func (h *heldTimers) NextClock() (time.Time, bool) { return time.Time{}, false }
func (h *heldTimers) Pending() bool                { return len(h.set) > 0 }

// clockedInput is one thing that comes: an element or a watermark of a channel.
type clockedInput struct {
	data    byte // 0 for a watermark
	channel int
	ts      int64
}

func drawClockedInput(t *rapid.T) []clockedInput {
	var in []clockedInput
	at := [2]int64{}
	for range rapid.IntRange(1, 25).Draw(t, "inputs") {
		c := rapid.IntRange(0, 1).Draw(t, "channel")
		if rapid.Bool().Draw(t, "element") {
			in = append(in, clockedInput{'a' + byte(len(in)), c, max(0, at[c]+rapid.Int64Range(-5, 20).Draw(t, "ts"))})
			continue
		}
		at[c] += rapid.Int64Range(1, 10).Draw(t, "by")
		in = append(in, clockedInput{0, c, at[c]})
	}
	return append(in, clockedInput{0, 0, frame.MaxTimestamp}, clockedInput{0, 1, frame.MaxTimestamp})
}

func newClocked(t *rapid.T) *clocked {
	c := &clocked{t: t, timers: &heldTimers{}, watermark: frame.MinTimestamp}
	c.cfg = Config{Main: 2, Cut: func(_ []byte, n int) (int, error) { return n, nil }, Limits: Limits{First: 1, Elements: 1}}
	c.start()
	return c
}

func (c *clocked) start() {
	c.cfg.Timers = c.timers
	c.task = NewTask(c.cfg)
}

// feed gives the task the next thing of its input.
func (c *clocked) feed(in []clockedInput) {
	if c.at == len(in) {
		return
	}
	i := in[c.at]
	c.at++
	if i.data == 0 {
		c.task.Watermark(i.channel, i.ts)
		return
	}
	c.task.Frame(frame.Frame{Data: []byte{i.data}, Elements: 1, MinTimestamp: i.ts}, c.task.ChannelWatermark())
}

// ready starts a bundle, if there is something to do.
func (c *clocked) ready() (done bool) {
	r, err := c.task.Ready(time.Unix(0, 0))
	if err != nil {
		c.t.Fatal(err)
	}
	if r.Advanced {
		if r.Watermark <= c.watermark {
			c.t.Fatalf("watermark %d after %d", r.Watermark, c.watermark)
		}
		if r.Watermark > c.timers.Hold() {
			c.t.Fatalf("watermark %d, and timers hold %d", r.Watermark, c.timers.Hold())
		}
		c.watermark = r.Watermark
	}
	if len(r.Start) > 0 {
		c.running = r.Start[0]
	}
	return r.Done
}

// end ends the bundle that runs, if one does.
func (c *clocked) end(fail bool) {
	b := c.running
	if b == nil {
		return
	}
	c.running = nil
	if fail && b.Attempt < 4 {
		if err := c.task.Failed(b.ID, errUser); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	for _, v := range b.Timers {
		c.log = append(c.log, fmt.Sprintf("timer %s%s at %d", v.Key, v.Tag, v.Fire))
		c.timers.set = slices.DeleteFunc(c.timers.set, func(o Timer) bool { return o.Key == v.Key && o.Tag == v.Tag })
		if len(v.Tag) < 2 {
			c.timers.set = append(c.timers.set, Timer{Key: v.Key, Tag: v.Tag + "+", Fire: v.Fire + 7, Hold: v.Fire + 7})
		}
	}
	for _, f := range b.Frames {
		c.log = append(c.log, "element "+string(f.Data))
		fire := f.MinTimestamp + int64(f.Data[0])%9
		c.timers.set = append(c.timers.set, Timer{Key: string(f.Data), Fire: fire, Hold: fire})
	}
	c.task.Succeeded(b.ID, Result{}, time.Unix(0, 0))
}

// bounded ends what does not end by itself.
func bounded(t *rapid.T, n int) {
	if n > 20_000 {
		t.Fatal("no end")
	}
}

// Elements and timers of a task that goes back to snapshots take turns as if it never had.
func TestTimersKeepTheirPlaceAfterCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawClockedInput(t)
		whole := newClocked(t)
		for n := 0; !whole.ready(); n++ {
			if whole.end(false); whole.running == nil {
				whole.feed(in)
			}
			bounded(t, n)
		}

		c := newClocked(t)
		type moment struct {
			snapshot  *Snapshot
			timers    []Timer
			log       int
			watermark int64
			at        int
		}
		save := func() moment {
			return moment{c.task.Snapshot(), slices.Clone(c.timers.set), len(c.log), c.watermark, c.at}
		}
		last, crashes := save(), rapid.IntRange(0, 5).Draw(t, "crashes")
		done := false
		for n := 0; !done; n++ {
			bounded(t, n)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				last = save()
			case 2:
				if crashes--; crashes >= 0 {
					c.log, c.watermark, c.at, c.running = c.log[:last.log], last.watermark, last.at, nil
					c.timers = &heldTimers{slices.Clone(last.timers)}
					c.cfg.Restore = last.snapshot
					c.start()
				}
			case 3, 4, 5:
				c.feed(in)
			case 6:
				c.end(true)
			case 7:
				c.end(false)
			default:
				done = c.ready()
			}
		}
		if !slices.Equal(c.log, whole.log) {
			t.Fatalf("without crashes\n%q\nwith\n%q", whole.log, c.log)
		}
	})
}

// A drained job truncates what it has not begun, once, and finishes what it has, whenever the snapshot was taken.
func TestDrainingSurvivesCrashes(t *testing.T) {
	now := time.Unix(1e9, 0)
	cfg := Config{Main: 1, Cut: cutSpans, Splittable: true, InFlight: 1, Limits: Limits{First: 2}, Checkpoints: Checkpoints{Unbounded: true, Truncates: true}}
	for name, crash := range map[string]struct{ before, after bool }{"none": {}, "before": {before: true}, "after": {after: true}, "both": {true, true}} {
		task := NewTask(cfg)
		restart := func(really bool) {
			if really {
				again := cfg
				again.Restore = task.Snapshot()
				task = NewTask(again)
			}
		}
		ready := func() *Bundle {
			r, err := task.Ready(now)
			if err != nil || len(r.Start) != 1 {
				t.Fatalf("%s: %+v, %v", name, r, err)
			}
			return r.Start[0]
		}
		f := span{0, 0, 9}.frame()
		f.Data, f.Elements = append(f.Data, span{1, 5, 9}.frame().Data...), 2
		task.Frame(f, task.ChannelWatermark())
		task.Watermark(0, frame.MaxTimestamp)
		b := ready()
		now = now.Add(time.Minute)
		if r, _ := task.Ready(now); len(r.Splits) != 1 {
			t.Fatalf("%s: %+v", name, r)
		}
		if err := task.Split(b.ID, Split{LastPrimary: 0, FirstResidual: 2,
			Primaries: []frame.Frame{span{1, 5, 7}.frame()}, Residuals: []Residual{{Frame: span{1, 7, 9}.frame(), OutputWatermark: 7}}}, now); err != nil {
			t.Fatal(err)
		}
		restart(crash.before)
		task.Drain(now)
		restart(crash.after)
		if !crash.before && !crash.after {
			if err := task.Failed(b.ID, errUser); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for range 3 {
			b := ready()
			got = append(got, fmt.Sprint(spansOf(b.Frames), b.Truncate))
			task.Succeeded(b.ID, Result{}, now)
		}
		if want := []string{"[{0 0 9}] true", "[{1 5 7}] false", "[{1 7 9}] true"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if r, _ := task.Ready(now); !r.Done {
			t.Errorf("%s: %+v: the task is not done", name, r)
		}
	}
}

// What a bundle has given away is not lost with it, though nothing else is left of it.
func TestSnapshotOfABundleThatHasGivenAllAway(t *testing.T) {
	now := time.Unix(1e9, 0)
	cfg := Config{Main: 1, Cut: cutSpans, Splittable: true, Checkpoints: Checkpoints{Unbounded: true}}
	task := NewTask(cfg)
	task.Frame(span{0, 5, 9}.frame(), task.ChannelWatermark())
	r, _ := task.Ready(now)
	now = r.Wake
	if r, _ := task.Ready(now); len(r.Splits) != 1 {
		t.Fatalf("%+v", r)
	}
	rest := Residual{Frame: span{0, 5, 9}.frame(), OutputWatermark: 5, Delay: 1500 * time.Microsecond}
	if err := task.Split(r.Start[0].ID, Split{LastPrimary: -1, FirstResidual: 1, Residuals: []Residual{rest}}, now); err != nil {
		t.Fatal(err)
	}
	cfg.Restore = task.Snapshot()
	task = NewTask(cfg)
	r, _ = task.Ready(now)
	if at := now.Add(rest.Delay); len(r.Start) > 0 || !r.Wake.Equal(at) {
		t.Fatalf("%+v, to be waked at %v", r, at)
	}
	r, _ = task.Ready(r.Wake)
	if len(r.Start) != 1 || !slices.Equal(spansOf(r.Start[0].Frames), []span{{0, 5, 9}}) {
		t.Errorf("%+v: not the rest", r)
	}
}

// Residuals come back as residuals, that give no credit and of which a drained job does without those that
// have no end, whether they wait, run or were given back.
func TestSnapshotsKnowResiduals(t *testing.T) {
	now := time.Unix(1e9, 0)
	cfg := Config{Main: 1, Cut: cutSpans, Splittable: true, InFlight: 1, Checkpoints: Checkpoints{Unbounded: true}}
	task, credit := NewTask(cfg), 0
	restart := func() {
		cfg.Restore = task.Snapshot()
		if n := cfg.Restore.Bytes(); n != 0 {
			t.Fatalf("%d bytes of a task that has residuals only", n)
		}
		task, credit = NewTask(cfg), 0
	}
	start := func(want ...span) BundleID {
		t.Helper()
		r, err := task.Ready(now)
		credit += r.Consumed
		if err != nil || len(r.Start) != 1 || !slices.Equal(spansOf(r.Start[0].Frames), want) || credit != 0 {
			t.Fatalf("%+v, %v, and credit for %d bytes; want %v to start", r, err, credit, want)
		}
		return r.Start[0].ID
	}
	ends, endless := span{1, 0, 9}, span{2, 0, 9}
	task.Frame(span{0, 0, 9}.frame(), task.ChannelWatermark())
	task.Watermark(0, frame.MaxTimestamp)
	id := start(span{0, 0, 9})
	task.Succeeded(id, Result{Residuals: []Residual{{Frame: ends.frame(), Bounded: true}, {Frame: endless.frame()}}}, now)
	restart()
	start(ends, endless)
	restart()
	id = start(ends, endless)
	if err := task.Split(id, Split{LastPrimary: -1, FirstResidual: 0}, now); err != nil {
		t.Fatal(err)
	}
	restart()
	task.Drain(now)
	id = start(ends)
	task.Succeeded(id, Result{}, now)
	if r, err := task.Ready(now); err != nil || !r.Done || r.Consumed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// The input watermark of a task does not go back where what it is made of begins anew.
func TestInputWatermarkSurvivesCrashes(t *testing.T) {
	cfg := Config{Main: 1}
	task := NewTask(cfg)
	task.Watermark(0, 30)
	task.Buffered(20)
	if wm := task.InputWatermark(); wm != 20 {
		t.Fatalf("the watermark is %d", wm)
	}
	cfg.Restore = task.Snapshot()
	task = NewTask(cfg)
	task.Buffered(10)
	if wm := task.InputWatermark(); wm != 20 {
		t.Errorf("the watermark is %d after 20", wm)
	}
}
