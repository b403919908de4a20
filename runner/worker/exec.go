package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/timers"
)

// execTask is a task of an executable stage: its core decides, it does.
type execTask struct {
	*task
	core    *engine.Task
	pool    *pool
	results chan outcome
	// attempts are run by goroutines that wait for more of them.
	attempts chan func()
	bundles  sync.WaitGroup
	turn     int // rotates the targets of rebalanced output

	mainChannels int
	parked       parking
	// stable is nil for stages that take their input as it comes.
	stable *stable
	kept   kept
	// prepaid are bytes whose credit went back before they were committed.
	prepaid int
	mu      sync.Mutex // protects live
	live    map[engine.BundleID]*live
	// keyed is nil for stages without state and timers.
	keyed *keyed
	// spools tells that the input may refer to panes in spools.
	spools bool
	// sorter is nil for stages that take their input as it comes.
	sorter *sorter
	// waiting is nil for stages without side inputs that change.
	waiting *waiting
	// complete has, for each side channel, its number among those of side inputs that
	// are waited for as a whole, -1 for others.
	complete []int
	// heard are the watermarks of all side channels.
	heard []int64
	// waited is what waited for windows of side inputs when the task was restored, until it goes on.
	waited []parkedPart
}

// outcome is how an attempt of a bundle ended.
type outcome struct {
	bundle engine.BundleID
	// split is the answer to a split request while the bundle goes on; then
	// nothing else is set.
	split *engine.Split
	// produced is true where a running bundle has put out what is worth a commit;
	// then nothing else is set.
	produced bool
	out      *staging
	keyed    *keyedAttempt
	pins     *pins
	late     int64 // elements dropped, once for each window
	result   engine.Result
	err      error
	attempt  int
	// commit is what remains to be done with the harness after the commit.
	commit func()
}

// wholeBundleBytes of input make a bundle that must go out in one message, which
// TypeScript takes up to 4 MiB (the default of gRPC for Node); a frame may come on top.
const wholeBundleBytes = 1 << 20

// Of stages whose bundles should be few, each as large as memory allows.
const (
	fewBundlesElements = 1_000_000
	fewBundlesTarget   = time.Minute
)

func newExecTask(ctx context.Context, t *task, from *restored) (*execTask, error) {
	main, _ := t.e.channels(t.stage)
	limits := engine.Limits{}
	if t.stage.Exec.Splittable || t.rebalanced() {
		limits.First = 1
	}
	if wholeBundles(t.e.d.Plan.Environments[t.stage.Exec.Environment]) {
		limits.Bytes = wholeBundleBytes
	}
	fill, held := 0, newStable(t)
	if t.stage.Exec.FewBundles && t.stage.Bounded && held == nil { // else no more may come before all that has is done
		limits.First, limits.Target = fewBundlesElements, fewBundlesTarget
		fill = min(t.inbox.Capacity()/2, t.e.outboxBytes()) // of what is parked no more comes at once
	}
	x := &execTask{
		task: t, parked: parking{spill: t.e.spiller()}, kept: kept{spill: t.e.spiller()}, stable: held, pool: t.e.envs[t.stage.Exec.Environment], mainChannels: main, spools: t.e.readsSpools(t.stage),
	}
	side := 0
	for _, in := range t.stage.In {
		switch {
		case in.Kind != plan.Broadcast: // the others come first
		case t.e.lives[in.From.Index] != nil:
			x.complete = append(x.complete, slices.Repeat([]int{-1}, t.e.parallelism(in.From))...)
		default:
			for range t.e.parallelism(in.From) {
				x.complete = append(x.complete, side)
				side++
			}
		}
	}
	x.heard = slices.Repeat([]int64{frame.MinTimestamp}, len(x.complete))
	var err error
	if x.waiting, err = newWaiting(t); err != nil {
		return nil, err
	}
	cfg := engine.Config{Main: main, Side: side, Attempts: t.e.cfg.Attempts, Limits: limits, SplitAfter: t.e.cfg.Splits.After, Cut: x.cut,
		Splittable: t.stage.Exec.Splittable, Checkpoints: x.checkpoints(), Fill: fill, Bounded: t.stage.Bounded && !t.stage.Exec.Unbounded,
		Rounds: x.stable != nil && x.stable.rounds}
	if t.e.clock.virtual {
		cfg.InFlight = 1
	}
	if cfg.Restore, err = x.restore(from); err != nil {
		return nil, err
	}
	if spec := t.stage.Exec.Stateful; spec != nil {
		if x.keyed, err = t.openKeyed(ctx, spec, from); err != nil {
			return nil, err
		}
		cfg.Timers = x.keyed.timers
		if spec.TimeSorted && main > 0 {
			if x.sorter, err = newSorter(spec, t.stage.In[0].Coder, x.keyed.store, x.keyed.groups); err != nil {
				return nil, errors.Join(err, x.keyed.close())
			}
		}
	}
	x.core = engine.NewTask(cfg)
	if x.sorter != nil || !x.kept.empty() {
		x.noteBuffered()
	}
	x.results = make(chan outcome, 16)
	x.attempts = make(chan func())
	x.live = map[engine.BundleID]*live{}
	return x, nil
}

func (x *execTask) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if x.waiting != nil {
		defer x.waiting.close()
		x.waiting.mapWindow = func(m plan.WindowMapping, w []byte) ([]byte, error) { return x.e.mapWindow(ctx, m, w) }
	}
	err := x.arrive(ctx)
	if err == nil {
		err = x.goOn()
	}
	if err == nil {
		err = loop(ctx, x.task, x)
	}
	close(x.attempts)
	if err != nil {
		cancel() // bundles that are still in flight
	}
	go func() {
		x.bundles.Wait()
		close(x.results)
	}()
	for r := range x.results {
		if r.out != nil {
			r.out.discard()
		}
	}
	x.parked.close()
	x.kept.close()
	x.awaitUploads(err)
	if x.keyed != nil {
		err = errors.Join(err, x.keyed.close())
	}
	return err
}

// act does what the core asks for.
func (x *execTask) act(ctx context.Context) (next time.Time, done bool, err error) {
	if err := x.unpark(); err != nil {
		return next, false, err
	}
	if err := x.unkeep(); err != nil {
		return next, false, err
	}
	if err := x.unsort(); err != nil {
		return next, false, err
	}
	if err := x.unwait(); err != nil {
		return next, false, err
	}
	x.core.Block(x.outbox.Waiting() > x.e.outboxBytes() || x.unfinalized.Load() >= int64(x.e.cfg.Unfinalized))
	now := x.e.clock.Now()
	running := &x.e.running[x.stage.Index]
	x.core.Idle(x.idle(int(running.Load()), now))
	x.core.Spare(x.spare(int(running.Load()), now))
	if x.keyed != nil {
		x.keyed.advance(x.core.Reached())
	}
	ready, err := x.core.Ready(now)
	if err != nil {
		return next, false, err
	}
	x.repay(ready.Consumed)
	x.owes = x.stable != nil && !x.parked.empty()
	x.e.clock.begin(len(ready.Start) + len(ready.Splits))
	for _, b := range ready.Start {
		x.turn++
		a, err := x.keyed.begin(len(b.Timers) > 0)
		if err != nil {
			return next, false, err
		}
		running.Add(1)
		x.start(ctx, *b, x.turn, a)
	}
	for _, s := range ready.Splits {
		x.bundles.Add(1)
		go x.split(ctx, s)
	}
	if ready.Advanced {
		if err := x.outbox.Watermark(ready.Watermark); err != nil {
			return next, false, err
		}
		if x.waiting != nil {
			if err := x.waiting.release(ready.Watermark); err != nil {
				return next, false, err
			}
		}
	}
	if ready.Done {
		return next, true, nil
	}
	next = ready.Wake
	if look := now.Add(x.e.cfg.Splits.LookEvery); x.core.Splittable() && (next.IsZero() || next.After(look)) {
		next = look
	}
	return next, false, nil
}

// idle is how many more bundles the stage may run than it does: one per task,
// and twice as many where a bundle takes so long that it may be waiting for
// something outside, perhaps even for an element that it has not come to.
func (x *execTask) idle(running int, now time.Time) int {
	if x.e.clock.virtual {
		return 0 // one bundle after the other
	}
	tasks := x.e.parallelism(x.stage)
	if running >= tasks && running < 2*tasks && x.core.Longest(now) > x.e.cfg.Splits.StuckAfter {
		return 1
	}
	return tasks - running
}

// spare is how many more bundles yet the stage may run, of input that is there: its bundles
// seem to wait for something outside.
func (x *execTask) spare(running int, now time.Time) int {
	if x.e.clock.virtual || x.core.Longest(now) <= x.e.cfg.Splits.StuckAfter {
		return 0
	}
	return x.e.crowds[x.stage.Index].room(running, x.pool, now, &x.e.cfg)
}

// repay gives back the credit of committed input, unless that has been done.
func (x *execTask) repay(consumed int) {
	free := min(x.prepaid, consumed)
	x.prepaid -= free
	x.inbox.Consumed(consumed - free)
}

// deliver passes what has arrived to the core. While side inputs that don't change are
// not complete all other input is parked, on disk if need be, and its credit goes
// back: a producer of both would otherwise wait for us to take the one before it
// can send the other.
func (x *execTask) deliver(m exchange.Message) error {
	switch {
	case m.Channel >= x.mainChannels:
		x.sideNews(m)
	case x.stable != nil:
		return x.await(m)
	case m.Kind == exchange.Data && x.keeps():
		return x.keep(m.Frame)
	case !x.core.SidesReady():
		if err := x.parked.push(m); err != nil {
			return err
		}
		x.inbox.Consumed(m.Frame.Bytes())
	case !x.parked.empty(): // it has to queue, but keeps its credit
		x.parked.queue(m)
	default:
		return x.input(m)
	}
	return nil
}

// input passes on what need not be parked.
func (x *execTask) input(m exchange.Message) error {
	switch {
	case m.Kind == exchange.Watermark:
		x.core.Watermark(m.Channel, m.Watermark)
		return nil
	case x.sorter != nil:
		return x.sort(m.Frame)
	default:
		return x.admit(m.Frame, x.core.ChannelWatermark())
	}
}

// sideNews notes how far a side input is.
func (x *execTask) sideNews(m exchange.Message) {
	x.heard[m.Channel-x.mainChannels] = m.Watermark
	if at := x.complete[m.Channel-x.mainChannels]; at >= 0 {
		x.core.SideWatermark(at, m.Watermark)
	} else {
		x.waiting.changed = true
	}
}

// unpark brings parked input back as the core has use for it.
func (x *execTask) unpark() error {
	for x.core.SidesReady() && !x.parked.empty() && x.stable.free() && x.core.Pending() < 2*x.e.outboxBytes() {
		m, prepaid, err := x.parked.pop()
		if err != nil {
			return err
		}
		if prepaid {
			x.prepaid += m.Frame.Bytes()
		}
		x.stable.pass(m, prepaid)
		if err := x.input(m); err != nil {
			return err
		}
	}
	return nil
}

func (x *execTask) drain() { x.core.Drain(x.e.clock.Now()) }

func (x *execTask) reports() <-chan outcome { return x.results }

// reported commits an attempt's output, or hands the bundle back to the core.
func (x *execTask) reported(r outcome) error {
	if r.produced {
		x.core.Produced(r.bundle, x.e.clock.Now())
		return nil
	}
	if r.split != nil {
		return x.core.Split(r.bundle, *r.split, x.e.clock.Now())
	}
	x.e.running[x.stage.Index].Add(-1)
	if r.err != nil {
		if r.out != nil {
			r.out.discard()
		}
		if x.keyed != nil {
			x.keyed.token.fail()
		}
		if errors.Is(r.err, timers.ErrOutOfTurn) {
			x.core.Withdraw(r.bundle)
			return nil
		}
		if err := x.core.Failed(r.bundle, r.err); err != nil {
			return err
		}
		x.log.Warn("bundle failed, trying again", "bundle", r.bundle, "attempt", r.attempt, "error", r.err)
		return nil
	}
	if r.keyed != nil {
		if err := x.keyed.commit(r.keyed); err != nil {
			r.out.discard()
			return err
		}
	}
	for i, s := range r.out.frames {
		if err := x.outbox.Send(s.outlet, s.frame); err != nil {
			r.out.frames = r.out.frames[i+1:]
			r.out.discard()
			return err
		}
	}
	input := x.core.Succeeded(r.bundle, r.result, x.e.clock.Now())
	if r.commit != nil {
		r.commit()
	}
	if x.spools {
		return x.releaseSpools(input)
	}
	return nil
}

// rebalanced reports whether all input is spread by a redistribution: its
// elements often stand for much work each.
func (t *task) rebalanced() bool {
	for _, in := range t.stage.In {
		if in.Kind != plan.Rebalance && in.Kind != plan.Broadcast {
			return false
		}
	}
	return true
}

// cut finds the end of the first n elements of a block of input.
func (x *execTask) cut(data []byte, n int) (int, error) {
	coder := x.stage.In[0].Coder
	var el coders.Element
	off := 0
	for range n {
		if err := coder.Next(data[off:], &el); err != nil {
			return 0, fmt.Errorf("at byte %d: %w", off, err)
		}
		off += el.Size
	}
	return off, nil
}
