package engine

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/invariant"
	"github.com/lintelrun/lintel/runner/frame"
)

// Snapshot is what a task is at one moment, so that another can go on from there (Config.Restore): how far it is,
// and the input that it has not committed, that of running bundles included, as splits have left it. What
// these bundles have done so far is no part of it (DESIGN.md, rule 6). State and timers are in the task's store:
// those that are handed out are there still.
//
// Times of events are ms. Frames are shared with the task and never change; all else is the caller's.
type Snapshot struct {
	// Main and Side are the watermarks of the channels.
	Main, Side []int64
	// Input and Output are those of the task itself, which never go back.
	Input, Output int64
	// Round of a task whose timers fire in rounds, zero of others: Bundles and Inbox follow what it has yet to fire.
	Round Round
	// Draining is true once the task was asked to come to an end.
	Draining bool
	// Bundles that were running or about to be tried again, in the order in which they began.
	// Each is tried again as it is.
	Bundles []PendingBundle
	// Inbox is the input that waits for a bundle, in order.
	Inbox []PendingFrame
	// Marks are where in Inbox the main channels' watermark moved, in order. Only tasks with timers have them.
	Marks []Mark
	// Residuals that wait for their time, in the order in which they came.
	Residuals []PendingResidual
}

// PendingFrame is new input.
type PendingFrame struct {
	frame.Frame
	// Hold is what it holds the input watermark at.
	Hold int64
}

// Mark says that the watermark was at Watermark when Before frames of the inbox had come, and no more.
type Mark struct {
	Before    int
	Watermark int64
}

// PendingBundle is the input of a bundle, which has frames and no timers.
type PendingBundle struct {
	// InputHold is what it holds the input watermark at; frame.MaxTimestamp for nothing.
	InputHold int64
	// Residual is true of bundles made of residuals: they were consumed once, and give no credit back.
	Residual bool
	// Truncated is true where the elements are what truncation has left: they are not truncated again.
	Truncated bool
	Frames    []BundleFrame
	// Rest is what was cut off its elements, and becomes input once the bundle has ended.
	Rest []PendingResidual
}

// BundleFrame is a frame of a bundle.
type BundleFrame struct {
	frame.Frame
	// OutputHold is what it holds the output watermark at: that of a residual, or of a part of one;
	// frame.MaxTimestamp of new input.
	OutputHold int64
	// Bounded is true of residuals that come to an end.
	Bounded bool
	// Part is true of what a bundle has kept of an element that it cut in two.
	Part bool
}

// PendingResidual is a residual and the time from which on it may be processed.
type PendingResidual struct {
	frame.Frame
	OutputHold         int64
	At                 time.Time
	Bounded, Truncated bool
}

// Bytes is how much of the input a task that goes on from s gives credit back for, by
// Ready.Consumed, though nobody who sends to it knows of that.
func (s *Snapshot) Bytes() (n int) {
	for i := range s.Bundles {
		n += s.Bundles[i].bytes()
	}
	for i := range s.Inbox {
		n += s.Inbox[i].Bytes()
	}
	return n
}

func (b *PendingBundle) bytes() (n int) {
	if b.Residual {
		return 0
	}
	for i := range b.Frames {
		n += b.Frames[i].Bytes()
	}
	return n
}

// Snapshot returns what the task is now. It copies headers of frames, not their data, and changes nothing.
func (t *Task) Snapshot() *Snapshot {
	s := &Snapshot{
		Main: t.main.Channels(), Side: t.side.Channels(),
		Input: t.InputWatermark(), Output: t.output,
		Draining:  t.draining,
		Marks:     t.marks.from(t.inbox.first),
		Residuals: residualsOf(t.delayed),
	}
	if t.cfg.Rounds {
		s.Round = t.round
	}
	for i := range t.inbox.frames {
		f := &t.inbox.frames[i]
		s.Inbox = append(s.Inbox, PendingFrame{f.Frame, f.hold})
	}
	bundles := slices.AppendSeq(slices.Clone(t.retries), maps.Values(t.running))
	slices.SortFunc(bundles, func(a, b *Bundle) int { return cmp.Compare(a.ID, b.ID) })
	for _, b := range bundles {
		if len(b.Frames) == 0 { // it fires timers, or has given all away
			s.Residuals = append(s.Residuals, residualsOf(b.rest)...)
			continue
		}
		s.Bundles = append(s.Bundles, b.pending())
	}
	return s
}

// pending is b as it is to be tried again.
func (b *Bundle) pending() PendingBundle {
	p := PendingBundle{InputHold: b.inputHold, Residual: b.residual, Truncated: b.truncated, Rest: residualsOf(b.rest)}
	for i, f := range b.Frames {
		o := unheld
		if i < len(b.origins) {
			o = b.origins[i]
		}
		p.Frames = append(p.Frames, BundleFrame{f, o.hold, o.bounded, o.part})
	}
	return p
}

func residualsOf(all []delayed) []PendingResidual {
	var out []PendingResidual
	for _, d := range all {
		out = append(out, PendingResidual{d.r.Frame, d.r.OutputWatermark, d.at.Round(0), d.r.Bounded, d.r.truncated})
	}
	return out
}

// from returns the marks among frames of which the one by that number is the first.
func (m *marks) from(first uint64) []Mark {
	var out []Mark
	last := m.last
	for _, w := range m.waiting {
		if w.seq <= first {
			last = w.ts
			continue
		}
		out = append(out, Mark{int(w.seq - first), w.ts})
	}
	if last > frame.MinTimestamp {
		out = slices.Insert(out, 0, Mark{0, last})
	}
	return out
}

// restore makes a task that has had no input go on from s, of which it keeps the frames.
func (t *Task) restore(s *Snapshot) {
	invariant.Check(len(s.Main) == t.cfg.Main && len(s.Side) == t.cfg.Side,
		"a snapshot of %d and %d channels for a task of %d and %d", len(s.Main), len(s.Side), t.cfg.Main, t.cfg.Side)
	for i, ts := range s.Main {
		t.main.Advance(i, ts)
	}
	for i, ts := range s.Side {
		t.side.Advance(i, ts)
	}
	t.input, t.output = s.Input, s.Output
	if s.Round != (Round{}) {
		t.round = s.Round
	}
	for i := range s.Bundles {
		t.retries = append(t.retries, t.resume(&s.Bundles[i]))
	}
	for i := range s.Inbox {
		t.inbox.push(s.Inbox[i].Frame, s.Inbox[i].Hold)
	}
	for _, m := range s.Marks {
		t.marks.add(t.inbox.first+uint64(m.Before), m.Watermark)
	}
	t.delayed = delayedOf(s.Residuals)
	if s.Draining {
		t.Drain(time.Time{})
	}
}

// resume returns a bundle that is to be tried again.
func (t *Task) resume(p *PendingBundle) *Bundle {
	b := t.newBundle()
	b.inputHold, b.residual, b.truncated = p.InputHold, p.Residual, p.Truncated
	b.Bytes, b.rest = p.bytes(), delayedOf(p.Rest)
	for _, f := range p.Frames {
		b.Frames = append(b.Frames, f.Frame)
		b.origins = append(b.origins, origin{f.OutputHold, f.Bounded, f.Part})
		b.Elements += f.Elements
		b.Remote += f.Remote
	}
	b.rehold()
	return b
}

func delayedOf(all []PendingResidual) []delayed {
	var out []delayed
	for _, p := range all {
		out = append(out, delayed{p.At, Residual{Frame: p.Frame, OutputWatermark: p.OutputHold, Bounded: p.Bounded, truncated: p.Truncated}})
	}
	return out
}
