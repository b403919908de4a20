package engine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/frame"
)

// SplitRequest asks the harness of a running bundle to give a part of it back.
type SplitRequest struct {
	ID BundleID
	// Fraction of what remains that the bundle should keep: 0 interrupts it.
	Fraction float64
	// Elements of the bundle's input in all, sent or not.
	Elements int
}

// Split is what a harness gave back of a running bundle, as the positions and
// roots of a ProcessBundleSplitResponse. The zero value is no split.
type Split struct {
	// LastPrimary is the position of the last element that the bundle still
	// processes whole, -1 if there is none; FirstResidual that of the first one
	// which it does not process at all. FirstResidual is 0 if there was no split.
	LastPrimary, FirstResidual int
	// Primaries are the parts that the bundle keeps of elements in between: an
	// attempt after this one begins with them. Residuals are the other parts.
	Primaries []frame.Frame
	Residuals []Residual
	// Refused says that there was no split because the harness met with an error: it is
	// asked again soon.
	Refused bool
}

// maxSplitPause between attempts to split a bundle that does not split.
const maxSplitPause = 10 * time.Second

// Splittable reports whether bundles run that may be split once tasks are idle:
// then Idle and Ready should be called now and then.
func (t *Task) Splittable() bool { return t.cfg.Timers == nil && len(t.running) > 0 }

// Longest is how long the oldest attempt has been running.
func (t *Task) Longest(now time.Time) time.Duration {
	var longest time.Duration
	for _, b := range t.running {
		longest = max(longest, now.Sub(b.started))
	}
	return longest
}

// Idle tells how many bundles the stage's other tasks could run beside those
// that run: this task may start as many more, and splits a bundle for them.
//
// It means nothing to a stateful task: its bundles may share keys.
func (t *Task) Idle(n int) {
	if t.cfg.Timers == nil {
		t.idle = max(n, 0)
	}
}

// Spare tells how many more bundles yet the task may start of input that it has. No bundle
// is split for them.
func (t *Task) Spare(n int) {
	if t.cfg.Timers == nil {
		t.spare = max(n, 0)
	}
}

// splits picks a bundle to split, if the stage has idle tasks and there is
// nothing else to start for them; wake is when to look again.
func (t *Task) splits(now time.Time) (requests []SplitRequest, wake time.Time) {
	requests, wake = t.checkpoints(now)
	if len(requests) > 0 || t.idle == 0 || t.blocked || t.inbox.len() > 0 || len(t.retries) > 0 {
		return requests, wake
	}
	for _, id := range slices.Sorted(maps.Keys(t.running)) {
		b := t.running[id]
		if b.splitting || t.pace.Unbounded {
			continue
		}
		if !now.Before(b.nextSplit) {
			if len(requests) == 0 {
				b.splitting = true
				requests = append(requests, SplitRequest{b.ID, 1 / float64(t.idle+1), b.sentElements})
				continue
			}
			b.nextSplit = now.Add(t.cfg.SplitAfter / 2)
		}
		if wake.IsZero() || b.nextSplit.Before(wake) {
			wake = b.nextSplit
		}
	}
	return requests, wake
}

// begin notes that an attempt of b starts.
func (t *Task) begin(b *Bundle, now time.Time) {
	b.started = now
	b.Truncate = t.draining && t.pace.Truncates && !b.truncated
	b.sent, b.sentOrigins, b.sentElements, b.bound = b.Frames, b.origins, b.Elements, b.Elements
	b.splitting, b.cut = false, false
	b.splitPause = t.cfg.SplitAfter
	b.nextSplit = now.Add(b.splitPause)
	b.interrupted, b.moved = time.Time{}, false
	b.paced, b.checkpointPause = t.pace.interval, t.pace.first()
	b.nextCheckpoint = now.Add(b.checkpointPause)
	t.running[b.ID] = b
}

// unsplit notes that b did not split: it is asked less and less often.
func (b *Bundle) unsplit(now time.Time) {
	b.splitPause = min(2*b.splitPause, maxSplitPause)
	b.nextSplit = now.Add(b.splitPause)
}

// Split takes the answer to a SplitRequest. It comes before the attempt's end.
func (t *Task) Split(id BundleID, s Split, now time.Time) error {
	b := t.running[id]
	if b == nil {
		return fault.New(fault.Internal, "bundle %d was split after its end", id)
	}
	b.splitting = false
	roots := len(s.Primaries) + len(s.Residuals)
	switch {
	case s.Refused:
		b.nextSplit = now.Add(t.cfg.SplitAfter / 5)
		return nil
	case s.FirstResidual == 0 && s.LastPrimary == 0 && roots == 0:
		b.unsplit(now)
		return nil
	case s.LastPrimary < -1 || s.FirstResidual <= s.LastPrimary:
		return fault.New(fault.Invalid, "a split of bundle %d with last primary element %d and first residual %d", id, s.LastPrimary, s.FirstResidual)
	case roots == 0 && !b.cut && min(s.FirstResidual, b.bound) > s.LastPrimary+1:
		return fault.New(fault.Invalid, "a split of bundle %d keeps elements to %d and gives away those from %d, but says nothing of those in between", id, s.LastPrimary, s.FirstResidual)
	case len(s.Residuals) == 0 && s.FirstResidual >= b.bound:
		b.unsplit(now) // it gives nothing away
		return nil
	case b.cut && s.FirstResidual < b.bound:
		return fault.New(fault.Invalid, "a split of bundle %d gives element %d away, which an earlier one has cut in two", id, b.bound-1)
	}
	b.cut = b.cut || roots > 0
	b.nextSplit = now.Add(t.cfg.SplitAfter)
	kept, err := t.slice(b, 0, min(s.LastPrimary+1, b.sentElements))
	if err != nil {
		return err
	}
	parted, err := t.slice(b, min(s.LastPrimary+1, b.bound), min(s.FirstResidual, b.bound))
	if err != nil {
		return err
	}
	given, err := t.slice(b, min(s.FirstResidual, b.bound), b.bound)
	if err != nil {
		return err
	}
	b.bound = min(b.bound, s.FirstResidual)
	b.keep(kept, parted, s.Primaries)
	for _, p := range given {
		if b.residual || p.origin.part {
			// Residuals were consumed once: their credit is gone already. Of parts it goes
			// with their bundle.
			t.delay(b.residualOf(p, b.truncated), now)
			continue
		}
		b.Bytes -= p.frame.Bytes()
		t.inbox.push(p.frame, b.holdOf(p.frame))
	}
	for _, r := range s.Residuals {
		b.note(&r)
		r.truncated = b.Truncate || b.truncated || len(parted) > 0 && parted[0].origin.part
		if b.interrupted.IsZero() {
			t.delay(r, now)
			continue
		}
		b.rest = append(b.rest, r.after(now))
		b.hold = min(b.hold, r.OutputWatermark)
	}
	return nil
}

// keep makes b's input what a split leaves of it: whole elements and parts of
// those that it has cut.
func (b *Bundle) keep(whole, parted []piece, parts []frame.Frame) {
	b.Frames, b.origins, b.Elements = nil, nil, 0
	for _, p := range whole {
		b.Frames = append(b.Frames, p.frame)
		b.origins = append(b.origins, p.origin)
	}
	of := origin{hold: frame.MaxTimestamp, bounded: true, part: true}
	for _, p := range parted {
		of.hold = min(of.hold, p.origin.hold)
		of.bounded = of.bounded && p.origin.bounded
	}
	for _, f := range parts {
		b.Frames = append(b.Frames, f)
		b.origins = append(b.origins, of)
	}
	for _, f := range b.Frames {
		b.Elements += f.Elements
	}
	b.rehold()
	b.hold = min(b.hold, of.hold) // the attempt that runs may still put out more of them
}

// piece is a frame of a bundle, or a part of one.
type piece struct {
	frame  frame.Frame
	origin origin
}

// holdOf is what a frame of b's input holds the watermark at, if not a residual: no later
// than it did in the inbox.
func (b *Bundle) holdOf(f frame.Frame) int64 { return max(f.MinTimestamp, b.inputHold) }

// residualOf makes a residual of a piece of b, which holds the watermark as it did.
func (b *Bundle) residualOf(p piece, truncated bool) Residual {
	hold := p.origin.hold
	if hold == unheld.hold {
		hold = b.holdOf(p.frame)
	}
	return Residual{Frame: p.frame, OutputWatermark: hold, Bounded: p.origin.bounded, truncated: truncated || p.origin.part}
}

// slice returns the elements [from, to) of what an attempt of b was sent.
func (t *Task) slice(b *Bundle, from, to int) ([]piece, error) {
	var out []piece
	at := 0
	for i, f := range b.sent {
		lo, hi := max(from-at, 0), min(to-at, f.Elements)
		at += f.Elements
		if lo >= hi {
			continue
		}
		begin, err := t.offset(f, lo)
		if err != nil {
			return nil, err
		}
		end, err := t.offset(f, hi)
		if err != nil {
			return nil, err
		}
		p := piece{frame: frame.Frame{Data: f.Data[begin:end:end], Elements: hi - lo, MinTimestamp: f.MinTimestamp, Empty: f.Empty}, origin: unheld}
		if i < len(b.sentOrigins) {
			p.origin = b.sentOrigins[i]
		}
		out = append(out, p)
	}
	return out, nil
}

// offset is where element n of a frame begins.
func (t *Task) offset(f frame.Frame, n int) (int, error) {
	switch n {
	case 0:
		return 0, nil
	case f.Elements:
		return f.Bytes(), nil
	}
	off, err := t.cfg.Cut(f.Data, n)
	if err != nil {
		return 0, fmt.Errorf("find element %d of a frame: %w", n, err)
	}
	return off, nil
}
