package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/timers"
	"github.com/lintelrun/lintel/statebackend"
)

// keyed is the state and the timers of a task of a stateful stage.
type keyed struct {
	spec     *plan.StatefulSpec
	families families
	timers   *timers.Timers // the core's
	store    statebackend.Store
	groups   [2]int // key groups that the task owns: from, to
	token    cacheToken
	clock    *clock
	// watermark is the highest input watermark of the task so far, for attempts to read.
	watermark atomic.Int64
}

// keyedAttempt is what one attempt of a bundle does to them, still tentative.
type keyedAttempt struct {
	keyed  *keyed
	output *timerOutput

	// mu is held while a state request is served: one may still be under way
	// when the attempt has failed.
	mu       sync.Mutex
	overlay  *statebackend.Overlay
	edit     *timers.Edit
	snapshot statebackend.Snapshot // what overlay lies over; nil once the attempt has ended
	readings []*reading            // by their numbers in tokens
	// mapsChanged is true once the bundle has changed a multimap.
	mapsChanged bool
	cell        statebackend.Cell // scratch
	scratch     []byte
}

func (t *task) openKeyed(ctx context.Context, spec *plan.StatefulSpec, from *restored) (*keyed, error) {
	store, err := t.openStore(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	k := &keyed{spec: spec, families: familiesOf(spec), store: store, clock: t.e.clock}
	k.groups[0], k.groups[1] = keygroup.Range(t.index, t.e.parallelism(t.stage), keygroup.DefaultMax)
	k.watermark.Store(frame.MinTimestamp)
	if k.timers, err = timers.New(store, spec, t.e.timers); err != nil {
		return nil, errors.Join(fmt.Errorf("read timers: %w", err), store.Close())
	}
	return k, nil
}

// begin pins the state for an attempt of a bundle, which fires timers or doesn't. What belongs to no stateful task (nil) has none.
func (k *keyed) begin(fires bool) (*keyedAttempt, error) {
	if k == nil {
		return nil, nil
	}
	s, err := k.store.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("pin the state: %w", err)
	}
	o := statebackend.NewOverlay(s)
	return &keyedAttempt{
		keyed:    k,
		output:   newTimerOutput(k.spec, k.families, k.clock, fires),
		overlay:  o,
		edit:     k.timers.Edit(o),
		snapshot: s,
	}, nil
}

// end keeps what the attempt has changed and lets go of what it has read.
func (a *keyedAttempt) end() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.snapshot
	a.snapshot = nil
	return s.Close()
}

var errAttemptEnded = errors.New("the bundle has ended")

// serve runs a state request, unless the attempt has ended.
func (a *keyedAttempt) serve(request func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.snapshot == nil {
		return errAttemptEnded
	}
	return request()
}

// conclude adds to the attempt's changes what timers it has fired, set and taken
// back, and when the windows of its elements expire.
func (a *keyedAttempt) conclude(coder *coders.Windowed, b *engine.Bundle) error {
	return a.serve(func() error {
		if a.keyed.spec.Expiration != "" {
			if err := a.touch(coder, b.Frames); err != nil {
				return err
			}
		}
		return a.edit.Finish(b.Timers, a.output.changes)
	})
}

// touch notes the windows of all elements: they expire, even if nothing else is kept of them.
func (a *keyedAttempt) touch(coder *coders.Windowed, frames []frame.Frame) error {
	var el coders.Element
	for _, f := range frames {
		for off := 0; off < f.Bytes(); off += el.Size {
			if err := coder.Next(f.Data[off:], &el); err != nil {
				return err
			}
			for windows, n := el.Windows, el.NumWindows; n > 0; n-- {
				size, err := coder.Window().Skip(windows)
				if err != nil {
					return err
				}
				if err := a.edit.Touch(el.Key, windows[:size]); err != nil {
					return err
				}
				if size == 0 {
					break // there is only one such window, however often it is there
				}
				windows = windows[size:]
			}
		}
	}
	return nil
}

// commit makes an attempt's changes of state and timers.
func (k *keyed) commit(a *keyedAttempt) error {
	if err := k.store.Commit(a.overlay.Batch()); err != nil {
		return fmt.Errorf("commit state: %w", err)
	}
	if err := k.timers.Committed(a.edit); err != nil {
		return fmt.Errorf("read timers: %w", err)
	}
	return nil
}

func (k *keyed) close() error { return k.store.Close() }

// families of the stage's timers, each of which every bundle must terminate.
func (x *execTask) families() []fnapi.TimerFamily {
	if x.keyed == nil {
		return nil
	}
	return x.keyed.families
}
