package engine

import "time"

// Timer is a user's timer, or the one by which a window expires.
type Timer struct {
	// Family is the number of the timer family in the stage's list.
	Family int
	// Tag, Key and Window (all encoded) are the rest of the timer's identity: a
	// timer set again replaces the one of the same identity.
	Tag, Key, Window string
	// Fire is when the timer fires, in ms of its time domain.
	Fire int64
	// Hold (ms of event time) keeps the output watermark back until the timer has fired.
	Hold int64
	// Pane is the encoded pane info that the timer was set with.
	Pane []byte
}

// TimerChange is what a bundle does to a timer.
type TimerChange struct {
	Timer
	// Clear takes the timer back; else it is set.
	Clear bool
}

// Timers is what a stateful task has set and not yet fired. What bundles change
// of it is committed by the caller of Task.Succeeded, before that, in one with
// their state. One owner.
type Timers interface {
	// Due hands out timers that may fire, at most limit: event-time timers that
	// the watermark has passed (fire < watermark), or else processing-time timers
	// whose time has come (fire <= now), or else those by which windows expire,
	// which go as the first do. Those of a key come in a row and in their order. As firing one
	// may set another that goes before the key's next, they are of one time, the key's earliest,
	// unless that is unlikely; then the bundle may turn out to have fired too many. At the
	// end of time all timers fire, those of processing time without waiting.
	//
	// What was handed out stays, and holds, until the bundle that fires it commits.
	Due(watermark int64, now time.Time, limit int) ([]Timer, error)
	// GiveBack takes timers that were handed out, all those of a bundle that fired too many.
	GiveBack(timers []Timer)
	// Hold is the smallest hold of all timers, MaxTimestamp if there are none.
	Hold() int64
	// NextClock is when, at the earliest, Due has something to do by the clock.
	NextClock() (time.Time, bool)
	// Pending tells whether there are timers left, those handed out included.
	Pending() bool
}
