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
	groups  *panes.Panes
	in      *engine.Watermarks
	out     int64 // the last watermark sent
	dropped int64 // late elements, as counted so far
}

// runPanes is a GroupByKey stage whose groups leave in panes.
func (t *task) runPanes(ctx context.Context) error {
	return t.runGrouping(ctx, grouped{spec: t.stage.Group, panes: func(f frame.Frame) error {
		t.e.stats.made(t.stage, f)
		return t.sendGroups(f)
	}})
}

func (t *task) runGrouping(ctx context.Context, g grouped) (err error) {
	store, err := t.e.cfg.State.Open(fmt.Sprintf("%s/%s-%d", t.e.d.JobID, t.stage.ID, t.index))
	if err != nil {
		return fmt.Errorf("open state: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	first, end := keygroup.Range(t.index, t.e.parallelism(t.stage), keygroup.DefaultMax)
	var spool panes.SpoolFunc
	if spools := t.e.large[t.stage.Index].spools; spools != nil {
		spool = spools[t.index].put
	}
	lag := upstreamLag
	if t.e.clock.virtual || g.reached != nil {
		// Time stands still until all is there; or it is a side input, of which the latest pane
		// counts: one that took in two of a group upstream would be no singleton any more.
		lag = 0
	}
	p, err := panes.New(panes.Config{
		Input: g.spec.Input, Windowing: g.spec.Windowing, Bounded: g.spec.Bounded, Lag: lag, Scope: g.spec.Name, Store: store,
		MemoryBytes: t.e.tableBytes(t.e.share(tablesShare)), FirstGroup: first, EndGroup: end,
		Merge: t.e.mergeKeys(ctx, g.spec.Merge), Spool: spool, Combine: t.e.combine(ctx, g.spec.Combine),
	})
	if err != nil {
		return err
	}
	main, _ := t.e.channels(t.stage)
	x := &paneTask{task: t, grouped: g, groups: p, in: engine.NewWatermarks(main), out: frame.MinTimestamp}
	return x.loop(ctx)
}

func (x *paneTask) loop(ctx context.Context) error {
	wake := x.e.clock.newAlarm()
	defer wake.stop()
	for {
		if err := x.act(ctx, x.e.clock.Now()); err != nil {
			return err
		}
		if x.out >= frame.MaxTimestamp {
			return x.room(ctx, 0)
		}
		at, _ := x.groups.NextClock()
		wake.set(at)
		x.settle()
		select {
		case <-x.inbox.C:
			if err := x.receive(ctx); err != nil {
				return err
			}
		case <-x.outbox.Credit:
			if err := x.outbox.Flush(); err != nil {
				return err
			}
		case <-wake.C:
			x.held++
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive groups what has arrived. A watermark is acted on before the elements behind it.
func (x *paneTask) receive(ctx context.Context) error {
	now := x.e.clock.Now() // of all: a delay of elements isn't over by the watermark that came with them
	for _, m := range x.take() {
		if err := x.message(ctx, m, now); err != nil {
			return err
		}
	}
	return nil
}

func (x *paneTask) message(ctx context.Context, m exchange.Message, now time.Time) error {
	if !m.Data {
		if at, ok := x.groups.NextClock(); ok && !at.After(now) {
			// A delay that was over when the watermark came gives an early pane.
			if err := x.act(ctx, now); err != nil {
				return err
			}
		}
		if !x.in.Advance(m.Channel, m.Watermark) {
			return nil
		}
		return x.act(ctx, now)
	}
	x.e.spans.input(x.stage)
	data := m.Frame.Data
	if x.prepare != nil {
		var err error
		if data, err = x.prepare(data); err != nil {
			return err
		}
	}
	if err := x.groups.Add(data, now); err != nil {
		return err
	}
	x.inbox.Consumed(m.Frame.Bytes())
	return nil
}

// act sends what fires by now, and how far it is complete.
func (x *paneTask) act(ctx context.Context, now time.Time) error {
	if err := x.groups.Advance(x.in.Min(), now); err != nil {
		return err
	}
	fired := false
	for {
		f, ok, err := x.groups.Next(frameBytes)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		fired = true
		if err := x.panes(f); err != nil {
			return err
		}
		if err := x.room(ctx, x.e.outboxBytes()); err != nil {
			return err
		}
	}
	stats := x.groups.Stats()
	x.e.stats.lateDropped(x.stage, stats.LateDropped-x.dropped)
	x.dropped = stats.LateDropped
	wm := min(x.in.Min(), x.groups.Hold())
	if x.reached != nil {
		wm = x.in.Min()
		x.reached(wm)
	}
	if wm <= x.out && (!fired || x.reached == nil) {
		return nil
	}
	x.out = max(x.out, wm)
	return x.outbox.Watermark(x.out)
}
