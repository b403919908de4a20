package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/statebackend"
)

// upstreamLag is how much later than one task upstream another may put out what belongs to the same
// moment, as a rule: AfterSynchronizedProcessingTime waits for it. Without, a group that fires in two
// tasks gives the next one two panes, and an early one before the final watermark.
const upstreamLag = 20 * time.Millisecond

// grouped is what a task groups, and what becomes of it.
type grouped struct {
	spec *plan.GroupSpec
	// prepare makes KVs of the input; nil where it has them.
	prepare func(block []byte) ([]byte, error)
	// panes takes those that have fired.
	panes func(frame.Frame) error
	// reached is told up to which watermark of the input all panes were given. Where it is set
	// no elements leave the task, and its watermark says only that there is news.
	reached func(watermark int64)
}

// paneTask is a task whose groups leave in panes, as triggers and the watermark say.
type paneTask struct {
	*task
	grouped
	quiet
	groups  *panes.Panes
	store   statebackend.Store // that groups are in
	in      *engine.Watermarks
	out     int64 // the last watermark sent
	dropped int64 // late elements, as counted so far
	// input is what has come and was not looked at: it keeps its credit.
	input arrivals
	came  time.Time // when what was delivered since the task acted has come; zero if nothing was
	now   time.Time // as far as the task is: when what it last looked at came
	// firing is true while panes leave; what has come since waits. fired is true if any have.
	firing, fired bool
	left          int // bytes that it deals with until it looks what else there is
	// prepaid are bytes of input for which nobody waits for credit: they were restored.
	prepaid int
	// gone is closed when those have ended who read what the task keeps for them; nil if nothing has to be kept.
	gone <-chan struct{}
}

// arrived is a message and when it has come. All that comes together has one time: a delay that begins with an
// element isn't over by the watermark that came with it, however long the task takes.
type arrived struct {
	exchange.Message
	at time.Time
}

// arrivals is a queue of messages that uses its memory again.
type arrivals struct {
	all  []arrived
	next int // before which all were taken
}

func (q *arrivals) waiting() []arrived { return q.all[q.next:] }

func (q *arrivals) push(m arrived) {
	if q.next > len(q.all)/2 {
		n := copy(q.all, q.waiting())
		clear(q.all[n:])
		q.all, q.next = q.all[:n], 0
	}
	q.all = append(q.all, m)
}

func (q *arrivals) pop() {
	q.all[q.next] = arrived{}
	q.next++
}

const (
	// paneBytes is how many bytes of frames, in and out, a task that groups deals with in a row: milliseconds.
	paneBytes = 512 << 10
	// paneFrame is what dealing with a frame costs, however small it is, in bytes.
	paneFrame = 1 << 10
)

// runPanes is a GroupByKey stage whose groups leave in panes.
func (t *task) runPanes(ctx context.Context, from *restored) error {
	return t.runGrouping(ctx, from, grouped{spec: t.stage.Group, panes: func(f frame.Frame) error {
		t.e.stats.made(t, f)
		return t.sendGroups(f)
	}})
}

func (t *task) runGrouping(ctx context.Context, from *restored, g grouped) (err error) {
	store, err := t.openStore(ctx, from)
	if err != nil {
		return fmt.Errorf("open state: %w", err)
	}
	defer func() {
		t.awaitUploads(err)
		err = errors.Join(err, store.Close())
	}()
	was, err := from.panes()
	if err != nil {
		return err
	}
	first, end := keygroup.Range(t.index, t.e.parallelism(t.stage), keygroup.DefaultMax)
	var spool panes.SpoolFunc
	if s := t.spool(); s != nil {
		spool = s.put
		if from != nil {
			if err := from.spool(ctx, s); err != nil {
				return from.where(err)
			}
		}
	}
	lag := upstreamLag
	if t.e.clock.virtual || g.reached != nil {
		// Time stands still until all is there; or it is a side input, of which the latest pane
		// counts: one that took in two of a group upstream would be no singleton any more.
		lag = 0
	}
	p, err := panes.New(panes.Config{
		Input: g.spec.Input, Windowing: g.spec.Windowing, Bounded: g.spec.Bounded, BatchSize: g.spec.BatchSize, Lag: lag, Scope: g.spec.Name, Store: store,
		MemoryBytes: t.e.tableBytes(t.e.share(tablesShare)), FirstGroup: first, EndGroup: end,
		Merge: t.e.mergeKeys(ctx, g.spec.Merge), Spool: spool, Combine: t.e.combine(ctx, g.spec.Combine),
		Restore: was,
	})
	if err != nil {
		return err
	}
	main, _ := t.e.channels(t.stage)
	x := &paneTask{task: t, grouped: g, groups: p, store: store, in: engine.NewWatermarks(main), out: frame.MinTimestamp, gone: t.readersGone()}
	if from != nil {
		if err := x.restore(from, was.Pending); err != nil {
			return err
		}
	}
	if err := t.arrive(ctx); err != nil {
		return err
	}
	return loop(ctx, t, x)
}

func (x *paneTask) deliver(m exchange.Message) error {
	if x.came.IsZero() {
		x.came = x.e.clock.Now()
	}
	x.input.push(arrived{m, x.came})
	return nil
}

// act groups what has come and sends what fires by now, as long as there is credit for it, and
// not for long.
func (x *paneTask) act(context.Context) (next time.Time, done bool, err error) {
	x.left, x.came = paneBytes, time.Time{}
	all, err := x.group()
	if err == nil && all {
		if x.holding == 0 {
			x.now = x.e.clock.Now()
		}
		all, err = x.fire()
	}
	switch {
	case err != nil:
	case x.full(): // credit will wake it
	case !all:
		next = x.e.clock.Now()
	default:
		if x.holding == 0 {
			next, _ = x.groups.NextClock()
		}
		done = x.out >= frame.MaxTimestamp && x.gone == nil
	}
	return next, done, err
}

// atRest is part of owner. What waits for the time keeps waiting.
func (x *paneTask) atRest() bool { return !x.firing && len(x.input.waiting()) == 0 }

// full tells whether the task has sent what it may.
func (x *paneTask) full() bool { return x.outbox.Waiting() > x.e.outboxBytes() }

// pause tells whether something else comes before the next frame.
func (x *paneTask) pause() bool { return x.left <= 0 || x.full() }

// dealt notes a frame that was dealt with.
func (x *paneTask) dealt(f frame.Frame) { x.left -= paneFrame + f.Bytes() }

// group deals with what has come, and tells whether it has come to the end of that. A watermark is
// acted on before the elements behind it.
func (x *paneTask) group() (all bool, err error) {
	for {
		if x.firing {
			if all, err := x.fire(); err != nil || !all {
				return false, err
			}
		}
		if len(x.input.waiting()) == 0 {
			return true, nil
		}
		m := x.input.waiting()[0]
		x.now = m.at
		switch {
		case m.Kind == exchange.Watermark && x.due():
			// A delay that was over when the watermark came gives an early pane.
			x.firing = true
			continue
		case x.pause():
			x.firing = true // then, before more comes
			return false, nil
		}
		x.input.pop()
		if err := x.message(m.Message); err != nil {
			return false, err
		}
	}
}

// due tells whether panes wait for a time that has come.
func (x *paneTask) due() bool {
	at, ok := x.groups.NextClock()
	return ok && !at.After(x.now)
}

func (x *paneTask) message(m exchange.Message) error {
	if m.Kind == exchange.Watermark {
		x.firing = x.in.Advance(m.Channel, m.Watermark)
		return nil
	}
	x.e.spans.input(x.stage)
	data := m.Frame.Data
	if x.prepare != nil {
		var err error
		if data, err = x.prepare(data); err != nil {
			return err
		}
	}
	if err := x.groups.Add(data, x.now); err != nil {
		return err
	}
	free := min(x.prepaid, m.Frame.Bytes())
	x.prepaid -= free
	x.inbox.Consumed(m.Frame.Bytes() - free)
	x.dealt(m.Frame)
	return nil
}

// fire sends what fires by now and then how far it is complete, and tells whether it has.
func (x *paneTask) fire() (all bool, err error) {
	x.firing = true
	if err := x.groups.Advance(x.in.Min(), x.now); err != nil {
		return false, err
	}
	for {
		if x.pause() {
			return false, nil
		}
		f, ok, err := x.groups.Next(frameBytes)
		if err != nil {
			return false, err
		}
		if !ok {
			break
		}
		x.fired = true
		x.dealt(f)
		if err := x.panes(f); err != nil {
			return false, err
		}
	}
	x.firing = false
	return true, x.complete()
}

// noteLate counts what was dropped since it was called before.
func (x *paneTask) noteLate() {
	late := x.groups.Stats().LateDropped
	x.e.stats.lateDropped(x.task, late-x.dropped)
	x.dropped = late
}

// complete sends how far the task is, when all panes have left.
func (x *paneTask) complete() error {
	x.noteLate()
	wm := min(x.in.Min(), x.groups.Hold())
	if x.reached != nil {
		wm = x.in.Min()
		x.reached(wm)
	}
	news := x.reached != nil && x.fired
	x.fired = false
	if wm <= x.out && !news {
		return nil
	}
	x.out = max(x.out, wm)
	return x.outbox.Watermark(x.out)
}
