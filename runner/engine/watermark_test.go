package engine

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

// timestamps are few, so that channels often meet, and hold both ends of time.
func timestamps() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Int64Range(0, 20),
		rapid.SampledFrom([]int64{frame.MinTimestamp, frame.MinTimestamp + 1, frame.MaxTimestamp - 1, frame.MaxTimestamp}),
	)
}

func TestWatermarksAreTheMinimumOfChannels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 5).Draw(t, "channels")
		w := NewWatermarks(n)
		channels := make([]int64, n)
		for i := range channels {
			channels[i] = frame.MinTimestamp
		}
		slowMin := func() int64 {
			m := int64(frame.MaxTimestamp)
			for _, c := range channels {
				m = min(m, c)
			}
			return m
		}
		if got := w.Min(); got != slowMin() {
			t.Fatalf("at first: %d, want %d", got, slowMin())
		}
		for range rapid.IntRange(0, 60*min(n, 1)).Draw(t, "steps") {
			before := slowMin()
			c, ts := rapid.IntRange(0, n-1).Draw(t, "channel"), timestamps().Draw(t, "ts")
			channels[c] = max(channels[c], ts)
			if moved := w.Advance(c, ts); moved != (slowMin() > before) {
				t.Fatalf("Advance says %v; the minimum was %d and is %d", moved, before, slowMin())
			}
			if got := w.Min(); got != slowMin() {
				t.Fatalf("minimum %d, want %d of %v", got, slowMin(), channels)
			}
			if got := w.Final(); got != (slowMin() == frame.MaxTimestamp) {
				t.Fatalf("final: %v at %d", got, slowMin())
			}
		}
	})
}
