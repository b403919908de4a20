package worker

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/parts"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend"
)

// restored is what a task goes on from. Nil is the beginning of time.
type restored struct {
	// Task is that of the snapshot or, of a savepoint, made of those that the task inherits from.
	protocol.Task
	t    *task
	from *rpc.Restore
	// files are copies of the files of small parts, by their place in the manifest.
	files map[int]*os.File
	// place has for each channel of the snapshot its number now, -1 if it is no more.
	place []int
	final map[int]bool // channels whose final watermark has come
	// heir is what the task's stage goes on from in a savepoint, nil in checkpoints; stores is the state of which
	// the task takes its own then.
	heir   *heir
	stores []statebackend.Part
}

// channels are those of the tasks of a stage, by number.
func (c *checkpointer) channels(s *plan.Stage) []protocol.Channel {
	var all []protocol.Channel
	for _, in := range s.In {
		for i := range c.e.parallelism(in.From) {
			all = append(all, protocol.Channel{Edge: c.edges[in.Index], From: i, Watermark: frame.MinTimestamp})
		}
	}
	return all
}

// begin waits until it is the task's turn to restore, and returns what it goes on from, if anything. It takes what all
// kinds of tasks have: output that waited, and which channels have come to their end.
func (t *task) begin(ctx context.Context) (*restored, error) {
	c := t.e.checkpoints
	if c == nil {
		return nil, nil
	}
	select {
	case c.begin <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if t.e.d.Restore == nil {
		return nil, nil
	}
	r, err := c.find(t)
	if r == nil || err != nil {
		return nil, err
	}
	t.restoring = r
	if err := r.read(ctx); err != nil {
		return nil, r.where(err)
	}
	if err := r.outbox(); err != nil {
		return nil, r.where(err)
	}
	for i := range r.Channels {
		if at := r.place[i]; at >= 0 && r.Channels[i].Watermark >= frame.MaxTimestamp {
			r.ended(at)
		}
	}
	return r, nil
}

// find returns what a task goes on from, by its place in an equal plan and by its name in others.
func (c *checkpointer) find(t *task) (*restored, error) {
	from := t.e.d.Restore
	if from.Manifest.Savepoint {
		return c.inherit(t)
	}
	at := t.place
	if !from.Same {
		name := c.tasks[t.place]
		at = slices.IndexFunc(from.Manifest.Tasks, func(m protocol.Task) bool { return m.Stage == name.Stage && m.Index == name.Index })
		if at < 0 {
			return nil, nil
		}
		if of := from.Manifest.Tasks[at].Of; of != name.Of {
			return nil, fault.New(fault.Unsupported, "stage %q had %d tasks in the snapshot and has %d now; this release restores at the same parallelism only", name.Stage, of, name.Of)
		}
	}
	r := &restored{Task: from.Manifest.Tasks[at], t: t, from: from, final: map[int]bool{}}
	now := c.channels(t.stage)
	for _, was := range r.Channels {
		r.place = append(r.place, slices.IndexFunc(now, func(n protocol.Channel) bool { return n.Edge == was.Edge && n.From == was.From }))
	}
	return r, nil
}

func (r *restored) where(err error) error {
	return fmt.Errorf("restore from epoch %d: %w", r.from.Manifest.Epoch, err)
}

func (r *restored) corrupt(format string, args ...any) error {
	return fault.New(fault.Corruption, "snapshot: "+format, args...)
}

// ended notes a channel whose final watermark the task has.
func (r *restored) ended(channel int) {
	if !r.final[channel] {
		r.final[channel] = true
		r.t.aligner.Take(channel, exchange.Message{}, true)
	}
}

// outbox puts back the output that waited for credit.
func (r *restored) outbox() error {
	t := r.t
	spill := t.e.spiller()
	defer spill.close()
	waiting := map[int][]exchange.Entry{} // by outlet
	for p := range r.each(protocol.Outbox) {
		at := slices.IndexFunc(t.routes, func(o route) bool { return t.e.checkpoints.edges[o.edge.Index] == p.Name })
		if at < 0 || p.Index >= t.routes[at].tasks {
			return r.corrupt("output for task %d of the edge %q, which is not there", p.Index, p.Name)
		}
		outlet := t.routes[at].first + p.Index
		for q, err := range r.entries(p) {
			if err != nil {
				return err
			}
			e := exchange.Entry{Watermark: q.Watermark}
			if q.Data {
				if t.spool() != nil {
					if err := t.e.expectSpools(t.routes[at].edge, q.Frame, 1); err != nil {
						return err
					}
				}
				if e.Frame, err = spill.store(q.Frame); err != nil {
					return err
				}
			}
			waiting[outlet] = append(waiting[outlet], e)
		}
	}
	for _, route := range t.routes {
		for i := route.first; i < route.first+route.tasks; i++ {
			t.outbox.Restore(i, waiting[i], r.Output >= frame.MaxTimestamp && len(waiting[i]) == 0)
		}
	}
	return nil
}

// messages yields what waited somewhere, each on the channel that it came on, or an error after those before it.
func (r *restored) messages(p *protocol.Part) iter.Seq2[exchange.Message, error] {
	return func(yield func(exchange.Message, error) bool) {
		for q, err := range r.entries(p) {
			var m exchange.Message
			if err == nil {
				m, err = r.message(&q)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

func (r *restored) message(q *parts.Entry) (exchange.Message, error) {
	if q.Channel >= len(r.place) {
		return exchange.Message{}, r.corrupt("input on channel %d of %d", q.Channel, len(r.place))
	}
	m := exchange.Message{Channel: r.place[q.Channel], Kind: exchange.Watermark, Watermark: q.Watermark, Frame: q.Frame}
	switch {
	case m.Channel < 0:
		return exchange.Message{}, fault.New(fault.Unsupported, "input on the edge %q, which this plan has not", r.Channels[q.Channel].Edge)
	case q.Data:
		m.Kind = exchange.Data
	case m.Final():
		r.ended(m.Channel)
	}
	return m, nil
}

// watermark of a channel as the task had it.
func (r *restored) watermark(channel int) int64 {
	if r != nil {
		if at := slices.Index(r.place, channel); at >= 0 {
			return r.Channels[at].Watermark
		}
	}
	return frame.MinTimestamp
}

// core is what the core of an executable task goes on from; side are the channels of side inputs that it waits for.
func (r *restored) core(main int, side []int) (*engine.Snapshot, error) {
	if r == nil {
		return nil, nil
	}
	s := &engine.Snapshot{Input: r.Input, Output: r.Output}
	for c := range main {
		s.Main = append(s.Main, r.watermark(c))
	}
	for _, c := range side {
		s.Side = append(s.Side, r.watermark(c))
	}
	if err := r.input(s); err != nil {
		return nil, err
	}
	n := 0
	for p := range r.each(protocol.Residuals) {
		b, err := r.bytes(p)
		if err != nil {
			return nil, err
		}
		all, err := parts.DecodeResiduals(b)
		if err != nil {
			return nil, err
		}
		for _, residual := range all {
			if r.mine(n) {
				s.Residuals = append(s.Residuals, residual)
			}
			n++
		}
	}
	return s, nil
}

// input adds to s the input that was not committed.
func (r *restored) input(s *engine.Snapshot) error {
	n := 0
	for p := range r.each(protocol.Inbox) {
		b, err := r.bytes(p)
		if err != nil {
			return err
		}
		var of engine.Snapshot
		if err := parts.DecodeInbox(b, &of); err != nil {
			return err
		}
		s.Draining, s.Round = s.Draining || of.Draining, of.Round
		s.Marks = append(s.Marks, of.Marks...)
		for _, bundle := range of.Bundles {
			if r.mine(n) {
				s.Bundles = append(s.Bundles, bundle)
			}
			n++
		}
		for _, f := range of.Inbox {
			if r.mine(n) {
				s.Inbox = append(s.Inbox, f)
			}
			n++
		}
	}
	if r.heir != nil {
		return r.settled(s, n)
	}
	return nil
}

// openStore opens the task's store, with what it had.
func (t *task) openStore(ctx context.Context, r *restored) (statebackend.Store, error) {
	name := fmt.Sprintf("%s/%s-%d", t.e.d.JobID, t.stage.ID, t.index)
	switch {
	case t.e.checkpoints == nil:
		return t.e.cfg.State.Open(name)
	case r == nil:
		return t.e.cfg.State.Restore(ctx, name, nil)
	case r.heir != nil:
		store, err := t.e.cfg.State.Restore(ctx, name, r.stores)
		if err != nil {
			return nil, r.where(err)
		}
		return store, nil
	}
	part := statebackend.Part{}
	files := map[string]protocol.File{}
	for i := range r.Parts {
		p := &r.Parts[i]
		switch p.Kind {
		case protocol.State:
			part.Form = statebackend.Records
		case protocol.Tables:
			part.Form = statebackend.Tables
		default:
			continue
		}
		f := r.from.Manifest.Files[p.Span.File]
		files[p.Name] = f
		part.Files = append(part.Files, stateFile(p, f))
	}
	if part.Form == 0 {
		return t.e.cfg.State.Restore(ctx, name, nil)
	}
	part.Open = func(ctx context.Context, f statebackend.File) (io.ReadCloser, error) {
		return r.from.Open(ctx, files[f.Name])
	}
	store, err := t.e.cfg.State.Restore(ctx, name, []statebackend.Part{part})
	if err != nil {
		return nil, r.where(err)
	}
	r.keep(files)
	return store, nil
}

// keep notes which files the checkpoint has, for snapshots that are taken over it. Those of a savepoint are elsewhere.
func (r *restored) keep(files map[string]protocol.File) {
	if r.heir == nil {
		r.t.files.add(r.from.Manifest.Epoch, files)
	}
}

// ending is the life of a task that had ended in the snapshot: it says so again.
func (t *task) ending(ctx context.Context, from *restored) error {
	for _, in := range t.stage.In {
		if l := t.e.lives[in.From.Index]; l != nil {
			if err := l.readers[t.stage.Index][t.index].Release(math.MaxInt64); err != nil {
				return err
			}
		}
	}
	if t.stage.Kind == plan.TestStream {
		t.e.clock.streamEnded()
	}
	if err := t.arrive(ctx); err != nil {
		return err
	}
	if from.heir != nil { // who reads may not have it yet
		if err := t.outbox.Watermark(frame.MaxTimestamp); err != nil {
			return err
		}
	}
	if gone := t.readersGone(); gone != nil {
		select {
		case <-gone:
			t.held++
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
