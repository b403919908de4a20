package worker

import (
	"context"
	"io"
	"math"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/runner/parts"
	"github.com/lintelrun/lintel/statebackend"
)

// heir is what the tasks of a stage go on from together, in a savepoint: those of a stage of the same transform, however
// many there were. Nil has nothing to go on from, and begins anew.
type heir struct {
	// was is the name of the transform in the savepoint.
	was   string
	tasks []protocol.Task
	// ended tells that all was done, and is still: nothing comes any more.
	ended bool
}

// heirs returns those of all stages, by index.
func (c *checkpointer) heirs() []*heir {
	p, from := c.e.d.Plan, c.e.d.Restore
	byName := map[string]*heir{}
	for _, t := range from.Manifest.Tasks {
		name, was := from.Stage(t.Stage)
		if from.Update.Drops(was) {
			continue
		}
		if byName[name] == nil {
			byName[name] = &heir{was: was, ended: true}
		}
		h := byName[name]
		h.tasks = append(h.tasks, t)
		h.ended = h.ended && t.Ended
	}
	all := make([]*heir, len(p.Stages))
	for i, name := range p.StageNames() {
		h := byName[name]
		if h != nil && h.ended {
			for _, in := range p.Stages[i].In { // which come first
				if before := all[in.From.Index]; before == nil || !before.ended {
					h = nil // something comes that was not there: it begins anew
					break
				}
			}
		}
		all[i] = h
	}
	return all
}

// inherit returns what a task goes on from in a savepoint. Its input watermark is the least of all; those of its channels
// are at the beginning, as other tasks may send on them now, and so is its output, so that it is sent again.
func (c *checkpointer) inherit(t *task) (*restored, error) {
	h := c.inherited[t.stage.Index]
	if h == nil {
		return nil, nil
	}
	r := &restored{Task: c.tasks[t.place], t: t, from: t.e.d.Restore, heir: h, final: map[int]bool{}}
	r.Output, r.Ended = frame.MinTimestamp, h.ended
	if h.ended {
		return r, nil
	}
	r.Input = frame.MaxTimestamp
	for _, was := range h.tasks {
		if was.Ended {
			continue
		}
		r.Input = min(r.Input, was.Input)
		if r.EndGroup > 0 && (was.EndGroup <= r.FirstGroup || r.EndGroup <= was.FirstGroup) {
			continue
		}
		if err := r.take(&was); err != nil {
			return nil, err
		}
	}
	r.Channels = c.channels(t.stage)
	for i := range r.Channels {
		r.place = append(r.place, i)
	}
	return r, nil
}

// stateFile is a file of a task's state.
func stateFile(p *protocol.Part, f protocol.File) statebackend.File {
	return statebackend.File{Name: p.Name, Size: f.Size, CRC32C: f.CRC32C, FirstGroup: p.FirstGroup, EndGroup: p.EndGroup}
}

// take takes the parts of a former task.
func (r *restored) take(was *protocol.Task) error {
	store := statebackend.Part{Form: statebackend.Records}
	names := map[string]protocol.File{}
	store.Open = func(ctx context.Context, f statebackend.File) (io.ReadCloser, error) {
		return r.from.Open(ctx, names[f.Name])
	}
	if r.EndGroup > 0 {
		first, end := max(r.FirstGroup, was.FirstGroup), min(r.EndGroup, was.EndGroup)
		store.From, store.To = statebackend.GroupRange(first, end)
		store.Update = r.update()
	}
	for _, p := range was.Parts {
		switch {
		case p.Kind == protocol.State:
			names[p.Name] = r.from.Manifest.Files[p.Span.File]
			store.Files = append(store.Files, stateFile(&p, names[p.Name]))
		case p.Kind == protocol.Tables, p.Kind == protocol.Outbox, p.Kind == protocol.Spool && p.Name != "",
			p.Kind == protocol.Parked && p.Index == wholeParked, p.Kind == protocol.Inbox && r.t.stage.Exec == nil:
			return fault.New(fault.Unsupported, "the savepoint has %v of task %d of stage %q: it was not taken while the job was quiet", p.Kind, was.Index, was.Stage)
		default:
			r.Parts = append(r.Parts, p)
		}
	}
	if len(store.Files) > 0 {
		r.stores = append(r.stores, store)
	}
	return nil
}

// update is what becomes of the records of the stage's transform, nil if they stay as they are.
func (r *restored) update() *statebackend.Update {
	u := &statebackend.Update{Was: r.heir.was, Name: keeperOf(r.t.stage), Dropped: r.from.Update.DropsOf(r.heir.was)}
	if u.Was == u.Name && len(u.Dropped) == 0 {
		return nil
	}
	return u
}

// keeperOf returns the name of the transform by which a stage keeps state, "" if it has none.
func keeperOf(s *plan.Stage) string {
	switch {
	case s.Group != nil:
		return s.Group.Name
	case s.Side != nil && s.Side.Group != nil:
		return s.Side.Group.Name
	case s.Exec != nil && s.Exec.Stateful != nil:
		return s.Exec.Stateful.Name
	}
	return ""
}

// mine tells whether the nth of all there is of something that goes to any task is the task's.
func (r *restored) mine(n int) bool { return r.heir == nil || n%r.Of == r.Index }

// share returns what of the nth frame of input the task goes on with: the elements of its keys, if it has any of its
// own.
func (r *restored) share(f frame.Frame, n int) (frame.Frame, error) {
	switch {
	case r.heir != nil && r.EndGroup > 0:
		return r.ofKeys(f)
	case r.mine(n):
		return f, nil
	}
	return frame.Frame{}, nil
}

func (r *restored) ofKeys(f frame.Frame) (frame.Frame, error) {
	coder := r.t.stage.In[0].Coder
	mine := frame.Frame{MinTimestamp: math.MaxInt64}
	var el coders.Element
	for at := 0; at < len(f.Data); at += el.Size {
		if err := coder.Next(f.Data[at:], &el); err != nil {
			return mine, r.corrupt("elements of stage %q at byte %d: %w", r.Stage, at, err)
		}
		if g := keygroup.Of(keygroup.Hash(el.Key), keygroup.DefaultMax); g < r.FirstGroup || g >= r.EndGroup {
			continue
		}
		mine.Data = append(mine.Data, f.Data[at:at+el.Size]...)
		mine.Elements++
		mine.MinTimestamp = min(mine.MinTimestamp, el.Timestamp)
	}
	return mine, nil
}

// settled makes s what a task begins with that has no other input than n parts that go to any task.
func (r *restored) settled(s *engine.Snapshot, n int) error {
	if n > 0 && !r.t.stage.Exec.Splittable {
		return fault.New(fault.Unsupported, "the savepoint has input of stage %q: it was not taken while the job was quiet", r.Stage)
	}
	s.Marks, s.Round = nil, engine.Round{}
	if r.t.stage.Exec.Stateful == nil {
		return nil // it has no timers
	}
	if r.Input > frame.MinTimestamp {
		s.Marks = []engine.Mark{{Watermark: r.Input}}
		s.Round.Watermark = r.Input
	}
	return nil
}

// inheritedPanes is how far the groups of all are that the task inherits from.
func (r *restored) inheritedPanes() (*panes.Snapshot, error) {
	all := &panes.Snapshot{Watermark: r.Input, Output: frame.MinTimestamp, Now: math.MinInt64}
	for p := range r.each(protocol.Position) {
		b, err := r.bytes(p)
		if err != nil {
			return nil, err
		}
		s, err := parts.DecodePanes(b)
		if err != nil {
			return nil, err
		}
		if len(s.Pending) > 0 {
			return nil, fault.New(fault.Unsupported, "the savepoint has panes of stage %q that have not left: it was not taken while the job was quiet", r.Stage)
		}
		all.Watermark, all.Now = min(all.Watermark, s.Watermark), max(all.Now, s.Now)
	}
	return all, nil
}
