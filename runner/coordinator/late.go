package coordinator

import (
	"math"
	"sync"
	"time"

	"github.com/lintelrun/lintel/runner/rpc"
)

// lateness notices checkpoints that stay away. Of the goroutine that runs a loop.
type lateness struct {
	after time.Duration // without a checkpoint; 0 if none is due by itself
	since time.Time     // when the newest began, or the run
	told  bool
}

// newLateness returns that of a run which begins now.
func newLateness(interval time.Duration, now time.Time) lateness {
	l := lateness{since: now}
	if interval > 0 {
		l.after = max(3*interval, 5*time.Second)
	}
	return l
}

// wait returns how long it takes from now until there is something to tell.
func (l *lateness) wait(now time.Time) time.Duration {
	if l.after == 0 || l.told {
		return math.MaxInt64
	}
	return max(l.since.Add(l.after).Sub(now), 0)
}

// complete notes a checkpoint, and tells whether it was said that none came.
func (l *lateness) complete(began time.Time) (late bool) {
	late = l.told
	l.since, l.told = began, false
	return late
}

// tellLate says once in the job's log that checkpoints stay away.
func (l *loop) tellLate(now time.Time) {
	if l.late.wait(now) > 0 {
		return
	}
	l.late.told = true
	l.job.say(rpc.Warn, "there was no checkpoint for %v, and one is due every %v: the job goes on, and a failure would have it do again all since then",
		now.Sub(l.late.since).Round(time.Second), l.job.checkpoints.schedule.Interval)
}

// storeTrouble says in a job's log, once a minute at most, that the store fails. Safe for concurrent use.
type storeTrouble struct {
	mu   sync.Mutex
	told time.Time
}

// storeFails is told of what the store is tried again after.
func (j *Job) storeFails(err error) {
	t, now := &j.checkpoints.trouble, time.Now()
	t.mu.Lock()
	tell := t.told.IsZero() || now.Sub(t.told) >= time.Minute
	if tell {
		t.told = now
	}
	t.mu.Unlock()
	if tell {
		j.say(rpc.Warn, "the store of checkpoints failed, and is asked again until it answers: %v", err)
	}
}
