package worker

import (
	"context"
	"errors"
	"io"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/grouping"
	"github.com/lintelrun/lintel/runner/sideinput"
)

// runGroup is a GroupByKey over bounded input: all elements are grouped as they
// come, and the groups leave when the watermark has passed the end of time.
func (t *task) runGroup(ctx context.Context) error {
	table, err := grouping.New(grouping.Config{
		Input:       t.stage.Group.Input,
		Windowing:   t.stage.Group.Windowing,
		MemoryBytes: t.e.tableBytes(),
		Dir:         t.e.dir,
		StateBacked: t.stage.Group.StateBacked,
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
		t.e.stats.made(t.stage, f)
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

// runSide materialises a PCollection and lets its readers begin.
func (t *task) runSide(ctx context.Context) error {
	b, err := sideinput.NewBuilder(sideinput.Config{
		Input:       t.stage.Side.Input,
		Multimap:    t.stage.Side.Multimap,
		MemoryBytes: t.e.tableBytes(),
		Dir:         t.e.dir,
	})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := t.collect(ctx, func(f frame.Frame) error { return b.Add(f.Data) }); err != nil {
		return err
	}
	v, err := b.Build()
	if err != nil {
		return err
	}
	t.e.cfg.Hooks.Spilled(b.SpilledBytes() + v.Stats().OnDisk)
	t.e.sides[t.stage.Index].Store(v)
	return t.end(ctx)
}
