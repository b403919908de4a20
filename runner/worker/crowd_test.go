package worker

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// crowded runs a job of n redistributed elements, each of them a bundle that lasts until wait
// returns, on a machine whose processors are idle for a share of their time, in percent; the
// harness's process wants so many percent of one. It returns the most bundles that ran at once.
func crowded(t *testing.T, n int, idle, wanted time.Duration, wait func(running int64)) int64 {
	t.Helper()
	pipeline := portabletest.New()
	numbers := pipeline.ParDo("split", pEnv, pBytes, pipeline.Impulse("impulse"))
	pipeline.ParDo("write", pEnv, pBytes, pipeline.Reshuffle("spread", pBytes, numbers))
	p := compile(t, pipeline, map[string]doFn{"split": split(n), "write": collector})
	var running, top atomic.Int64
	p.before = func(_ *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "write" {
			return nil
		}
		now := running.Add(1)
		for old := top.Load(); now > old && !top.CompareAndSwap(old, now); old = top.Load() {
		}
		wait(now)
		running.Add(-1)
		return nil
	}
	r := newRig(t, p.script)
	r.cfg.Splits = Splits{LookEvery: 5 * time.Millisecond, StuckAfter: 10 * time.Millisecond}
	began := time.Now()
	r.cfg.Processors = func() (time.Duration, time.Duration, error) {
		passed := time.Since(began)
		return passed * idle / 100, passed, nil
	}
	r.cfg.Process = func(peer net.Addr) (Process, error) {
		if peer == nil {
			t.Error("a harness without an address")
		}
		if wanted < 0 {
			return nil, errors.New("on another machine")
		}
		return wanting(func() time.Duration { return time.Since(began) * wanted / 100 }), nil
	}
	r.mustRun(p.plan)
	if got := len(p.got("write")); got != n {
		t.Errorf("%d elements of %d", got, n)
	}
	return top.Load()
}

// wanting is a process that wants processors.
type wanting func() time.Duration

func (w wanting) Wanted() (time.Duration, error) { return w(), nil }

const elsewhere = -1 // what a process of another machine wants

// Bundles that wait for something outside don't hold up others: here for each other.
func TestBundlesThatWaitGetCompany(t *testing.T) {
	for name, c := range map[string]struct{ idle, wanted time.Duration }{
		"idle machine":            {50, 100},
		"idle machine, elsewhere": {50, elsewhere},
		"busy with other things":  {0, 10},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 60
			all := make(chan struct{})
			crowded(t, n, c.idle, c.wanted, func(running int64) {
				if running == n {
					close(all)
				}
				select {
				case <-all:
				case <-time.After(patience):
					t.Error("waited in vain")
				}
			})
		})
	}
}

// Bundles that keep the processors busy get none: it would only take memory.
func TestBundlesThatComputeGetNoCompany(t *testing.T) {
	for name, wanted := range map[string]time.Duration{"here": 100, "elsewhere": elsewhere} {
		t.Run(name, func(t *testing.T) {
			if top := crowded(t, 60, 3, wanted, func(int64) { <-time.After(50 * time.Millisecond) }); top > 8 {
				t.Errorf("%d bundles ran at once", top)
			}
		})
	}
}
