package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// someTimers are timers of one time and key; those that are due are handed out
// each time.
type someTimers struct{ set []Timer }

func (s *someTimers) Due(watermark int64, _ time.Time, _ int) ([]Timer, error) {
	if len(s.set) == 0 || s.set[0].Fire >= watermark {
		return nil, nil
	}
	return slices.Clone(s.set), nil
}

func (s *someTimers) Hold() int64 {
	hold := int64(frame.MaxTimestamp)
	for _, v := range s.set {
		hold = min(hold, v.Hold)
	}
	return hold
}

func (s *someTimers) NextClock() (time.Time, bool) { return time.Time{}, false }
func (s *someTimers) Pending() bool                { return len(s.set) > 0 }

// A timer that is set again while it fires, to go off once more, is kept.
func TestLoopingTimer(t *testing.T) {
	timers := &someTimers{}
	task := NewTask(Config{Main: 1, Cut: cutElements, Timers: timers})
	task.Frame(block(1))
	now := time.Unix(0, 0)
	start := func() *Bundle {
		r, err := task.Ready(now)
		if err != nil || len(r.Start) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Start[0]
	}
	b := start()
	timers.set = []Timer{{Key: "k", Fire: 20, Hold: 20}}
	task.Succeeded(b.ID, Result{}, now)
	task.Watermark(0, 100)
	var fired []string
	for ts := int64(30); ts < 60; ts += 10 {
		b = start()
		if len(b.Timers) != 1 || len(b.Frames) != 0 {
			t.Fatalf("bundle %+v", b)
		}
		fired = append(fired, fmt.Sprint(b.Timers[0].Fire))
		timers.set = []Timer{{Key: "k", Fire: ts, Hold: ts}}
		task.Succeeded(b.ID, Result{}, now)
	}
	b = start()
	timers.set = nil
	task.Succeeded(b.ID, Result{}, now)
	if want := []string{"20", "30", "40"}; !slices.Equal(fired, want) {
		t.Errorf("fired at %v, want %v", fired, want)
	}
	r, err := task.Ready(now)
	if err != nil || r.Watermark != 100 || len(r.Start) > 0 {
		t.Errorf("after the last timer: %+v, %v", r, err)
	}
}
