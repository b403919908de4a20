package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/rpc"
)

// errPoison is what the doFn returns that has met the poison; its harness dies of it.
var errPoison = errors.New("poison")

// poisoned is shuffle with one element among others that is poison to "kv". met counts how
// often it was met.
func poisoned(t *testing.T) (p *program, met *atomic.Int64) {
	met = new(atomic.Int64)
	harmless := modulo(5)
	return shuffle(t, 200, 0, func(c *call) error {
		if text(c.element) != "13" {
			return harmless(c)
		}
		met.Add(1)
		return errPoison
	}), met
}

// An element kills each harness that processes it: the job fails with the reason after as many
// attempts as any bundle has, and only harnesses that it has killed are replaced.
func TestPoisonElementKillsItsHarness(t *testing.T) {
	const attempts = 4 // the default
	for name, c := range map[string]struct {
		kill func(*process)
		says string
	}{
		"segmentation fault": {func(me *process) { me.die(errCrash) }, "segmentation fault"},
		"out of memory":      {func(me *process) { me.die(fault.New(fault.Retryable, "signal: killed")) }, "signal: killed"},
		"its streams end":    {func(me *process) { me.dying.Go(me.kill) }, "lost"},
	} {
		t.Run(name, func(t *testing.T) {
			p, met := poisoned(t)
			r := newRig(t, nil)
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
					err := p.process(b)
					if errors.Is(err, errPoison) {
						c.kill(me)
						<-me.stop
					}
					return err
				}}
			}
			_, err := r.run(p.plan)
			wantError(t, err, fault.Retryable, fmt.Sprintf("failed %d times", attempts), c.says)
			if strings.Contains(err.Error(), errPoison.Error()) {
				t.Errorf("a dead harness has answered: %v", err)
			}
			if met.Load() != attempts {
				t.Errorf("the element was tried %d times, want %d", met.Load(), attempts)
			}
			if got, most := len(r.launcher.processes()), r.deployment.Harnesses+attempts; got > most {
				t.Errorf("%d harnesses were launched, want %d at most", got, most)
			}
			if !r.logged(rpc.Warn, "a harness was lost and is replaced") || !r.logged(rpc.Warn, c.says) {
				t.Errorf("the job's log does not tell of the losses: %v", r.log)
			}
			if got := p.got("write"); len(got) > 0 {
				t.Errorf("%d elements are behind a shuffle that never had all its input", len(got))
			}
		})
	}
}

// Even if bundles may be tried for ever, harnesses are not started for ever once nothing else is left to do.
func TestPoisonElementInBundlesTriedForEver(t *testing.T) {
	p, met := poisoned(t)
	r := newRig(t, nil)
	r.cfg.Attempts = 1000
	var before atomic.Int64 // harnesses when the last bundle was done well
	r.cfg.Hooks.BundleDone = func(ok bool, _, _, _ int, _ time.Duration) {
		if ok {
			before.Store(int64(len(r.launcher.processes())))
		}
	}
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			err := p.process(b)
			if errors.Is(err, errPoison) {
				me.die(errCrash)
				<-me.stop
			}
			return err
		}}
	}
	_, err := r.run(p.plan)
	wantError(t, err, fault.Retryable, "environment env has no harness left", "segmentation fault")
	launched := int64(len(r.launcher.processes()))
	if launched-before.Load() > maxLosses {
		t.Errorf("%d harnesses were launched, %d when the last bundle was done well", launched, before.Load())
	}
	if met.Load() > launched {
		t.Errorf("%d harnesses met the element %d times", launched, met.Load())
	}
}

// An element is processed for ever, by a DoFn that hears of nothing until its process is
// killed. Its job ends within a second of being cancelled, and other bundles' work is no hindrance.
func TestBundleThatNeverEndsIsCancelled(t *testing.T) {
	const soon = time.Second
	for name, work := range map[string]func(*fnapitest.Bundle, string) error{
		"in silence": func(*fnapitest.Bundle, string) error { return nil },
		"with output": func(b *fnapitest.Bundle, sink string) error {
			return b.Emit(sink, coders.AppendHeader(nil, 0, 1, nil, []byte{coders.PaneNoFiring}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := shuffle(t, 200, 5, nil)
			r := newRig(t, nil)
			stuck := make(chan struct{}, 1)
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
					s := p.stage(b)
					if s.Transforms[0] != "kv" {
						return p.process(b)
					}
					for turn := 0; ; turn++ {
						err := work(b, s.Exec.Sinks[0])
						if turn == 10 {
							select {
							case stuck <- struct{}{}:
							default:
							}
						}
						select {
						case <-me.stop:
							return err
						case <-time.After(time.Millisecond):
						}
					}
				}}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			e := r.deploy(ctx, p.plan)
			select {
			case <-stuck:
			case <-time.After(patience):
				t.Fatal("the bundle does not begin")
			}
			began := time.Now()
			cancel()
			if err := r.wait(e); !errors.Is(err, context.Canceled) {
				t.Errorf("the job ends with %v", err)
			}
			if took := time.Since(began); took > soon {
				t.Errorf("it took %v, want %v at most", took, soon)
			}
		})
	}
}
