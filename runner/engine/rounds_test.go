package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// roundTask is a task whose timers fire in rounds, and which notes what its bundles are of.
type roundTask struct {
	t      *testing.T
	cfg    Config
	task   *Task
	timers *heldTimers
	got    []string
}

func newRoundTask(t *testing.T, set ...int64) *roundTask {
	r := &roundTask{t: t, timers: &heldTimers{}}
	for _, fire := range set {
		r.set(fire)
	}
	r.cfg = Config{Main: 1, Cut: cutElements, Timers: r.timers, Rounds: true, Limits: Limits{First: 1, Elements: 1}}
	r.task = NewTask(r.cfg)
	return r
}

func (r *roundTask) set(fire int64) {
	r.timers.set = append(r.timers.set, Timer{Key: fmt.Sprint(fire), Fire: fire, Hold: fire})
}

func (r *roundTask) element(data string, ts int64) {
	r.task.Frame(frame.Frame{Data: []byte(data), Elements: 1, MinTimestamp: ts}, r.task.ChannelWatermark())
}

// run runs so many bundles at the most. An element sets a timer that is due at once.
func (r *roundTask) run(most int) {
	r.t.Helper()
	for range most {
		ready, err := r.task.Ready(time.Unix(9, 0))
		if err != nil {
			r.t.Fatal(err)
		}
		if len(ready.Start) == 0 {
			return
		}
		b := ready.Start[0]
		for _, v := range b.Timers {
			r.got = append(r.got, "timer "+v.Key)
			r.timers.set = slices.DeleteFunc(r.timers.set, func(o Timer) bool { return o.Key == v.Key })
		}
		for _, f := range b.Frames {
			r.got = append(r.got, string(f.Data))
			r.set(int64(len(r.got)))
		}
		r.task.Succeeded(b.ID, Result{}, time.Unix(9, 0))
	}
}

func (r *roundTask) want(list string) {
	r.t.Helper()
	if got := strings.Join(r.got, ", "); got != list {
		r.t.Errorf("it has processed %s; want %s", got, list)
	}
	r.got = nil
}

// Timers that were due at a barrier fire once that is durable, and before what follows; those that are due later
// wait for the next one.
func TestTimersFireInRounds(t *testing.T) {
	r := newRoundTask(t, 20, 200)
	r.task.Watermark(0, 100)
	r.run(9)
	r.want("")
	if !r.task.Over() {
		t.Error("a task with nothing to do is not done with its round")
	}
	r.task.Seal(time.Unix(5, 0))
	r.run(9)
	r.want("")
	r.task.Open()
	r.element("a", 150)
	r.element("b", 150)
	r.task.Watermark(0, 300)
	if r.run(2); r.task.Over() {
		t.Error("it is done with an element left")
	}
	r.want("timer 20, a")
	r.run(9)
	r.want("b")
	if at := r.task.Reached(); at != 100 {
		t.Errorf("elements are late by the watermark %d", at)
	}
	r.task.Seal(time.Unix(6, 0))
	r.task.Open()
	r.run(9)
	r.want("timer 1, timer 2, timer 200")
	r.task.Watermark(0, frame.MaxTimestamp)
	ready, err := r.task.Ready(time.Unix(9, 0))
	if err != nil || !ready.Done {
		t.Errorf("%+v, %v at the end", ready, err)
	}
}

// A task that goes on from a snapshot is in the same round, at the same place.
func TestRoundsGoOn(t *testing.T) {
	for most, want := range []string{"timer 20, timer 30, a", "timer 30, a", "a", ""} {
		r := newRoundTask(t, 20, 30, 60)
		r.task.Watermark(0, 50)
		r.task.Seal(time.Unix(5, 0))
		if most > 0 {
			r.task.Open()
		}
		r.element("a", 70)
		r.run(most)
		r.got = nil
		r.cfg.Restore = r.task.Snapshot()
		r.task = NewTask(r.cfg)
		r.task.Watermark(0, 100)
		r.run(9)
		r.want(want)
	}
}
