package worker

import (
	"slices"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/parts"
)

// snapshot has the core and the store, and what waits for side inputs.
func (x *execTask) snapshot(s *snapshot) error {
	if err := x.barrier(s.epoch); err != nil {
		return err
	}
	s.core = x.core.Snapshot()
	s.input, s.output, s.channels = s.core.Input, s.core.Output, slices.Concat(s.core.Main, x.heard)
	if x.waiting != nil {
		s.parked = x.waiting.snapshot()
	}
	if !x.parked.empty() {
		s.parked = append(s.parked, parkedPart{index: wholeParked, queue: x.parked.snapshot()})
	}
	if !x.kept.empty() {
		s.parked = append(s.parked, x.kept.snapshot())
	}
	if x.keyed == nil {
		return nil
	}
	if err := x.keyed.timers.Flush(); err != nil {
		return err
	}
	s.take(x.keyed.store)
	return nil
}

// flush writes timers.
func (x *execTask) flush(bytes int) (bool, error) {
	if x.keyed == nil {
		return true, nil
	}
	return x.keyed.timers.FlushSome(bytes)
}

// snapshot returns what is parked, shared.
func (p *parking) snapshot() []queued {
	all := make([]queued, 0, len(p.messages))
	for _, e := range p.messages {
		q := queuedMessage(e.message)
		if e.frame != nil {
			q.stored = e.frame.Share()
		}
		all = append(all, q)
	}
	return all
}

// snapshot returns what is kept, shared.
func (k *kept) snapshot() parkedPart {
	p := parkedPart{index: keptParked}
	for _, f := range k.frames {
		p.queue = append(p.queue, queued{Entry: parts.Entry{Data: true, Hold: f.hold}, stored: f.Share()})
	}
	return p
}

// snapshot returns what waits, by window, shared; and windows by which side inputs are known to
// be read backwards.
func (w *waiting) snapshot() []parkedPart {
	var all []parkedPart
	for _, m := range w.parked {
		p := parkedPart{window: string(m.window)}
		for _, f := range m.frames {
			p.queue = append(p.queue, queued{Entry: parts.Entry{Data: true, Hold: f.hold}, stored: f.Share()})
		}
		if m.block.Elements > 0 {
			q := queuedFrame(0, m.block)
			q.Hold = m.hold
			p.queue = append(p.queue, q)
		}
		all = append(all, p)
	}
	for i := range w.sides {
		s := &w.sides[i]
		if s.back && !slices.ContainsFunc(all, func(p parkedPart) bool { return p.window == string(s.by) }) {
			all = append(all, parkedPart{window: string(s.by)})
		}
	}
	return all
}

// restore brings back all but the store, and returns what the core goes on from. What waits for windows of side inputs
// does so from goOn on.
func (x *execTask) restore(r *restored) (*engine.Snapshot, error) {
	if r == nil {
		return nil, nil
	}
	var side []int
	for i, at := range x.complete {
		x.heard[i] = r.watermark(x.mainChannels + i)
		if at >= 0 {
			side = append(side, x.mainChannels+i)
		}
	}
	core, err := r.core(x.mainChannels, side)
	if err != nil {
		return nil, err
	}
	x.prepaid = core.Bytes()
	if err := x.expectInput(core); err != nil {
		return nil, err
	}
	kept := 0
	for p := range r.each(protocol.Parked) {
		switch p.Index {
		case wholeParked:
			err = x.parkAgain(r, p)
		case keptParked:
			kept, err = x.keepAgain(r, p, kept)
		default:
			err = x.waitAgain(r, p)
		}
		if err != nil {
			return nil, err
		}
	}
	return core, nil
}

func (x *execTask) parkAgain(r *restored, part *protocol.Part) error {
	for m, err := range r.messages(part) {
		if err != nil {
			return err
		}
		if err := x.expectMessage(m); err != nil {
			return err
		}
		if err := x.parked.push(m); err != nil {
			return err
		}
		x.stable.restore(m)
	}
	return nil
}

// keepAgain keeps what of a part is the task's, whose first entry is the nth of all, and returns the number of the next.
func (x *execTask) keepAgain(r *restored, part *protocol.Part, n int) (int, error) {
	for e, err := range r.entries(part) {
		if err != nil {
			return n, err
		}
		if n++; !r.mine(n - 1) {
			continue
		}
		if err := x.expectMessage(exchange.Message{Frame: e.Frame}); err != nil {
			return n, err
		}
		if err := x.kept.push(e.Frame, e.Hold); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (x *execTask) waitAgain(r *restored, part *protocol.Part) error {
	if x.waiting == nil {
		return r.corrupt("elements of stage %q wait for a side input, and it has none", r.Stage)
	}
	p := parkedPart{window: part.Name}
	n := 0
	for e, err := range r.entries(part) {
		if err != nil {
			return err
		}
		if e.Frame, err = r.share(e.Frame, n); err != nil {
			return err
		}
		if n++; e.Frame.Elements == 0 {
			continue
		}
		q := queued{Entry: e}
		if err := x.expectMessage(exchange.Message{Frame: e.Frame}); err != nil {
			return err
		}
		if q.stored, err = x.waiting.spill.store(e.Frame); err != nil {
			return err
		}
		q.Frame = frame.Frame{}
		p.queue = append(p.queue, q)
	}
	x.waited = append(x.waited, p)
	return nil
}

// goOn lets wait again what waited for windows of side inputs, when these are back.
func (x *execTask) goOn() error {
	if x.waiting == nil {
		return nil
	}
	for _, p := range x.waited {
		if err := x.waiting.restore(p); err != nil {
			return err
		}
	}
	x.waited, x.waiting.changed = nil, true
	x.noteBuffered()
	if output := x.core.OutputWatermark(); output > frame.MinTimestamp {
		return x.waiting.release(output)
	}
	return nil
}

func (w *waiting) restore(p parkedPart) error {
	m, err := w.window([]byte(p.window))
	if err != nil {
		return err
	}
	for _, q := range p.queue {
		if m.empty() {
			w.parked = append(w.parked, m)
		}
		m.frames = append(m.frames, waitingFrame{q.stored, q.Hold})
		m.holds.Push(q.Hold)
	}
	return nil
}
