package engine

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// Checkpoints says when bundles of a splittable DoFn are interrupted: the harness
// gives back what it has not done yet, so that what it has done can be committed.
type Checkpoints struct {
	// Unbounded is true where an element may stand for work without end. Then
	// bundles are interrupted as time goes by, more bundles run beside each other,
	// and work is not split for idle tasks: the second half of what has no end, or one
	// that is far away, is not to be done now.
	Unbounded bool
	// Least and Most are how long a bundle runs before it is interrupted (defaults
	// 10 ms and 1 s). It is the shorter the more often that yields output, and long
	// enough for interruptions to take a small part of the time. Bundles in which
	// nothing at all has happened may take longer yet: a source may need time to start.
	Least, Most time.Duration
	// Truncates is true where the harness can truncate what remains when the job
	// is drained. Elsewhere unbounded residuals are dropped then, which is what
	// truncation does unless a DoFn says otherwise.
	Truncates bool
}

const (
	// busyShare is how many times longer a bundle runs than its interruption takes, and
	// idleShare the same where a bundle puts out less than idleBytes: then most of the
	// time may be that of waiting for something outside, and latency counts for more.
	busyShare = 20
	idleShare = 4
	idleBytes = 64 << 10
	// startShare bounds the time that a bundle gets in which nothing happens, in Most.
	startShare = 30
	// While selfEnded bundles in a row, and more, have ended by themselves, they get Most/patience
	// at the least: what comes back by itself need not be interrupted, least of all when
	// it is about to. The Go SDK then waits for half a second, and the bundle with it.
	selfEnded = 8
	patience  = 10
)

// pace is how often the bundles of a task are interrupted.
type pace struct {
	Checkpoints
	interval time.Duration
	cost     time.Duration // of an interruption, smoothed
	byItself int           // bundles in a row that were not interrupted
}

func newPace(c Checkpoints) pace {
	if c.Least == 0 {
		c.Least = 10 * time.Millisecond
	}
	if c.Most == 0 {
		c.Most = time.Second
	}
	return pace{Checkpoints: c, interval: c.Least}
}

// first is how long a bundle that begins now runs before it is interrupted.
func (p *pace) first() time.Duration {
	if p.byItself >= selfEnded {
		return max(p.interval, p.Most/patience)
	}
	return p.interval
}

// observe learns from a bundle that has ended: of interruptions, if it was interrupted.
func (p *pace) observe(b *Bundle, outputBytes int, now time.Time) {
	if b.interrupted.IsZero() {
		p.byItself++
		return
	}
	p.byItself = 0
	took := now.Sub(b.interrupted)
	p.cost += (took - p.cost) / 4
	// By the interval that it had: bundles that ran side by side have learnt the same.
	switch {
	case outputBytes > 0:
		p.interval = min(p.interval, b.paced/2)
	case b.moved:
		p.interval = min(max(p.interval, 2*b.paced), p.Most)
	default:
		p.interval = max(p.interval, min(2*b.paced, startShare*p.Most))
	}
	share := time.Duration(busyShare)
	if outputBytes < idleBytes {
		share = idleShare
	}
	p.interval = max(p.interval, p.Least, min(share*p.cost, p.Most))
}

// Produced tells that a running bundle has put out what is worth a commit. It is
// interrupted soon, if it may be; bundles that have ended are none of our business.
func (t *Task) Produced(id BundleID, now time.Time) {
	if b := t.running[id]; b != nil && b.nextCheckpoint.After(now) {
		b.nextCheckpoint = now
	}
}

// Drain asks the task to come to an end: running bundles are interrupted, and
// bundles that start from now on truncate their elements, each once. It is for
// tasks of splittable DoFns, and does nothing to others.
func (t *Task) Drain(now time.Time) {
	if t.draining || !t.cfg.Splittable {
		return
	}
	t.draining = true
	for _, b := range t.running {
		b.nextCheckpoint = now
	}
	for _, b := range t.retries {
		t.sever(b)
	}
}

// sever takes the parts of elements that a failed bundle has cut out of it, to be
// tried again as they are: truncation would drop work that lies before the rest.
func (t *Task) sever(b *Bundle) {
	n := len(b.Frames) - b.parts()
	switch {
	case n == len(b.Frames) || b.truncated:
		return
	case n == 0:
		b.truncated = true
		return
	}
	s := t.newBundle()
	s.Attempt, s.residual, s.truncated, s.inputHold = b.Attempt, true, true, b.inputHold
	for i, f := range b.Frames[n:] {
		s.addResidual(b.residualOf(piece{f, b.origins[n+i]}, true))
		b.Elements -= f.Elements
	}
	b.Frames, b.origins = b.Frames[:n:n], b.origins[:n:n]
	s.rest, b.rest = b.rest, nil
	s.rehold()
	b.rehold()
	t.retries = append(t.retries, s)
}

// parts is how many of the last Frames are parts of elements that were cut.
func (b *Bundle) parts() (n int) {
	for _, o := range b.origins {
		if o.part {
			n++
		}
	}
	return n
}

// forgo drops the residuals that a job which is drained does without.
func (t *Task) forgo() {
	if t.draining && t.pace.Unbounded && !t.pace.Truncates {
		t.delayed = slices.DeleteFunc(t.delayed, func(d delayed) bool { return !d.r.Bounded })
	}
}

// interruptible reports whether b has to be interrupted when its time has come.
func (t *Task) interruptible(b *Bundle) bool {
	return !b.cut && (t.pace.Unbounded || t.held && !t.draining || t.draining && !b.Truncate && !b.truncated)
}

// checkpoints asks for the bundles to be interrupted whose time has come; wake is
// when the next one's does.
func (t *Task) checkpoints(now time.Time) (requests []SplitRequest, wake time.Time) {
	if !t.cfg.Splittable {
		return nil, wake
	}
	for _, id := range slices.Sorted(maps.Keys(t.running)) {
		b := t.running[id]
		switch {
		case b.splitting || !t.interruptible(b):
		case !now.Before(b.nextCheckpoint):
			b.splitting = true
			if b.interrupted.IsZero() {
				b.interrupted = now
			}
			b.checkpointPause = min(2*b.checkpointPause, t.pace.Most)
			b.nextCheckpoint = now.Add(b.checkpointPause)
			requests = append(requests, SplitRequest{b.ID, 0, b.sentElements})
		case wake.IsZero() || b.nextCheckpoint.Before(wake):
			wake = b.nextCheckpoint
		}
	}
	return requests, wake
}

// note sees whether a residual of b is other work than b was given.
func (b *Bundle) note(r *Residual) {
	if r.OutputWatermark > max(b.hold, frame.MinTimestamp) && b.residual {
		b.moved = true
	}
	b.moved = b.moved || !slices.ContainsFunc(b.sent, func(f frame.Frame) bool { return bytes.Equal(f.Data, r.Frame.Data) })
}
