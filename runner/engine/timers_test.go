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

func (s *someTimers) GiveBack([]Timer) {}

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
	task.Frame(block(1), task.ChannelWatermark())
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

// Elements that came before a watermark go before the timers that it makes due,
// though their timestamps lie behind them; those that came after it do not.
func TestTimersKeepTheirPlaceInTheInput(t *testing.T) {
	timers := &someTimers{}
	task := NewTask(Config{Main: 1, Cut: cutElements, Timers: timers, Limits: Limits{First: 1, Elements: 1}})
	now := time.Unix(0, 0)
	timers.set = []Timer{{Key: "k", Fire: 20, Hold: 20}}
	late := func(data string, ts int64) {
		task.Frame(frame.Frame{Data: []byte(data), Elements: 1, MinTimestamp: ts}, task.ChannelWatermark())
	}
	late("a", 50)
	task.Watermark(0, 30)
	late("b", 50)
	task.Watermark(0, 40)
	var got []string
	for range 3 {
		r, err := task.Ready(now)
		if err != nil || len(r.Start) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		b := r.Start[0]
		if len(b.Timers) > 0 {
			got = append(got, "timer")
			timers.set = nil
		} else {
			got = append(got, string(b.Frames[0].Data))
		}
		task.Succeeded(b.ID, Result{}, now)
	}
	if want := []string{"a", "timer", "b"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}
