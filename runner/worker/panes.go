package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/panes"
)

// paneTask is a task of a GroupByKey stage whose groups leave in panes, as triggers and
// the watermark say.
type paneTask struct {
	*task
	panes   *panes.Panes
	in      *engine.Watermarks
	out     int64 // the last watermark sent
	dropped int64 // late elements, as counted so far
}

func (t *task) runPanes(ctx context.Context) (err error) {
	store, err := t.e.cfg.State.Open(fmt.Sprintf("%s/%s-%d", t.e.d.JobID, t.stage.ID, t.index))
	if err != nil {
		return fmt.Errorf("open state: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	first, end := keygroup.Range(t.index, t.e.parallelism(t.stage), keygroup.DefaultMax)
	g := t.stage.Group
	p, err := panes.New(panes.Config{
		Input: g.Input, Windowing: g.Windowing, Scope: g.Name, Store: store,
		MemoryBytes: t.e.tableBytes(), FirstGroup: first, EndGroup: end,
		Merge: t.merge(ctx),
	})
	if err != nil {
		return err
	}
	main, _ := t.e.channels(t.stage)
	x := &paneTask{task: t, panes: p, in: engine.NewWatermarks(main), out: frame.MinTimestamp}
	return x.loop(ctx)
}

func (x *paneTask) loop(ctx context.Context) error {
	wake := x.e.clock.newAlarm()
	defer wake.stop()
	for {
		if err := x.act(ctx); err != nil {
			return err
		}
		if x.out >= frame.MaxTimestamp {
			return x.room(ctx, 0)
		}
		at, _ := x.panes.NextClock()
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
	for _, m := range x.take() {
		if err := x.message(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (x *paneTask) message(ctx context.Context, m exchange.Message) error {
	if !m.Data {
		if !x.in.Advance(m.Channel, m.Watermark) {
			return nil
		}
		return x.act(ctx)
	}
	x.e.spans.input(x.stage)
	if err := x.panes.Add(m.Frame.Data, x.e.clock.Now()); err != nil {
		return err
	}
	x.inbox.Consumed(m.Frame.Bytes())
	return nil
}

// act sends what fires by now, and how far it is complete.
func (x *paneTask) act(ctx context.Context) error {
	if err := x.panes.Advance(x.in.Min(), x.e.clock.Now()); err != nil {
		return err
	}
	for {
		f, ok, err := x.panes.Next(frameBytes)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := x.sendGroups(f); err != nil {
			return err
		}
		x.e.stats.made(x.stage, f)
		if err := x.room(ctx, x.e.outboxBytes()); err != nil {
			return err
		}
	}
	stats := x.panes.Stats()
	x.e.stats.lateDropped(x.stage, stats.LateDropped-x.dropped)
	x.dropped = stats.LateDropped
	wm := min(x.in.Min(), x.panes.Hold())
	if wm <= x.out {
		return nil
	}
	x.out = wm
	return x.outbox.Watermark(wm)
}
