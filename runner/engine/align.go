package engine

import "github.com/lintelrun/lintel/internal/invariant"

// Aligner says where barriers are in what comes on the channels of a task (DESIGN.md, rule 6). What follows
// a barrier on a channel waits until all channels have delivered it: between the last thing before the
// barrier and the first behind it the task is at one moment of its input, and takes its snapshot there.
// Channels that have come to their end deliver no more barriers and are not waited for. Once all have,
// or where there are none, epochs are aligned when they are announced: whoever could deliver
// barriers has ended, with all that he sent before them.
//
// All channels deliver the same barriers in the same order, rising, until they end; several epochs may be on
// their way. All of them are announced too, in that order, at any time.
// What comes are things of type T, messages. One owner.
type Aligner[T any] struct {
	channels  []aligned[T]
	left      int    // channels that have not come to their end
	epoch     uint64 // that is waited for, 0 for none
	missing   int    // channels that have not delivered it
	last      uint64 // that was aligned
	announced []uint64
}

// aligned is a channel.
type aligned[T any] struct {
	ended, stopped bool // stopped at the barrier of the epoch
	behind         []setAside[T]
}

// setAside is what has to wait: a thing, or a barrier.
type setAside[T any] struct {
	thing T
	epoch uint64 // of a barrier, 0 of a thing
	end   bool   // the thing ends the channel
}

// NewAligner returns one of n channels.
func NewAligner[T any](n int) *Aligner[T] {
	return &Aligner[T]{channels: make([]aligned[T], n), left: n}
}

// Take is told of a thing that has come on a channel, and reports whether the task may have it at once. Else the
// Aligner keeps it for Next. End is true of the last thing of a channel: its final watermark.
func (a *Aligner[T]) Take(channel int, thing T, end bool) (now bool) {
	c := &a.channels[channel]
	if c.stopped {
		c.behind = append(c.behind, setAside[T]{thing: thing, end: end})
		return false
	}
	if end {
		a.ended(c)
	}
	return true
}

// Barrier is told of a barrier that has come on a channel.
func (a *Aligner[T]) Barrier(channel int, epoch uint64) {
	c := &a.channels[channel]
	if c.stopped {
		c.behind = append(c.behind, setAside[T]{epoch: epoch})
		return
	}
	a.stop(c, epoch)
}

// Announce is told that an epoch has begun, whose barrier may have come before this or is yet to come.
func (a *Aligner[T]) Announce(epoch uint64) { a.announced = append(a.announced, epoch) }

// Aligned returns the epoch whose barrier has come on all channels, if there is one: the task takes its snapshot
// and passes the barrier on. Then it calls Next until that has no more, before anything else, and asks again.
func (a *Aligner[T]) Aligned() (epoch uint64, ok bool) {
	for len(a.announced) > 0 && a.announced[0] <= a.last {
		a.announced = a.announced[1:]
	}
	switch {
	case a.epoch != 0 && a.missing == 0:
		a.last, a.epoch = a.epoch, 0
		for i := range a.channels {
			a.channels[i].stopped = false
		}
	case a.left == 0 && len(a.announced) > 0:
		a.last = a.announced[0]
	default:
		return 0, false
	}
	return a.last, true
}

// Next returns a thing whose waiting is over, in the order of its channel.
func (a *Aligner[T]) Next() (channel int, thing T, ok bool) {
	for i := range a.channels {
		c := &a.channels[i]
		for !c.stopped && len(c.behind) > 0 {
			h := c.behind[0]
			c.behind[0] = setAside[T]{}
			c.behind = c.behind[1:]
			if h.epoch != 0 {
				a.stop(c, h.epoch)
				continue
			}
			if h.end {
				a.ended(c)
			}
			return i, h.thing, true
		}
	}
	return 0, thing, false
}

// Waiting is how many things wait.
func (a *Aligner[T]) Waiting() (n int) {
	for i := range a.channels {
		for _, h := range a.channels[i].behind {
			if h.epoch == 0 {
				n++
			}
		}
	}
	return n
}

func (a *Aligner[T]) ended(c *aligned[T]) {
	c.ended = true
	a.left--
	if a.epoch != 0 {
		a.missing--
	}
}

func (a *Aligner[T]) stop(c *aligned[T], epoch uint64) {
	invariant.Check(epoch > a.last && (a.epoch == 0 || a.epoch == epoch), "the barrier of epoch %d where that of %d is to come, after that of %d", epoch, a.epoch, a.last)
	invariant.Check(!c.ended, "the barrier of epoch %d on a channel that has come to its end", epoch)
	if a.epoch == 0 {
		a.epoch = epoch
		a.missing = 0
		for i := range a.channels {
			if !a.channels[i].ended {
				a.missing++
			}
		}
	}
	c.stopped = true
	a.missing--
}
