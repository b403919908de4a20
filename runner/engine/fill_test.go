package engine

import (
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// A bundle that is to be large waits until enough has come, or all has.
func TestBundlesWaitUntilFull(t *testing.T) {
	task := NewTask(Config{Main: 1, Fill: 3 * elementSize, Cut: cutElements})
	now := time.Unix(0, 0)
	elements := func(n int) frame.Frame {
		return frame.Frame{Data: make([]byte, n*elementSize), Elements: n, MinTimestamp: 0}
	}
	started := func() (n int) {
		t.Helper()
		r, err := task.Ready(now)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.Start {
			n += b.Elements
			task.Succeeded(b.ID, Result{}, now)
		}
		return n
	}
	task.Frame(elements(2), task.ChannelWatermark())
	if n := started(); n != 0 {
		t.Errorf("%d elements went into a bundle that was not full", n)
	}
	task.Frame(elements(2), task.ChannelWatermark())
	if n := started(); n != 4 {
		t.Errorf("%d elements went into a full bundle, want 4", n)
	}
	task.Frame(elements(1), task.ChannelWatermark())
	if n := started(); n != 0 {
		t.Errorf("%d elements went into a bundle that was not full", n)
	}
	task.Watermark(0, frame.MaxTimestamp)
	if n := started(); n != 1 {
		t.Errorf("%d elements went into the last bundle, want 1", n)
	}
}
