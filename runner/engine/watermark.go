package engine

import "github.com/lintelrun/lintel/runner/frame"

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

// Min is the smallest watermark of all channels.
func (w *Watermarks) Min() int64 { return w.min }

// Final reports whether all channels have reached the end of time.
func (w *Watermarks) Final() bool { return w.min >= frame.MaxTimestamp }
