package engine

import "time"

// Hold keeps the task from what begins by itself, until Release: residuals, and timers of processing time that fall due from
// now on. A task of a splittable DoFn starts no bundles at all, and those that run are interrupted. Whatever else
// there is goes on, so that the task comes to rest once nothing is sent to it.
func (t *Task) Hold(now time.Time) {
	t.held, t.heldAt = true, now
	if t.cfg.Splittable {
		for _, b := range t.running {
			b.nextCheckpoint = now
		}
	}
}

// Release lets the task go on.
func (t *Task) Release() { t.held = false }

// AtRest tells whether nothing is under way in a task that holds back: all of its input is committed or, of a splittable
// DoFn, waits for Release.
func (t *Task) AtRest() bool {
	return t.held && len(t.running) == 0 && (t.cfg.Splittable || t.Over())
}

// Uncommitted is the number of bytes of input that the task has yet to give credit back for, by Ready.Consumed.
func (t *Task) Uncommitted() int {
	n := t.consumed + t.inbox.bytes
	for _, b := range t.running {
		n += b.Bytes
	}
	for _, b := range t.retries {
		n += b.Bytes
	}
	return n
}

// starts tells whether bundles may start.
func (t *Task) starts() bool { return !t.blocked && t.SidesReady() && (!t.held || !t.cfg.Splittable) }

// clock is the time by which timers fire.
func (t *Task) clock(now time.Time) time.Time {
	if t.held {
		return t.heldAt
	}
	return now
}

// wake is when something falls due by the clock that may begin then, zero for never.
func (t *Task) wake(now time.Time) (first time.Time) {
	if t.held {
		return first
	}
	for _, d := range t.delayed {
		if d.at.After(now) && (first.IsZero() || d.at.Before(first)) {
			first = d.at
		}
	}
	if t.cfg.Timers != nil {
		if at, ok := t.cfg.Timers.NextClock(); ok && at.After(now) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
