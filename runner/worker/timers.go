package worker

import (
	"bytes"
	"encoding/binary"
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
	pane     []byte   // of the last change; most are alike

	// latest finds the change of a timer by its identity, so that another takes its place: elements of a key
	// often set the same timer. It is nil where each counts, as between timers that fire, and where few have
	// one before them.
	latest  map[string]int
	repeats int
	id      []byte // scratch
}

// enoughChanges of timers tell whether it is worthwhile to look for earlier ones of the same: an eighth has one.
const enoughChanges = 1024

// newTimerOutput returns that of a bundle, which fires timers or doesn't.
func newTimerOutput(spec *plan.StatefulSpec, f families, c *clock, fires bool) *timerOutput {
	o := &timerOutput{spec: spec, clock: c, layout: spec.Layout, families: f, carry: make([][]byte, len(f))}
	if !fires {
		o.latest = map[string]int{}
	}
	return o
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
		if !bytes.Equal(o.pane, v.Pane) {
			o.pane = bytes.Clone(v.Pane)
		}
		c := o.changeOf(i, &v)
		c.Clear, c.Fire, c.Hold, c.Pane = v.Clear, v.Fire, v.Hold, o.pane
		data = data[v.Size:]
	}
	return nil
}

// changeOf returns the change of a timer: that which there is, or a new one.
func (o *timerOutput) changeOf(family int, v *coders.Timer) *engine.TimerChange {
	n := len(o.changes)
	if o.latest != nil {
		id := append(binary.AppendUvarint(o.id[:0], uint64(family)), v.Key...) // keys delimit themselves
		o.id = append(coders.AppendBytes(id, v.Tag), v.Windows...)
		if at, ok := o.latest[string(o.id)]; ok {
			o.repeats++
			return &o.changes[at]
		}
		o.latest[string(o.id)] = n
		if n+1 == enoughChanges && o.repeats < n/8 {
			o.latest = nil
		}
	}
	o.changes = append(o.changes, engine.TimerChange{Timer: engine.Timer{
		Family: family, Tag: string(v.Tag), Key: string(v.Key), Window: string(v.Windows),
	}})
	return &o.changes[n]
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
