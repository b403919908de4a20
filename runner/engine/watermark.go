package engine

import (
	"slices"

	"github.com/lintelrun/lintel/runner/frame"
)

// Watermarks follows the watermark of each input channel of a task and their
// minimum. Watermarks are milliseconds of event time and never go back: an
// older value than the known one is ignored.
type Watermarks struct {
	channels []int64
	min      int64
}

// NewWatermarks returns a tracker of n channels at the minimum timestamp. With
// no channels there is nothing to wait for: the minimum is MaxTimestamp.
func NewWatermarks(n int) *Watermarks {
	w := &Watermarks{channels: make([]int64, n), min: frame.MaxTimestamp}
	for i := range w.channels {
		w.channels[i] = frame.MinTimestamp
	}
	if n > 0 {
		w.min = frame.MinTimestamp
	}
	return w
}

// Advance notes the watermark of one channel and reports whether the minimum moved.
func (w *Watermarks) Advance(channel int, ts int64) bool {
	old := w.channels[channel]
	if ts <= old {
		return false
	}
	w.channels[channel] = ts
	if old > w.min {
		return false
	}
	m := ts
	for _, c := range w.channels {
		m = min(m, c)
	}
	moved := m > w.min
	w.min = m
	return moved
}

// Channels returns the watermark of each channel.
func (w *Watermarks) Channels() []int64 { return slices.Clone(w.channels) }

// Min is the smallest watermark of all channels.
func (w *Watermarks) Min() int64 { return w.min }

// Final reports whether all channels have reached the end of time.
func (w *Watermarks) Final() bool { return w.min >= frame.MaxTimestamp }

// marks are the places that a watermark has in a queue of frames.
type marks struct {
	waiting []stamped
	last    int64 // that has been passed
}

// add notes that the watermark is ts for what comes after the frame before seq.
func (m *marks) add(seq uint64, ts int64) {
	if n := len(m.waiting); n > 0 && m.waiting[n-1].seq == seq {
		m.waiting[n-1].ts = ts
		return
	}
	m.waiting = append(m.waiting, stamped{seq, ts})
}

// passed returns the watermark that comes before the frame first.
func (m *marks) passed(first uint64) int64 {
	for len(m.waiting) > 0 && m.waiting[0].seq <= first {
		m.last = m.waiting[0].ts
		m.waiting = m.waiting[1:]
	}
	return m.last
}
