package worker

import "time"

// ahead says when a task writes what it has only in memory to its store before the next barrier comes, a slice
// between two steps: at the barrier it writes what is left, and does nothing else meanwhile. Checkpoints come at
// intervals, so the next barrier is expected as long after the last as that was after the one before.
type ahead struct {
	last     time.Time // barrier, or the beginning
	expected time.Time // the next one
	at       time.Time // when to write; zero if not before the next barrier
}

const (
	// sliceBytes is about how much is written in a slice: a millisecond.
	sliceBytes = 64 << 10
	// leastAhead is how long before a barrier it is no longer of use to write again what has changed since.
	leastAhead = 5 * time.Millisecond
)

// begin notes when the task begins, an interval before the first barrier.
func (a *ahead) begin(now time.Time) { a.last = now }

// passed notes a barrier.
func (a *ahead) passed(now time.Time) {
	gap := now.Sub(a.last)
	a.last, a.expected, a.at = now, now.Add(gap), now.Add(gap-gap/4)
}

// wrote notes a slice, and whether that was all. What changes after that is written later, each time in half of the time that is left.
func (a *ahead) wrote(now time.Time, all bool) {
	switch left := a.expected.Sub(now); {
	case !all:
		a.at = now
	case left < leastAhead:
		a.at = time.Time{}
	default:
		a.at = now.Add(left / 2)
	}
}

// writeAhead writes a slice if it is time, and returns when the task is to be called again, which is at next at the latest.
func writeAhead[R any](t *task, o owner[R], next time.Time) (time.Time, error) {
	if t.ahead.at.IsZero() || t.e.clock.virtual {
		return next, nil
	}
	if now := t.e.clock.Now(); !now.Before(t.ahead.at) {
		all, err := o.flush(sliceBytes)
		if err != nil {
			return next, err
		}
		t.ahead.wrote(now, all)
	}
	if at := t.ahead.at; !at.IsZero() && (next.IsZero() || at.Before(next)) {
		next = at
	}
	return next, nil
}
