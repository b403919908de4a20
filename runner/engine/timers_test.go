package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

// domains has an event-time family and a processing-time one.
var domains = TimerDomains{EventTime, ProcessingTime}

// Timers against a plain map: what is due is handed out once, in order of time
// per key and only when its time has passed, and holds are those of what is set.
func TestTimersAgreeWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		timers := NewTimers(domains)
		model := map[timerID]Timer{}
		out := map[timerID]Timer{} // handed out
		draw := func() Timer {
			return Timer{
				Family: rapid.IntRange(0, 1).Draw(t, "family"),
				Tag:    rapid.SampledFrom([]string{"", "tag"}).Draw(t, "tag"),
				Key:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"),
				Fire:   rapid.Int64Range(0, 20).Draw(t, "fire"),
				Hold:   rapid.Int64Range(0, 20).Draw(t, "hold"),
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				v := draw()
				timers.Apply([]TimerChange{{Timer: v}})
				model[v.id()] = v
				delete(out, v.id())
			case 2:
				v := draw()
				timers.Apply([]TimerChange{{Timer: v, Clear: true}})
				delete(model, v.id())
				delete(out, v.id())
			case 3:
				watermark, clock := rapid.Int64Range(0, 22).Draw(t, "watermark"), rapid.Int64Range(0, 22).Draw(t, "clock")
				due := timers.Due(watermark, time.UnixMilli(clock), rapid.IntRange(1, 5).Draw(t, "limit"))
				checkDue(t, due, model, out, watermark, clock)
				for _, v := range due {
					out[v.id()] = v
				}
				if rapid.Bool().Draw(t, "commit") {
					timers.Fired(due)
					for _, v := range due {
						delete(model, v.id())
						delete(out, v.id())
					}
				}
			}
			hold := int64(frame.MaxTimestamp)
			for _, v := range model {
				hold = min(hold, v.Hold)
			}
			if timers.Hold() != hold || timers.Len() != len(model) {
				t.Fatalf("%d timers with hold %d, want %d with %d", timers.Len(), timers.Hold(), len(model), hold)
			}
		}
	})
}

func checkDue(t *rapid.T, due []Timer, model, out map[timerID]Timer, watermark, clock int64) {
	event := false
	waiting := func(v Timer) bool { _, gone := out[v.id()]; return !gone }
	for _, v := range model {
		event = event || v.Family == 0 && waiting(v) && v.Fire < watermark
	}
	ripe := func(v Timer) bool {
		if event {
			return v.Family == 0 && v.Fire < watermark
		}
		return v.Family == 1 && v.Fire <= clock
	}
	first := map[string]int64{} // by key
	for _, v := range model {
		if at, ok := first[v.Key]; waiting(v) && ripe(v) && (!ok || v.Fire < at) {
			first[v.Key] = v.Fire
		}
	}
	if len(due) == 0 && len(first) > 0 {
		t.Fatalf("nothing is due at %d and %d, of %v", watermark, clock, model)
	}
	for i, v := range due {
		if got, ok := model[v.id()]; !ok || got.Fire != v.Fire || !waiting(v) {
			t.Fatalf("%+v is due, which is not set", v)
		}
		if !ripe(v) || v.Fire != first[v.Key] {
			t.Fatalf("%+v is due before its time, or before %d of its key", v, first[v.Key])
		}
		if slices.ContainsFunc(due[:i], func(o Timer) bool { return o.id() == v.id() }) {
			t.Fatalf("%+v is due twice", v)
		}
	}
}

func TestEndOfTimeFiresAllTimers(t *testing.T) {
	timers := NewTimers(domains)
	timers.Set(Timer{Family: 1, Key: "clock", Fire: time.Now().Add(time.Hour).UnixMilli()})
	timers.Set(Timer{Family: 0, Key: "end", Fire: frame.MaxTimestamp})
	now := time.Now()
	if due := timers.Due(frame.MaxTimestamp-1, now, 9); len(due) != 0 {
		t.Fatalf("due before the end: %+v", due)
	}
	for _, want := range []string{"end", "clock"} {
		due := timers.Due(frame.MaxTimestamp, now, 9)
		if len(due) != 1 || due[0].Key != want {
			t.Fatalf("due: %+v, want that of %q", due, want)
		}
		timers.Fired(due)
	}
}

// A window expires for a key after all that may still touch its state: at the
// end of time that is timers of processing time too.
func TestExpirationGoesLast(t *testing.T) {
	timers := NewTimers(TimerDomains{Expiration, EventTime, ProcessingTime})
	now := time.UnixMilli(1000)
	timers.Set(Timer{Family: 0, Key: "k", Window: "w", Fire: 10})
	timers.Set(Timer{Family: 1, Key: "k", Window: "w", Fire: 10})
	timers.Set(Timer{Family: 1, Key: "k", Window: "v", Fire: 15})
	timers.Set(Timer{Family: 2, Key: "k", Window: "w", Fire: 900})
	timers.Set(Timer{Family: 2, Key: "k", Window: "w", Tag: "later", Fire: 5000})
	timers.Set(Timer{Family: 0, Key: "k", Window: "v", Fire: 20})
	var got []string
	for _, watermark := range []int64{10, 11, 16, frame.MaxTimestamp} {
		for due := timers.Due(watermark, now, 9); len(due) > 0; due = timers.Due(watermark, now, 9) {
			for _, v := range due {
				got = append(got, fmt.Sprint(v.Family, v.Window, v.Tag, min(watermark, 99)))
			}
			timers.Fired(due)
		}
	}
	want := []string{"2w10", "1w11", "0w11", "1v16", "2wlater99", "0v99"}
	if !slices.Equal(got, want) {
		t.Errorf("fired %v, want %v", got, want)
	}
}

// A timer that is set again while it fires, to go off once more, is kept.
func TestLoopingTimer(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutElements, Timers: NewTimers(domains)})
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
	at := func(ts int64) Result {
		return Result{Timers: []TimerChange{{Timer: Timer{Key: "k", Fire: ts, Hold: ts}}}}
	}
	task.Succeeded(b.ID, at(20), now)
	task.Watermark(0, 100)
	var fired []string
	for ts := int64(30); ts < 60; ts += 10 {
		b = start()
		if len(b.Timers) != 1 || len(b.Frames) != 0 {
			t.Fatalf("bundle %+v", b)
		}
		fired = append(fired, fmt.Sprint(b.Timers[0].Fire))
		task.Succeeded(b.ID, at(ts), now)
	}
	b = start()
	task.Succeeded(b.ID, Result{}, now)
	if want := []string{"20", "30", "40"}; !slices.Equal(fired, want) {
		t.Errorf("fired at %v, want %v", fired, want)
	}
	r, err := task.Ready(now)
	if err != nil || r.Watermark != 100 || len(r.Start) > 0 {
		t.Errorf("after the last timer: %+v, %v", r, err)
	}
}
