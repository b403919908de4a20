package worker

import (
	"context"
	"errors"
	"io"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/grouping"
)

// runGroup is a GroupByKey over bounded input: all elements are grouped as they
// come, and the groups leave when the watermark has passed the end of time.
func (t *task) runGroup(ctx context.Context) error {
	table, err := grouping.New(grouping.Config{
		Input:       t.stage.Group.Input,
		Windowing:   t.stage.Group.Windowing,
		MemoryBytes: t.e.tableBytes(t.e.alone(tablesShare)),
		Sharers:     t.e.jobs,
		Dir:         t.e.dir,
		StateBacked: t.stage.Group.StateBacked,
		Merge:       t.e.mergeKeys(ctx, t.stage.Group.Merge),
		BatchSize:   t.stage.Group.BatchSize,
		TokenPrefix: largePrefix(t.stage.Index, t.index),
	})
	if err != nil {
		return err
	}
	defer table.Close()
	t.e.large[t.stage.Index].tasks[t.index].Store(table.Values())
	var spilled int64
	report := func() {
		now := table.Stats().SpilledBytes
		t.e.cfg.Hooks.Spilled(now - spilled)
		spilled = now
	}
	defer report()
	if err := t.collect(ctx, func(f frame.Frame) error { return table.Add(f.Data) }); err != nil {
		return err
	}
	groups, err := table.Drain()
	if err != nil {
		return err
	}
	for {
		report()
		f, err := groups.Next(frameBytes)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := t.sendGroups(f); err != nil {
			return err
		}
		t.e.stats.made(t, f)
		if err := t.room(ctx, t.e.outboxBytes()); err != nil {
			return err
		}
	}
	return t.end(ctx)
}

// sendGroups sends whole frames where no edge needs them cut.
func (t *task) sendGroups(f frame.Frame) error {
	for _, r := range t.routes {
		if r.edge.Kind != plan.Forward {
			return t.send(f)
		}
	}
	for _, r := range t.routes {
		if err := t.outbox.Send(r.first+r.home, inMemory{f}); err != nil {
			return err
		}
	}
	return nil
}
