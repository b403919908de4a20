package engine

import (
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// Residual is work that a harness gave back: the rest of an element.
type Residual struct {
	Frame frame.Frame
	// OutputWatermark (ms) is a lower bound of what the residual will emit; it
	// holds the task's output watermark until the residual is done.
	OutputWatermark int64
	// Delay before the residual may be processed.
	Delay time.Duration
	// Bounded is true where the harness says that the work comes to an end, be it ages away.
	Bounded bool

	// truncated is true of what a bundle that truncates its input gave back.
	truncated bool
}

type delayed struct {
	at time.Time
	r  Residual
}

func (t *Task) delay(r Residual, now time.Time) { t.delayed = append(t.delayed, r.after(now)) }

func (r *Residual) after(now time.Time) delayed { return delayed{now.Add(max(r.Delay, 0)), *r} }

// due makes a bundle of residuals whose delay is over, those that have waited
// longest first. Residuals were consumed input once; their bytes give no credit back.
func (t *Task) due(now time.Time) *Bundle {
	t.forgo()
	if t.held {
		return nil
	}
	ready := 0
	for _, d := range t.delayed {
		if !d.at.After(now) {
			ready++
		}
	}
	if ready == 0 {
		return nil
	}
	most := t.share(ready)
	var b *Bundle
	rest := t.delayed[:0]
	for _, d := range t.delayed {
		if d.at.After(now) || b != nil && (b.Elements >= most || b.truncated != d.r.truncated) {
			rest = append(rest, d)
			continue
		}
		if b == nil {
			b = t.newBundle()
			b.residual, b.truncated = true, d.r.truncated
		}
		b.addResidual(d.r)
	}
	clear(t.delayed[len(rest):])
	t.delayed = rest
	return b
}

// share is how many of n elements a bundle takes. Elements of unbounded work may
// each go on for ever, one after the other where they share a bundle: so they
// share as few as can be.
func (t *Task) share(n int) int {
	if !t.cfg.Checkpoints.Unbounded {
		return t.sizer.elements
	}
	slots := max(t.cfg.InFlight-len(t.running), 1)
	return min((n+slots-1)/slots, t.sizer.elements)
}

func (b *Bundle) addResidual(r Residual) {
	b.Frames = append(b.Frames, r.Frame)
	b.origins = append(b.origins, r.origin())
	b.Elements += r.Frame.Elements
	b.hold = min(b.hold, r.OutputWatermark)
}

// origin is what has to be known of a residual when a bundle that has it gives it back.
type origin struct {
	hold    int64
	bounded bool
	// part is true of what a failed attempt kept of an element that it has cut: as
	// the rest of the element is elsewhere, truncation is not for it.
	part bool
}

// unheld is that of new input: it holds the watermark by its timestamps.
var unheld = origin{hold: frame.MaxTimestamp}

func (r *Residual) origin() origin { return origin{hold: r.OutputWatermark, bounded: r.Bounded} }

// rehold computes anew what b holds back, after a split.
func (b *Bundle) rehold() {
	b.hold = frame.MaxTimestamp
	for _, o := range b.origins {
		b.hold = min(b.hold, o.hold)
	}
	for _, d := range b.rest {
		b.hold = min(b.hold, d.r.OutputWatermark)
	}
}
