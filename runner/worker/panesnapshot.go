package worker

import (
	"errors"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/runner/parts"
)

// snapshot has the groups and, behind them, what has come and was not looked at.
func (x *paneTask) snapshot(s *snapshot) (err error) {
	x.noteLate()
	for _, m := range x.input.waiting() {
		s.arrived = append(s.arrived, queuedMessage(m.Message))
	}
	s.input, s.output, s.channels = x.in.Min(), x.out, x.in.Channels()
	if s.panes, err = x.groups.Snapshot(); err != nil {
		return err
	}
	if live := x.e.lives[x.stage.Index]; live != nil {
		s.side = live.Pin()
	}
	if spool := x.spool(); spool != nil {
		s.spool = spool.snapshot()
	}
	s.take(x.store)
	if s.savepoint && s.spool != nil && len(s.spool.Panes) > 0 {
		s.err = errors.Join(s.err, fault.New(fault.Unsupported, "%d large groups of stage %s wait to be read, by elements that wait for a side input or a source: "+
			"savepoints have none, take it later", len(s.spool.Panes), x.stage.ID))
	}
	return nil
}

// flush writes groups.
func (x *paneTask) flush(bytes int) (bool, error) { return x.groups.FlushSome(bytes) }

// panes is what groups go on from, over the task's store.
func (r *restored) panes() (*panes.Snapshot, error) {
	if r == nil {
		return nil, nil
	}
	if r.heir != nil {
		return r.inheritedPanes()
	}
	p := r.one(protocol.Position)
	if p == nil {
		return nil, r.corrupt("it does not say how far the panes of stage %q are", r.Stage)
	}
	b, err := r.bytes(p)
	if err != nil {
		return nil, err
	}
	return parts.DecodePanes(b)
}

// restore brings back all but the groups. What was about to fire does so again.
func (x *paneTask) restore(r *restored, pending []frame.Frame) error {
	x.out, x.firing = r.Output, true
	for _, f := range pending {
		if x.spool() == nil {
			break
		}
		if err := x.e.expectSpools(x.stage.Out[0], f, len(x.stage.Out)); err != nil {
			return err
		}
	}
	for c := range x.in.Channels() {
		x.in.Advance(c, r.watermark(c))
	}
	if p := r.one(protocol.Inbox); p != nil {
		x.came = x.e.clock.Now()
		for m, err := range r.messages(p) {
			if err != nil {
				return err
			}
			x.prepaid += m.Frame.Bytes()
			x.input.push(arrived{m, x.came})
		}
	}
	live := x.e.lives[x.stage.Index]
	if live == nil {
		return nil
	}
	n := -1
	for p := range r.each(protocol.Side) {
		if n++; !r.mine(n) {
			continue
		}
		b, err := r.bytes(p)
		if err != nil {
			return err
		}
		elements, err := parts.DecodeSide(b)
		if err != nil {
			return err
		}
		if err := live.Restore(p.Name, elements); err != nil {
			return err
		}
	}
	live.Advance(x.in.Min())
	return nil
}

// reports is where the task hears that nobody reads any more what it keeps.
func (x *paneTask) reports() <-chan struct{} { return x.gone }

func (x *paneTask) reported(struct{}) error {
	x.gone = nil
	return nil
}

// readers are the tasks that read what a task of a stage keeps for them, apart from what it has sent: the contents
// of a side input, or the values of large panes. Its snapshots have that as long as any of them goes on, so that in
// a job with checkpoints it doesn't end before.
type readers struct {
	left int
	gone chan struct{} // closed when none is left
}

// readersOf returns those of each stage that keeps something, by index.
func (e *execution) readersOf() []*readers {
	all := make([]*readers, len(e.d.Plan.Stages))
	for i, s := range e.d.Plan.Stages {
		if !e.keeps(s) {
			continue
		}
		all[i] = &readers{gone: make(chan struct{})}
		for _, out := range s.Out {
			all[i].left += e.parallelism(out.To)
		}
	}
	return all
}

// keeps tells whether a stage keeps something for others to read.
func (e *execution) keeps(s *plan.Stage) bool {
	return s.Kind == plan.SideInput || s.Kind == plan.GroupByKey && s.Group.StateBacked
}

// readersGone returns what is closed when nobody reads any more what a task keeps; nil if it keeps nothing.
func (t *task) readersGone() <-chan struct{} {
	if c := t.e.checkpoints; c != nil && c.readers[t.stage.Index] != nil {
		return c.readers[t.stage.Index].gone
	}
	return nil
}

// readerEnded notes that a task which may have read something has ended.
func (c *checkpointer) readerEnded(s *plan.Stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, in := range s.In {
		r := c.readers[in.From.Index]
		if r == nil {
			continue
		}
		if r.left--; r.left == 0 {
			c.e.clock.begin(c.e.parallelism(in.From)) // what they all have to do now
			close(r.gone)
		}
	}
}
