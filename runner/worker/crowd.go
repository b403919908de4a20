package worker

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// crowdBundles is how many bundles that wait for something outside a harness runs at once.
const crowdBundles = 100

// crowd decides how many bundles a stage runs beyond what its tasks and the processors ask
// for. A bundle may take long because it computes, and then more of them take memory and
// gain nothing; or because it waits, for a service or until it is time, and then they only
// help. Harnesses don't tell which. But if bundles take long and the machine has nothing to
// do, they wait. The number doubles from one look to the next as long as that is so.
type crowd struct {
	mu          sync.Mutex // the tasks of the stage ask
	looked      time.Time
	idle, total int64
	allowed     int
}

// room returns how many more bundles may start where running ones of the stage, which may
// have most, take long.
func (c *crowd) room(running, most int, now time.Time, cfg *Config) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := now.Sub(c.looked); since >= cfg.Splits.LookEvery {
		idle, total := cfg.Processors()
		unused, all := idle-c.idle, total-c.total
		// After a longer time the figures say little of these bundles: it is the first look.
		waiting := since <= 4*cfg.Splits.LookEvery && all > 0 && unused*idleProcessors >= all
		c.looked, c.idle, c.total, c.allowed = now, idle, total, 0
		if waiting {
			c.allowed = min(2*running, most)
		}
	}
	return max(0, c.allowed-running)
}

// idleProcessors: the machine has nothing to do if one in so many of its processors has not.
const idleProcessors = 8

// processors reads how long the machine's processors could have worked for us, and have been
// there, in a unit of its own. It returns zeros where the system doesn't tell.
func processors() (idle, total int64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	return parseProcessors(string(b))
}

// parseProcessors reads the first line of /proc/stat (proc(5)). Processors that wait for a
// disk are idle, and those that work for processes of low priority as good as idle: these
// give way.
func parseProcessors(stat string) (idle, total int64) {
	line, _, _ := strings.Cut(stat, "\n")
	// cpu user nice system idle iowait irq softirq steal; guests are in user.
	for i, s := range strings.Fields(line) {
		if i == 0 || i > 8 {
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, 0
		}
		total += n
		if i == 2 || i == 4 || i == 5 {
			idle += n
		}
	}
	return idle, total
}
