package worker

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/statebackend"
)

// keyed is the state and the timers of a task of a stateful stage.
type keyed struct {
	spec     *plan.StatefulSpec
	families families
	// expiration is the family that fires when windows expire, or -1.
	expiration int
	timers     *engine.Timers // the core's
	store      statebackend.Store
}

// keyedAttempt is what one attempt of a bundle does to them, still tentative.
type keyedAttempt struct {
	name   string // of the transform, in the state's keys
	timers *timerOutput

	// mu is held while a state request is served: one may still be under way
	// when the attempt has failed.
	mu       sync.Mutex
	overlay  *statebackend.Overlay
	snapshot statebackend.Snapshot // what overlay lies over; nil once the attempt has ended
}

func (t *task) openKeyed(spec *plan.StatefulSpec) (*keyed, error) {
	store, err := t.e.cfg.State.Open(fmt.Sprintf("%s/%s-%d", t.e.d.JobID, t.stage.ID, t.index))
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return &keyed{
		spec:       spec,
		families:   familiesOf(spec),
		expiration: expirationOf(spec),
		timers:     engine.NewTimers(domainsOf(spec)),
		store:      store,
	}, nil
}

func (k *keyed) begin() (*keyedAttempt, error) {
	s, err := k.store.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("pin the state: %w", err)
	}
	return &keyedAttempt{
		name:     k.spec.Name,
		timers:   newTimerOutput(k.spec, k.families),
		overlay:  statebackend.NewOverlay(s),
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

// expirations are the timers by which the windows of keys expire that have
// elements in frames. They fire after all other timers of their windows.
func (k *keyed) expirations(coder *coders.Windowed, frames []frame.Frame) ([]engine.TimerChange, error) {
	if k.expiration < 0 {
		return nil, nil
	}
	var out []engine.TimerChange
	seen := map[[2]string]bool{}
	var el coders.Element
	for _, f := range frames {
		for off := 0; off < f.Bytes(); off += el.Size {
			if err := coder.Next(f.Data[off:], &el); err != nil {
				return nil, err
			}
			for windows, n := el.Windows, el.NumWindows; n > 0; n-- {
				size, err := coder.Window().Skip(windows)
				if err != nil {
					return nil, err
				}
				if !seen[[2]string{string(el.Key), string(windows[:size])}] {
					c, err := k.expiry(string(el.Key), string(windows[:size]))
					if err != nil {
						return nil, err
					}
					seen[[2]string{c.Key, c.Window}] = true
					out = append(out, c)
				}
				if size == 0 {
					break // there is only one such window, however often it is there
				}
				windows = windows[size:]
			}
		}
	}
	return out, nil
}

// expiry is the timer by which a key's window expires: at its end and the
// lateness allowed, but no later than the global window.
func (k *keyed) expiry(key, window string) (engine.TimerChange, error) {
	end, err := k.spec.Windowing.MaxTimestamp([]byte(window))
	if err != nil {
		return engine.TimerChange{}, err
	}
	late := min(k.spec.Windowing.AllowedLateness, max(coders.EndOfGlobalWindow-end, 0))
	return engine.TimerChange{Timer: engine.Timer{
		Family: k.expiration, Key: key, Window: window,
		Fire: end + late, Hold: end,
		Pane: []byte{coders.PaneNoFiring},
	}}, nil
}

func expirationOf(spec *plan.StatefulSpec) int {
	return slices.IndexFunc(spec.Timers, func(f plan.TimerFamily) bool { return spec.Expiration != "" && f.Name == spec.Expiration })
}

// commit makes an attempt's state changes; the core makes those of timers.
func (k *keyed) commit(a *keyedAttempt) error {
	if err := k.store.Commit(a.overlay.Batch()); err != nil {
		return fmt.Errorf("commit state: %w", err)
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
