package worker

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/rpc"
)

// busiest runs a job whose environment has a resource hint, with bundles that take a while, and
// returns the most bundles that a harness has had at once.
func busiest(t *testing.T, hint string) (most int64, r *rig) {
	t.Helper()
	const n = 200
	p := shuffle(t, n, 7, nil)
	for _, env := range p.plan.Environments {
		env.ResourceHints = map[string][]byte{urns.HintMaxActiveBundlesPerWorker: []byte(hint)}
	}
	var top atomic.Int64
	r = newRig(t, nil)
	r.deployment.Parallelism = 4
	r.launcher.script = func(*process) fnapitest.Script {
		var running atomic.Int64 // of this harness
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			now := running.Add(1)
			defer running.Add(-1)
			for old := top.Load(); now > old && !top.CompareAndSwap(old, now); old = top.Load() {
			}
			<-time.After(5 * time.Millisecond) // for others to come
			return p.process(b)
		}}
	}
	r.mustRun(p.plan)
	wantShuffled(t, p, n, 7)
	return top.Load(), r
}

func TestBundlesOfAHarnessAreAsManyAsTheHintAllows(t *testing.T) {
	for _, limit := range []int64{1, 2} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			if most, _ := busiest(t, fmt.Sprint(limit)); most > limit {
				t.Errorf("a harness had %d bundles at once, the hint says %d", most, limit)
			}
		})
	}
}

func TestHintThatLimitsNothing(t *testing.T) {
	for hint, told := range map[string]bool{"1e99": false, "99999999999999999999": false, "0": true, "-1": true, "NaN": true, "many": true, "": true} {
		most, r := busiest(t, hint)
		if most < 2 {
			t.Errorf("hint %q: never more than %d bundle at once", hint, most)
		}
		if r.logged(rpc.Warn, "limits nothing") != told {
			t.Errorf("hint %q: the job's log should tell that it is ignored: %v; it has %v", hint, told, r.log)
		}
	}
}

// Who waits for a place gets that of a bundle that fails, or of a harness that is lost.
func TestPlacesAreFreedWhateverHappens(t *testing.T) {
	const n = 200
	p := shuffle(t, n, 7, nil)
	for _, env := range p.plan.Environments {
		env.ResourceHints = map[string][]byte{urns.HintMaxActiveBundlesPerWorker: []byte("1")}
	}
	var bundles atomic.Int64
	r := newRig(t, nil)
	r.deployment.Parallelism, r.deployment.Harnesses = 4, 1
	r.cfg.Attempts = 100
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			switch bundles.Add(1) {
			case 2, 5:
				return fmt.Errorf("out of luck")
			case 3:
				me.die(errCrash)
				<-me.stop
				return nil
			}
			return p.process(b)
		}}
	}
	r.mustRun(p.plan)
	wantShuffled(t, p, n, 7)
	if got := len(r.launcher.processes()); got != 2 {
		t.Errorf("%d harnesses were launched, want 2", got)
	}
}

// A job that waits for places can be cancelled.
func TestCancelWhileBundlesWaitForPlaces(t *testing.T) {
	p := shuffle(t, 200, 7, nil)
	for _, env := range p.plan.Environments {
		env.ResourceHints = map[string][]byte{urns.HintMaxActiveBundlesPerWorker: []byte("1")}
	}
	cancelled(t, p, func(r *rig, cancel func()) {
		r.deployment.Parallelism, r.deployment.Harnesses = 4, 1
		r.launcher.script = func(me *process) fnapitest.Script {
			return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
				if p.stage(b).Transforms[0] != "kv" {
					return p.process(b)
				}
				time.AfterFunc(20*time.Millisecond, cancel)
				<-me.stop
				return nil
			}}
		}
	})
}

// Environments that differ by the hint alone are one, and the least of their limits holds.
func TestMergedEnvironmentsHaveTheLeastLimit(t *testing.T) {
	const n = 100
	pipeline := portabletest.New()
	for id, hint := range map[string]string{"e1": "3", "e2": "1"} {
		env := pipeline.Environment(id, "localhost:9", urns.CoderBytes)
		env.ResourceHints = map[string][]byte{urns.HintMaxActiveBundlesPerWorker: []byte(hint)}
	}
	numbers := pipeline.ParDo("split", "e1", pBytes, pipeline.Impulse("impulse"))
	pipeline.ParDo("write", "e2", pBytes, pipeline.Reshuffle("spread", pBytes, numbers))
	p := compile(t, pipeline, map[string]doFn{"split": split(n), "write": collector})
	if len(p.plan.Environments) != 1 {
		t.Fatalf("environments %v are not one", p.plan.Environments)
	}
	var running, over atomic.Int64
	p.before = func(*fnapitest.Bundle, *plan.Stage) error {
		if running.Add(1) > 1 {
			over.Add(1)
		}
		<-time.After(5 * time.Millisecond) // for others to come
		return nil
	}
	p.after = func(*fnapitest.Bundle, *plan.Stage) error {
		running.Add(-1)
		return nil
	}
	r := newRig(t, p.script)
	r.deployment.Parallelism, r.deployment.Harnesses = 4, 1
	r.mustRun(p.plan)
	if over.Load() > 0 || len(p.got("write")) != n {
		t.Errorf("%d bundles had company; %d elements of %d", over.Load(), len(p.got("write")), n)
	}
}
