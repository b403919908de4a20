package worker

import (
	"slices"
	"sync"
	"time"

	"github.com/lintelrun/lintel/fnapi"
)

// crowdBundles is how many bundles that wait for something outside a harness runs at once.
const crowdBundles = 100

// crowd decides how many bundles a stage runs beyond what its tasks and the processors ask
// for. A bundle may take long because it computes, and then more of them take memory and
// gain nothing; or because it waits, for a service or until it is time, and then they only
// help. Harnesses don't tell which. But if bundles take long and the machine has nothing to
// do, or it has and the harnesses' processes don't ask for it, they wait. The number doubles
// from one look to the next as long as that is so.
type crowd struct {
	mu      sync.Mutex // the tasks of the stage ask
	looked  time.Time
	load    load
	allowed int
}

// load is what processors have done until a moment.
type load struct {
	idle, total time.Duration // of the machine's
	// wanted is how long the processes of harnesses have run or waited for a processor;
	// harnesses is their number, 0 if that is not known of all.
	wanted    time.Duration
	harnesses int
}

const (
	// idleProcessors: the machine has nothing to do if one in so many of its processors has not.
	idleProcessors = 8
	// restingHarness: a harness waits if its process wants less than one in so many parts of one
	// processor. Bundles that compute want one at least, however many a Python interpreter has.
	restingHarness = 2
)

// room returns how many more bundles may start where running ones of the stage take long.
func (c *crowd) room(running int, p *pool, now time.Time, cfg *Config) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := now.Sub(c.looked); since >= cfg.Splits.LookEvery {
		before := c.load
		c.looked, c.load, c.allowed = now, loadOf(p, cfg), 0
		// After a longer time the figures say little of these bundles: it is the first look.
		if since <= 4*cfg.Splits.LookEvery && c.load.waits(before, since) {
			c.allowed = min(2*running, p.most())
		}
	}
	return max(0, c.allowed-running)
}

// waits reports whether nothing has been computed since the moment of before.
func (l load) waits(before load, since time.Duration) bool {
	if all := l.total - before.total; all > 0 && idleProcessors*(l.idle-before.idle) >= all {
		return true
	}
	wanted := l.wanted - before.wanted
	return l.harnesses > 0 && l.harnesses == before.harnesses && wanted >= 0 && restingHarness*wanted < since*time.Duration(l.harnesses)
}

func loadOf(p *pool, cfg *Config) load {
	l := load{}
	if idle, total, err := cfg.Processors(); err == nil {
		l.idle, l.total = idle, total
	}
	p.mu.Lock()
	harnesses := slices.Clone(p.harnesses)
	p.mu.Unlock()
	for _, h := range harnesses {
		process, err := h.process()
		if err != nil {
			return load{idle: l.idle, total: l.total}
		}
		wanted, err := process.Wanted()
		if err != nil {
			return load{idle: l.idle, total: l.total}
		}
		l.wanted += wanted
	}
	l.harnesses = len(harnesses)
	return l
}

// processOf finds the process that has a harness: by the connection, since launched programs start others.
func (e *execution) processOf(h *fnapi.Harness) (Process, error) {
	p, err := e.cfg.Process(h.Peer())
	if err != nil {
		e.log.Debug("what processors a harness wants is not known", "harness", h.ID(), "error", err)
	}
	return p, err
}

// Process is a process that has a harness.
type Process interface {
	// Wanted returns for how long its threads have run on a processor or waited for one, all
	// together, since some moment.
	Wanted() (time.Duration, error)
}
