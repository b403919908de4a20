package worker

import (
	"fmt"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/statebackend"
)

// keyed is the state and the timers of a task of a stateful stage.
type keyed struct {
	spec     *plan.StatefulSpec
	families families
	timers   *engine.Timers // the core's
	store    statebackend.Store
}

// keyedAttempt is what one attempt of a bundle does to them, still tentative.
type keyedAttempt struct {
	name    string // of the transform, in the state's keys
	overlay *statebackend.Overlay
	timers  *timerOutput
}

func (t *task) openKeyed(spec *plan.StatefulSpec) (*keyed, error) {
	store, err := t.e.cfg.State.Open(fmt.Sprintf("%s/%s-%d", t.e.d.JobID, t.stage.ID, t.index))
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return &keyed{
		spec:     spec,
		families: familiesOf(spec),
		timers:   engine.NewTimers(domainsOf(spec)),
		store:    store,
	}, nil
}

func (k *keyed) begin() *keyedAttempt {
	return &keyedAttempt{
		name:    k.spec.Name,
		overlay: statebackend.NewOverlay(k.store),
		timers:  newTimerOutput(k.spec, k.families),
	}
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
