package timers

import (
	"fmt"
	"maps"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// Timers that go back to a snapshot of their store, again and again and with all that they were at since then lost, those
// handed out included, agree with a model that goes back with them.
func TestTimersSurviveCrashes(t *testing.T) {
	spec := specOf(t, urns.CoderGlobalWindow, 0, "event", "clock")
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int64{1 << 20, 1500, 1}).Draw(t, "memory")
		model := map[name]engine.Timer{}
		var image statebackend.Batch
		var saved map[name]engine.Timer
		var k *task
		restore := func() {
			store, err := memstate.New().Open("task")
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Commit(&image); err != nil {
				t.Fatal(err)
			}
			timers, err := New(store, spec, NewMemory(limit))
			if err != nil {
				t.Fatal(err)
			}
			k, model = &task{timers, t, store}, maps.Clone(saved)
		}
		save := func() {
			if err := k.Flush(); err != nil {
				t.Fatal(err)
			}
			if n := len(k.near.unsaved); n > 0 {
				t.Fatalf("%d timers are to be written after all were", n)
			}
			image.Reset()
			err := k.store.Scan(nil, nil, func(key, value []byte) bool {
				image.Set(key, value)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			saved = maps.Clone(model)
		}
		saved = map[name]engine.Timer{}
		restore()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				save()
			case 2:
				restore()
			case 3:
				if _, err := k.FlushSome(rapid.IntRange(1, 200).Draw(t, "bytes")); err != nil {
					t.Fatal(err)
				}
			case 4: // are handed out, and no more is heard of them
				k.due(rapid.Int64Range(0, 22).Draw(t, "watermark"), time.UnixMilli(10), 3)
				if rapid.Bool().Draw(t, "saved meanwhile") {
					save()
				}
				restore()
			case 5, 6:
				fireSome(t, k, model)
			default:
				changes := []engine.TimerChange{drawChange(t)}
				k.commit(nil, changes)
				apply(model, changes)
			}
			checkHold(t, k, model)
		}
		for len(model) > 0 {
			due := k.due(frame.MaxTimestamp, time.Time{}, 100)
			checkDue(t, due, model, frame.MaxTimestamp, math.MaxInt64, k.ahead)
			k.commit(due, nil)
			for _, v := range due {
				delete(model, nameOf(&v))
			}
		}
		k.due(frame.MaxTimestamp, time.Time{}, 1) // looks whether there are more
		if k.Pending() || k.records() > 0 || len(k.near.unsaved) > 0 {
			t.Fatalf("%d records are left, %d to be written", k.records(), len(k.near.unsaved))
		}
	})
}

// Flushing in portions comes to an end, whatever is set meanwhile.
func TestFlushSome(t *testing.T) {
	k := newTask(t, memstate.New(), specOf(t, urns.CoderGlobalWindow, 0, "event"))
	for i := range 50 {
		k.set(engine.Timer{Key: fmt.Sprint("cold", i), Fire: 7, Hold: 7})
	}
	rounds := 0
	for left := 50; left > 1; left = len(k.near.unsaved) {
		if rounds++; rounds > 100 {
			t.Fatalf("%d timers are still to be written", left)
		}
		k.set(engine.Timer{Key: "hot", Fire: int64(100 + rounds), Hold: 8})
		if _, err := k.FlushSome(1); err != nil {
			t.Fatal(err)
		}
	}
	if rounds < 25 {
		t.Errorf("51 timers were written in %d rounds of a byte each", rounds)
	}
	if done, err := k.FlushSome(1 << 20); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
}
