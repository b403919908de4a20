package worker

import (
	"math"

	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
)

// kept is input of a source that came while the task held back. Nobody waits for its credit: a job that waits for
// credit would not come to rest. One owner.
type kept struct {
	spill  spiller
	frames []waitingFrame
	holds  engine.Minima
}

func (k *kept) empty() bool { return len(k.frames) == 0 }

func (k *kept) push(f frame.Frame, hold int64) error {
	s, err := k.spill.store(f)
	if err == nil {
		k.frames = append(k.frames, waitingFrame{s, hold})
		k.holds.Push(hold)
	}
	return err
}

func (k *kept) pop() (f frame.Frame, hold int64, err error) {
	first := k.frames[0]
	k.frames[0] = waitingFrame{}
	k.frames = k.frames[1:]
	k.holds.Pop()
	f, err = first.Load()
	return f, first.hold, err
}

// hold is what all of it holds the input watermark at, MaxInt64 if there is none.
func (k *kept) hold() int64 {
	if k.empty() {
		return math.MaxInt64
	}
	return k.holds.Least()
}

func (k *kept) close() {
	for _, f := range k.frames {
		f.Drop()
	}
	k.frames = nil
	k.spill.close()
}

// hold is part of owner. What a source has yet to commit gets its credit back, so that those who send to it come to rest.
func (x *execTask) hold(on bool) {
	if !on {
		x.core.Release()
		return
	}
	x.core.Hold(x.e.clock.Now())
	if x.stage.Exec.Splittable {
		n := x.core.Uncommitted()
		x.inbox.Consumed(n - x.prepaid)
		x.prepaid = n
	}
}

func (x *execTask) atRest() bool { return x.core.AtRest() && x.rests() }

// keeps tells whether input is to be kept until the task goes on, or to queue behind what was.
func (x *execTask) keeps() bool {
	return x.stage.Exec.Splittable && x.holding != 0 || !x.kept.empty()
}

// keep keeps a frame of input.
func (x *execTask) keep(f frame.Frame) error {
	if err := x.kept.push(f, max(f.MinTimestamp, x.core.ChannelWatermark())); err != nil {
		return err
	}
	x.inbox.Consumed(f.Bytes())
	x.noteBuffered()
	return nil
}

// unkeep passes on what was kept, as far as the core has use for it.
func (x *execTask) unkeep() error {
	for x.holding == 0 && !x.kept.empty() && x.core.Pending() < 2*x.e.outboxBytes() {
		f, hold, err := x.kept.pop()
		if err != nil {
			return err
		}
		x.prepaid += f.Bytes()
		if err := x.admit(f, hold); err != nil {
			return err
		}
		x.noteBuffered()
	}
	return nil
}
