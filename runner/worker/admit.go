package worker

import (
	"bytes"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/frame"
)

// admit gives a frame of input, that came after the watermark behind, to the core, but for what
// waits for side inputs.
func (x *execTask) admit(f frame.Frame, behind int64) error {
	if x.waiting == nil {
		return x.enqueue(f, behind)
	}
	ready, err := x.waiting.admit(f, behind)
	if err != nil {
		return err
	}
	x.repay(f.Bytes() - ready.Bytes()) // what waits holds up nobody: its sender may be needed for the side input
	if err := x.enqueue(ready, behind); err != nil {
		return err
	}
	x.e.stats.lateDropped(x.task, x.waiting.late)
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
		if err := x.enqueue(f, hold); err != nil {
			return err
		}
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
	hold = min(hold, x.kept.hold())
	x.core.Buffered(hold)
}

// enqueue gives a frame to the core: in two where groups of no values take another way.
func (x *execTask) enqueue(f frame.Frame, hold int64) error {
	if x.stage.Exec.Empty == nil {
		x.core.Frame(f, hold)
		return nil
	}
	full, empty, err := partGroups(x.stage.In[0].Coder, f)
	if err != nil {
		return err
	}
	// What is empty of a key comes on time after what isn't.
	x.core.Frame(full, hold)
	x.core.Frame(empty, hold)
	return nil
}

// partGroups parts the groups of a frame that have values from those that have none, each in the
// order they came. The data is copied only if there are both.
func partGroups(coder *coders.Windowed, f frame.Frame) (full, empty frame.Frame, err error) {
	full, empty = f, frame.Frame{MinTimestamp: f.MinTimestamp, Empty: true}
	var el coders.Element
	kept := 0 // where what was not looked at twice begins
	for at := 0; at < len(f.Data); at += el.Size {
		if err := coder.Next(f.Data[at:], &el); err != nil {
			return full, empty, fault.New(fault.Corruption, "groups at byte %d: %w", at, err)
		}
		if !emptyGroup(el.Value) {
			continue
		}
		if empty.Elements == 0 {
			full.Data = make([]byte, 0, len(f.Data))
		}
		full.Data = append(full.Data, f.Data[kept:at]...)
		kept = at + el.Size
		empty.Data = append(empty.Data, f.Data[at:kept]...)
		empty.Elements++
	}
	if empty.Elements == 0 {
		return full, empty, nil
	}
	full.Data = append(full.Data, f.Data[kept:]...)
	full.Elements -= empty.Elements
	return full, empty, nil
}

// emptyGroup tells whether an encoded iterable has no values: its length says so.
func emptyGroup(iterable []byte) bool { return bytes.Equal(iterable, []byte{0, 0, 0, 0}) }
