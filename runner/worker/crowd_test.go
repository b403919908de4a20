package worker

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// crowded runs a job of n redistributed elements, each of them a bundle that lasts until wait
// returns, on a machine whose processors are idle for a share of their time, in percent. It
// returns the most bundles that ran at once.
func crowded(t *testing.T, n int, idle int64, wait func(running int64)) int64 {
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
	var looks atomic.Int64
	r.cfg.Processors = func() (int64, int64) {
		at := looks.Add(1)
		return at * idle, at * 100
	}
	r.mustRun(p.plan)
	if got := len(p.got("write")); got != n {
		t.Errorf("%d elements of %d", got, n)
	}
	return top.Load()
}

// Bundles that wait for something outside don't hold up others: here for each other.
func TestBundlesThatWaitGetCompany(t *testing.T) {
	const n = 60
	all := make(chan struct{})
	crowded(t, n, 50, func(running int64) {
		if running == n {
			close(all)
		}
		select {
		case <-all:
		case <-time.After(patience):
			t.Error("waited in vain")
		}
	})
}

// Bundles that keep the processors busy get none: it would only take memory.
func TestBundlesThatComputeGetNoCompany(t *testing.T) {
	if top := crowded(t, 60, 3, func(int64) { <-time.After(50 * time.Millisecond) }); top > 8 {
		t.Errorf("%d bundles ran at once", top)
	}
}

func TestProcessors(t *testing.T) {
	idle, total := processors()
	if idle <= 0 || total <= idle {
		t.Errorf("idle %d of %d", idle, total)
	}
}

func TestProcessorTime(t *testing.T) {
	for _, c := range []struct {
		stat        string
		idle, total int64
	}{
		{"cpu  10 200 30 4000 5000 6 7 8 9 9\ncpu0 1 2 3\n", 9200, 9261}, // guests are in user
		{"cpu  1 2\n", 2, 3},
		{"cpu  1 2 x 4\n", 0, 0},
		{"", 0, 0},
	} {
		if idle, total := parseProcessors(c.stat); idle != c.idle || total != c.total {
			t.Errorf("%q: %d idle of %d, want %d of %d", c.stat, idle, total, c.idle, c.total)
		}
	}
}
