package coordinator

import (
	"cmp"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
)

// restarts decides whether and when a job is started again. It belongs to whoever leads the job.
type restarts struct {
	options.Restart
	failures []time.Time // within the window
}

func newRestarts(o options.Restart) *restarts {
	r := &restarts{Restart: o}
	r.Attempts = cmp.Or(r.Attempts, 10)
	r.Window = cmp.Or(r.Window, time.Hour)
	r.Delay = cmp.Or(r.Delay, time.Second)
	r.MaxDelay = max(cmp.Or(r.MaxDelay, time.Minute), r.Delay)
	return r
}

// next notes a failure. It returns how long to wait before the job is started again, and false if it
// isn't to be.
func (r *restarts) next(why error, now time.Time) (time.Duration, bool) {
	if r.Never || !restartable(why) {
		return 0, false
	}
	for len(r.failures) > 0 && now.Sub(r.failures[0]) > r.Window {
		r.failures = r.failures[1:]
	}
	if len(r.failures) >= r.Attempts && !r.Always {
		return 0, false
	}
	delay := r.Delay
	for range r.failures {
		if delay = min(2*delay, r.MaxDelay); delay == r.MaxDelay {
			break
		}
	}
	r.failures = append(r.failures, now)
	return delay, true
}

// restartable tells whether it may help to start again. The user's own functions have been tried
// several times by then.
func restartable(err error) bool {
	c := fault.ClassOf(err)
	return c == fault.Retryable || c == fault.Internal
}
