package worker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
)

// families are a stage's timer families; a timer's family is the position here.
type families []fnapi.TimerFamily

func familiesOf(spec *plan.StatefulSpec) families {
	if spec == nil {
		return nil
	}
	f := make(families, len(spec.Timers))
	for i, t := range spec.Timers {
		f[i] = fnapi.TimerFamily{Transform: spec.Transform, Family: t.Name}
	}
	return f
}

// sendTimers sends the timers that fire, by family, each family in order.
func (k *keyed) sendTimers(fb *fnapi.Bundle, timers []engine.Timer) error {
	f := k.families
	blocks := make([][]byte, len(f))
	for _, t := range timers {
		v := coders.Timer{
			Key: []byte(t.Key), Tag: []byte(t.Tag), NumWindows: 1, Windows: []byte(t.Window),
			Fire: t.Fire, Hold: t.Hold, Pane: t.Pane,
		}
		blocks[t.Family] = v.Append(blocks[t.Family])
	}
	for i, block := range blocks {
		if len(block) == 0 {
			continue
		}
		if err := fb.SendTimers(f[i], block); err != nil {
			return err
		}
	}
	return nil
}

// timerOutput collects the timers that a bundle sets.
type timerOutput struct {
	spec     *plan.StatefulSpec
	clock    *clock
	layout   *coders.Timers
	families families
	changes  []engine.TimerChange
	carry    [][]byte // by family: the beginning of a timer whose end has not arrived
}

func newTimerOutput(spec *plan.StatefulSpec, f families, c *clock) *timerOutput {
	return &timerOutput{spec: spec, clock: c, layout: spec.Layout, families: f, carry: make([][]byte, len(f))}
}

// add takes a chunk of timers and owns it from now on.
func (o *timerOutput) add(family string, data []byte) error {
	i := o.index(family)
	if i < 0 {
		return fault.New(fault.Invalid, "timers of family %q, which the stage does not have", family)
	}
	data = append(o.carry[i], data...)
	o.carry[i] = nil
	var v coders.Timer
	for len(data) > 0 {
		err := o.layout.Next(data, &v)
		if errors.Is(err, coders.ErrShort) {
			o.carry[i] = slices.Clip(data) // what lies behind may belong to others
			break
		}
		if err != nil {
			return fmt.Errorf("timers of family %q: %w", family, err)
		}
		if v.NumWindows != 1 {
			return fault.New(fault.Invalid, "a timer of family %q is in %d windows, not in one", family, v.NumWindows)
		}
		if o.spec.Timers[i].ProcessingTime {
			v.Fire = o.clock.local(v.Fire)
		}
		o.changes = append(o.changes, engine.TimerChange{Clear: v.Clear, Timer: engine.Timer{
			Family: i, Tag: string(v.Tag), Key: string(v.Key), Window: string(v.Windows),
			Fire: v.Fire, Hold: v.Hold, Pane: append([]byte(nil), v.Pane...),
		}})
		data = data[v.Size:]
	}
	return nil
}

func (o *timerOutput) index(family string) int {
	for i, f := range o.families {
		if f.Family == family {
			return i
		}
	}
	return -1
}

func (o *timerOutput) finish() error {
	for i, c := range o.carry {
		if len(c) > 0 {
			return fault.New(fault.Corruption, "timers of family %q end within one, after %d bytes of it", o.families[i].Family, len(c))
		}
	}
	return nil
}
