package timers

import (
	"fmt"
	"testing"
	"time"

	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
)

// BenchmarkTimers sets a timer for each of many keys in each of ten windows, twice, and fires
// all of them, in bundles of 5,000. An operation is one timer.
func BenchmarkTimers(b *testing.B) {
	for name, open := range map[string]func(b *testing.B) statebackend.Backend{
		"memory": func(*testing.B) statebackend.Backend { return memstate.New() },
		"pebble": func(b *testing.B) statebackend.Backend {
			p, err := pebblestate.New(pebblestate.Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			return p
		},
	} {
		b.Run(name, func(b *testing.B) {
			k := newTask(b, open(b), specOf(b, urns.CoderIntervalWindow, 0, "event"))
			defer k.store.Close()
			const bundle = 5000
			b.ReportAllocs()
			b.ResetTimer()
			var changes []engine.TimerChange
			for i := range 2 * b.N {
				n := i % b.N
				end := int64(n%10) * 1000
				changes = append(changes, engine.TimerChange{Timer: engine.Timer{
					Key: fmt.Sprint("key", n/10), Window: interval(end), Fire: end - 1, Hold: end - 1, Pane: []byte{0xf},
				}})
				if len(changes) == bundle || i == 2*b.N-1 {
					k.commit(nil, changes)
					changes = changes[:0]
				}
			}
			fired := 0
			for {
				due := k.due(frame.MaxTimestamp, time.Time{}, bundle)
				if len(due) == 0 {
					break
				}
				fired += len(due)
				k.commit(due, nil)
			}
			if fired != b.N {
				b.Fatalf("%d of %d timers have fired", fired, b.N)
			}
		})
	}
}

// BenchmarkChains fires many timers of a few keys each, one after the other. An operation is
// one timer.
func BenchmarkChains(b *testing.B) {
	k := newTask(b, memstate.New(), specOf(b, urns.CoderIntervalWindow, 0, "event"))
	defer k.store.Close()
	const keys, bundle = 100, 5000
	var changes []engine.TimerChange
	for n := range b.N {
		end := int64(n/keys+1) * 1000
		changes = append(changes, engine.TimerChange{Timer: engine.Timer{
			Key: fmt.Sprint("key", n%keys), Window: interval(end), Fire: end - 1, Hold: end - 1, Pane: []byte{0xf},
		}})
		if len(changes) == bundle || n == b.N-1 {
			k.commit(nil, changes)
			changes = changes[:0]
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for fired := 0; fired < b.N; {
		due := k.due(frame.MaxTimestamp, time.Time{}, bundle)
		if len(due) == 0 {
			b.Fatalf("%d of %d timers have fired", fired, b.N)
		}
		fired += len(due)
		k.commit(due, nil)
	}
}

// BenchmarkFlush writes what has changed of many timers to the store, as before each image of it.
func BenchmarkFlush(b *testing.B) {
	const timers = 200_000
	for _, changed := range []int{0, 1000, 20_000} {
		b.Run(fmt.Sprintf("changed=%d", changed), func(b *testing.B) {
			k := newTask(b, memstate.New(), specOf(b, urns.CoderIntervalWindow, 0, "event"))
			defer k.store.Close()
			set := func(from, n int, fire int64) {
				var changes []engine.TimerChange
				for i := from; i < from+n; i++ {
					changes = append(changes, engine.TimerChange{Timer: engine.Timer{
						Key: fmt.Sprint("key", i%timers), Window: interval(1 << 40), Fire: fire, Hold: fire, Pane: []byte{0xf},
					}})
				}
				k.commit(nil, changes)
			}
			set(0, timers, 1)
			if err := k.Flush(); err != nil {
				b.Fatal(err)
			}
			next := 0
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				if changed > 0 {
					set(next, changed, int64(i+2))
					next += changed
				}
				b.StartTimer()
				if err := k.Flush(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
