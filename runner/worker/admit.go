package worker

import (
	"math"

	"github.com/lintelrun/lintel/runner/frame"
)

// admit gives a frame of input, that came after the watermark behind, to the core, but for what
// waits for side inputs.
func (x *execTask) admit(f frame.Frame, behind int64) error {
	if x.waiting == nil {
		x.core.Frame(f, behind)
		return nil
	}
	ready, err := x.waiting.admit(f, behind)
	if err != nil {
		return err
	}
	x.repay(f.Bytes() - ready.Bytes()) // what waits holds up nobody: its sender may be needed for the side input
	x.core.Frame(ready, behind)
	x.e.stats.lateDropped(x.stage, x.waiting.late)
	x.waiting.late = 0
	x.noteBuffered()
	return nil
}

// unwait passes on what has waited for side inputs and need not any more, as far as the core
// has use for it.
func (x *execTask) unwait() error {
	if x.waiting == nil {
		return nil
	}
	if err := x.waiting.look(); err != nil {
		return err
	}
	for x.core.Pending() < 2*x.e.outboxBytes() {
		f, hold, ok, err := x.waiting.take()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		x.prepaid += f.Bytes()
		x.core.Frame(f, hold)
	}
	x.noteBuffered()
	return nil
}

// noteBuffered tells the core of input that is kept outside of it.
func (x *execTask) noteBuffered() {
	hold := int64(math.MaxInt64)
	if x.sorter != nil {
		hold = x.sorter.earliest()
	}
	if x.waiting != nil {
		hold = min(hold, x.waiting.hold())
	}
	x.core.Buffered(hold)
}
