package engine

import "time"

// Round is what timers a task fires of which all input is to be the same in each attempt, whatever fails in between
// (Beam's RequiresStableInput): those that its state had at a barrier, and were due then. They fire once a checkpoint is
// complete that has the barrier, first of all; then the elements follow that it has. So timers see
// state that is durable, and in each attempt the same work comes in the same order.
type Round struct {
	// Watermark of the input and Clock say which timers are due. Those that fire may set others that are.
	Watermark int64
	Clock     time.Time
	// Firing is true until all of them have fired.
	Firing bool
}

// Over tells whether all that the task was given is done, and the round's timers have fired.
func (t *Task) Over() bool {
	return !t.round.Firing && t.inbox.len() == 0 && len(t.running) == 0 && len(t.retries) == 0
}

// Seal begins a round at a barrier, where the one before is Over. Nothing starts, and no input is to come, until Open.
func (t *Task) Seal(now time.Time) {
	// To the ms, as snapshots and timers have it.
	t.round, t.sealed = Round{Watermark: t.InputWatermark(), Clock: t.clock(now).Truncate(time.Millisecond), Firing: true}, true
}

// Open notes that a checkpoint is complete that has the round's beginning. A round that was restored is open.
func (t *Task) Open() { t.sealed = false }

// Reached is the watermark by which elements are late: that of the input, or where timers fire in rounds that of the
// round, as their windows expire then.
func (t *Task) Reached() int64 {
	if t.cfg.Rounds {
		return t.round.Watermark
	}
	return t.InputWatermark()
}
