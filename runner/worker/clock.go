package worker

import (
	"context"
	"sync"
	"time"

	"github.com/lintelrun/lintel/portable/plan"
)

// clock is a job's time, by which timers, triggers and delays go: the machine's or, in a
// job with TestStreams, a virtual one. That one stands still while anything is under way:
// messages between tasks, bundles, what tasks are at. When nothing is, the next TestStream
// acts its next event; after the last event of all, time goes on to the next alarm. It
// starts at the epoch, as the test clocks of Beam's Python SDK do. Safe for concurrent use.
type clock struct {
	virtual bool

	mu      sync.Mutex // protects what follows, which only virtual clocks use
	now     time.Time
	work    int // under way
	streams int // TestStreams that have events left
	turns   []chan struct{}
	alarms  map[*alarm]time.Time
}

func newClock(p *plan.Plan) *clock {
	c := &clock{alarms: map[*alarm]time.Time{}}
	for _, s := range p.Stages {
		if s.Kind == plan.TestStream {
			c.streams++
		}
	}
	c.virtual = c.streams > 0
	c.now = time.UnixMilli(0)
	return c
}

// Now is the present processing time.
func (c *clock) Now() time.Time {
	if !c.virtual {
		return time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// local takes a time (ms) that an SDK reckoned to this clock. SDKs reckon by the machine's
// clock, so that a time is as far from now by a virtual one; user code under test also by a
// fake clock that goes with the TestStream. Which one it was shows in which is nearer: they
// are decades apart.
func (c *clock) local(ms int64) int64 {
	if !c.virtual {
		return ms
	}
	now, machine := c.Now().UnixMilli(), time.Now().UnixMilli()
	if apart(ms, now) < apart(ms, machine) {
		return ms
	}
	return now + ms - machine
}

func apart(a, b int64) int64 { return max(a-b, b-a) }

// begin notes n things that are under way from now on.
func (c *clock) begin(n int) {
	if !c.virtual {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work += n
}

// end notes the end of n things that were under way. All that they caused has begun.
func (c *clock) end(n int) {
	if !c.virtual || n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work -= n
	c.idle()
}

// idle goes on if nothing is under way. c.mu is held.
func (c *clock) idle() {
	switch {
	case c.work > 0:
	case len(c.turns) > 0:
		c.work++
		close(c.turns[0])
		c.turns = c.turns[1:]
	case c.streams == 0:
		c.jump()
	}
}

// turn waits until nothing is under way and it is the caller's turn. The caller is under
// way then, and has to say so when it has ended.
func (c *clock) turn(ctx context.Context) error {
	mine := make(chan struct{})
	c.mu.Lock()
	c.turns = append(c.turns, mine)
	c.idle()
	c.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// streamEnded notes that a TestStream has no more events.
func (c *clock) streamEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams--
}

// restore sets a virtual clock to the time of a snapshot, when nobody has looked at it yet.
func (c *clock) restore(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.After(c.now) {
		c.now = now
	}
}

// advance moves a virtual clock.
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(max(d, 0))
	c.ring()
}

// jump moves a virtual clock to the next alarm, if one is set.
func (c *clock) jump() {
	var next time.Time
	for _, at := range c.alarms {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.IsZero() {
		return
	}
	if next.After(c.now) {
		c.now = next
	}
	c.ring()
}

// ring lets the alarms go off that are due. What wakes by them is under way.
func (c *clock) ring() {
	for a, at := range c.alarms {
		if at.After(c.now) {
			continue
		}
		delete(c.alarms, a)
		select {
		case a.C <- struct{}{}:
			c.work++
		default: // it has not yet seen that it rang before
		}
	}
}

// alarm wakes one owner at a time of a clock. An alarm that was set anew may ring once for
// the time before.
type alarm struct {
	// C receives when the alarm goes off. By a virtual clock the receiver is under way then.
	C     chan struct{}
	clock *clock
	timer *time.Timer // of the machine's clock, once it was set
}

func (c *clock) newAlarm() *alarm { return &alarm{C: make(chan struct{}, 1), clock: c} }

// set makes the alarm go off once, at that time and no other; never if that is zero.
func (a *alarm) set(at time.Time) {
	c := a.clock
	switch {
	case c.virtual:
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.alarms, a)
		if !at.IsZero() {
			c.alarms[a] = at
			if !at.After(c.now) {
				c.ring()
			}
		}
	case at.IsZero():
		if a.timer != nil {
			a.timer.Stop()
		}
	case a.timer == nil:
		a.timer = time.AfterFunc(time.Until(at), a.ring)
	default:
		a.timer.Reset(time.Until(at))
	}
}

func (a *alarm) ring() {
	select {
	case a.C <- struct{}{}:
	default:
	}
}

// stop ends the use of the alarm.
func (a *alarm) stop() {
	a.set(time.Time{})
	select {
	case <-a.C:
		a.clock.end(1)
	default:
	}
}
