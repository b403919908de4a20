package timers

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
)

// fatal is what rapid's and the standard library's tests share.
type fatal interface {
	Helper()
	Fatal(args ...any)
}

// specOf has families named by their kinds: "event", "clock" and "end", which fires when
// windows expire.
func specOf(t fatal, window string, lateness int64, families ...string) *plan.StatefulSpec {
	t.Helper()
	c, err := coders.Compile("w", map[string]*pipepb.Coder{"w": {Spec: &pipepb.FunctionSpec{Urn: window}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &plan.StatefulSpec{Name: "T", Windowing: &windowing.Strategy{WindowCoder: c, AllowedLateness: lateness}}
	for _, f := range families {
		s.Timers = append(s.Timers, plan.TimerFamily{Name: f, ProcessingTime: f == "clock"})
		if f == "end" {
			s.Expiration = f
		}
	}
	return s
}

// task is the timers of a task, and a bundle in the making.
type task struct {
	*Timers
	t     fatal
	store statebackend.Store
}

func newTask(t fatal, b statebackend.Backend, spec *plan.StatefulSpec) *task {
	t.Helper()
	store, err := b.Open("task")
	if err != nil {
		t.Fatal(err)
	}
	timers, err := New(store, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &task{timers, t, store}
}

// commit commits a bundle that has fired and changed timers, and written state of windows.
func (k *task) commit(fired []engine.Timer, changes []engine.TimerChange, cells ...statebackend.Cell) {
	k.t.Helper()
	o := statebackend.NewOverlay(k.store)
	e := k.Edit(o)
	for _, c := range cells {
		if err := e.Touch(c.Key, c.Window); err != nil {
			k.t.Fatal(err)
		}
		o.Append(c.AppendKey(nil), []byte("x"))
	}
	if err := e.Finish(fired, changes); err != nil {
		k.t.Fatal(err)
	}
	if err := k.store.Commit(o.Batch()); err != nil {
		k.t.Fatal(err)
	}
	if err := k.Committed(e); err != nil {
		k.t.Fatal(err)
	}
}

func (k *task) set(v ...engine.Timer) {
	k.t.Helper()
	for _, v := range v {
		k.commit(nil, []engine.TimerChange{{Timer: v}})
	}
}

func (k *task) due(watermark int64, now time.Time, limit int) []engine.Timer {
	k.t.Helper()
	due, err := k.Due(watermark, now, limit)
	if err != nil {
		k.t.Fatal(err)
	}
	return due
}

func (k *task) records() (n int) {
	k.t.Helper()
	if err := k.Flush(); err != nil {
		k.t.Fatal(err)
	}
	if err := k.store.Scan(nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil {
		k.t.Fatal(err)
	}
	return n
}

func backends(t *testing.T, test func(t *testing.T, b statebackend.Backend)) {
	t.Run("memory", func(t *testing.T) { test(t, memstate.New()) })
	t.Run("pebble", func(t *testing.T) {
		b, err := pebblestate.New(pebblestate.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		test(t, b)
	})
}

// Timers against a plain map: what is due is handed out once, in order of time
// per key and only when its time has passed, and holds are those of what is set.
// Another task that reads the same store knows the same.
func TestTimersAgreeWithModel(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		spec := specOf(t, urns.CoderGlobalWindow, 0, "event", "clock")
		store := newTask(t, b, spec).store
		defer store.Close()
		rapid.Check(t, func(t *rapid.T) {
			// Memory for all, a few, or next to none of them.
			memory := NewMemory(rapid.SampledFrom([]int64{1 << 20, 1500, 1}).Draw(t, "memory"))
			timers, err := New(store, spec, memory)
			if err != nil {
				t.Fatal(err)
			}
			k := &task{timers, t, store}
			defer clearStore(t, store)
			model := map[name]engine.Timer{}
			for range rapid.IntRange(1, 60).Draw(t, "steps") {
				if rapid.IntRange(0, 3).Draw(t, "step") > 0 {
					var changes []engine.TimerChange
					for range rapid.IntRange(1, 3).Draw(t, "changes") {
						changes = append(changes, drawChange(t))
					}
					k.commit(nil, changes)
					apply(model, changes)
				} else {
					fireSome(t, k, model)
				}
				checkHold(t, k, model)
				if rapid.IntRange(0, 9).Draw(t, "again") == 0 {
					if err := k.Flush(); err != nil {
						t.Fatal(err)
					}
					if rapid.Bool().Draw(t, "go on") {
						continue // the next has to write what changes from here
					}
					again, err := New(k.store, spec, NewMemory(memory.limit))
					if err != nil {
						t.Fatal(err)
					}
					k.Timers = again
					checkHold(t, k, model)
				}
			}
		})
	})
}

func clearStore(t *rapid.T, s statebackend.Store) {
	var b statebackend.Batch
	b.DeleteRange(nil, nil)
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
}

func drawChange(t *rapid.T) engine.TimerChange {
	c := engine.TimerChange{Timer: engine.Timer{
		Family: rapid.IntRange(0, 1).Draw(t, "family"),
		Tag:    rapid.SampledFrom([]string{"", "tag"}).Draw(t, "tag"),
		Key:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"),
		Fire:   rapid.Int64Range(0, 20).Draw(t, "fire"),
	}}
	if c.Clear = rapid.IntRange(0, 3).Draw(t, "clear") == 0; !c.Clear {
		c.Hold = rapid.Int64Range(0, c.Fire).Draw(t, "hold")
	}
	return c
}

func apply(model map[name]engine.Timer, changes []engine.TimerChange) {
	for _, c := range changes {
		delete(model, nameOf(&c.Timer))
		if !c.Clear {
			model[nameOf(&c.Timer)] = c.Timer
		}
	}
}

// fireSome hands out timers, which a bundle fires that changes others.
func fireSome(t *rapid.T, k *task, model map[name]engine.Timer) {
	watermark, clock := rapid.Int64Range(0, 22).Draw(t, "watermark"), rapid.Int64Range(0, 22).Draw(t, "clock")
	due := k.due(watermark, time.UnixMilli(clock), rapid.IntRange(1, 5).Draw(t, "limit"))
	checkDue(t, due, model, watermark, clock, k.ahead)
	if len(due) == 0 {
		return
	}
	// The rest, which is of other keys; the same ones are not due twice.
	for _, v := range k.due(watermark, time.UnixMilli(clock), 9) {
		if slices.ContainsFunc(due, func(o engine.Timer) bool { return nameOf(&o) == nameOf(&v) }) {
			t.Fatalf("%+v is due twice", v)
		}
		due = append(due, v)
	}
	var changes []engine.TimerChange
	if rapid.IntRange(0, 3).Draw(t, "sets") == 0 {
		changes = append(changes, drawChange(t))
	}
	e := k.Edit(statebackend.NewOverlay(k.store))
	err := e.Finish(due, changes)
	if (k.ahead > 1 && outOfTurn(due, changes)) != errors.Is(err, ErrOutOfTurn) {
		t.Fatalf("%v of a bundle that fires %v and does %v", err, due, changes)
	}
	if err != nil {
		k.GiveBack(due)
		return
	}
	if err := errors.Join(k.store.Commit(e.overlay.Batch()), k.Committed(e)); err != nil {
		t.Fatal(err)
	}
	for _, v := range due {
		delete(model, nameOf(&v))
	}
	apply(model, changes)
}

// outOfTurn tells whether a change says that a timer of due should have waited.
func outOfTurn(due []engine.Timer, changes []engine.TimerChange) bool {
	if slices.ContainsFunc(due, func(v engine.Timer) bool { return v.Family != 0 }) {
		return false // processing time has one time of a key
	}
	for _, c := range changes {
		first := int64(math.MaxInt64)
		for _, v := range due {
			if v.Key == c.Key && v.Family == 0 {
				first = min(first, v.Fire)
			}
		}
		for _, v := range due {
			if c.Family == 0 && v.Family == 0 && v.Key == c.Key && v.Fire > first && (nameOf(&v) == nameOf(&c.Timer) || !c.Clear && c.Fire < v.Fire) {
				return true
			}
		}
	}
	return false
}

func checkHold(t *rapid.T, k *task, model map[name]engine.Timer) {
	hold, clock := int64(frame.MaxTimestamp), int64(math.MaxInt64)
	for _, v := range model {
		if hold = min(hold, v.Hold); v.Family == 1 {
			clock = min(clock, v.Fire)
		}
	}
	if k.Hold() != hold {
		t.Fatalf("held at %d, want %d, of %v", k.Hold(), hold, model)
	}
	if len(model) > 0 && !k.Pending() {
		t.Fatalf("nothing is pending of %v", model)
	}
	if at, ok := k.NextClock(); clock < math.MaxInt64 && (!ok || at.UnixMilli() > clock) {
		t.Fatalf("wake at %v, %v, want %d at the latest", at, ok, clock)
	}
}

func checkDue(t *rapid.T, due []engine.Timer, model map[name]engine.Timer, watermark, clock int64, ahead int) {
	event := false
	for _, v := range model {
		event = event || v.Family == 0 && v.Fire < watermark
	}
	ripe := func(v engine.Timer) bool {
		if event {
			return v.Family == 0 && v.Fire < watermark
		}
		return v.Family == 1 && v.Fire <= clock
	}
	first := map[string]int64{} // by key
	for _, v := range model {
		if at, ok := first[v.Key]; ripe(v) && (!ok || v.Fire < at) {
			first[v.Key] = v.Fire
		}
	}
	if len(due) == 0 && len(first) > 0 {
		t.Fatalf("nothing is due at %d and %d, of %v", watermark, clock, model)
	}
	for i, v := range due {
		if got, ok := model[nameOf(&v)]; !ok || got.Fire != v.Fire || got.Hold != v.Hold {
			t.Fatalf("%+v is due, which is not set", v)
		}
		if !ripe(v) {
			t.Fatalf("%+v is due before its time", v)
		}
		times := map[int64]bool{v.Fire: true} // of the key, until then
		for _, o := range model {
			if o.Key != v.Key || !ripe(o) || o.Fire >= v.Fire {
				continue
			}
			times[o.Fire] = true
			if !slices.ContainsFunc(due[:i], func(p engine.Timer) bool { return nameOf(&p) == nameOf(&o) }) {
				t.Fatalf("%+v is due before %+v", v, o)
			}
		}
		if len(times) > 1 && (len(times) > ahead || !event) {
			t.Fatalf("%d times of key %q are due, to %d", len(times), v.Key, v.Fire)
		}
		if slices.ContainsFunc(due[:i], func(o engine.Timer) bool { return nameOf(&o) == nameOf(&v) }) {
			t.Fatalf("%+v is due twice", v)
		}
	}
}

// Bundles fire more and more times of a key, until a timer that fires sets one that goes in between.
func TestTimersFireAhead(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		k := newTask(t, b, specOf(t, urns.CoderGlobalWindow, 0, "event"))
		defer k.store.Close()
		timer := func(at int64) engine.Timer {
			return engine.Timer{Key: "k", Tag: fmt.Sprint(at), Fire: at, Hold: at}
		}
		for at := range int64(20) {
			k.set(timer(at * 10))
		}
		fired := 0
		for _, want := range []int{1, 2, 4} {
			due := k.due(1000, time.Time{}, 100)
			if len(due) != want {
				t.Fatalf("%d timers are due after %d, want %d", len(due), fired, want)
			}
			k.commit(due, nil)
			fired += want
		}
		due := k.due(1000, time.Time{}, 100)
		e := k.Edit(statebackend.NewOverlay(k.store))
		if err := e.Finish(due, []engine.TimerChange{{Timer: timer(75)}}); !errors.Is(err, ErrOutOfTurn) {
			t.Fatalf("a timer is set for a time that others have gone before: %v", err)
		}
		k.GiveBack(due)
		for ; fired < 20; fired++ {
			due := k.due(1000, time.Time{}, 100)
			if len(due) != 1 || due[0].Fire != int64(fired)*10 || k.Hold() != due[0].Hold {
				t.Fatalf("%v is due and %d held after %d timers", due, k.Hold(), fired)
			}
			k.commit(due, nil)
		}
		if k.Pending() {
			t.Error("there are timers left")
		}
	})
}

// Event time ends with the window, processing time does not.
func TestEndOfTimeFiresAllTimers(t *testing.T) {
	k := newTask(t, memstate.New(), specOf(t, urns.CoderGlobalWindow, 0, "event", "clock"))
	now := time.Now()
	k.set(engine.Timer{Family: 1, Key: "clock", Fire: now.Add(time.Hour).UnixMilli()},
		engine.Timer{Family: 0, Key: "end", Fire: frame.MaxTimestamp})
	if due := k.due(coders.EndOfGlobalWindow, now, 9); len(due) != 0 {
		t.Fatalf("due before the end: %+v", due)
	}
	for _, want := range []string{"end", "clock"} {
		due := k.due(frame.MaxTimestamp, now, 9)
		if len(due) != 1 || due[0].Key != want {
			t.Fatalf("due: %+v, want that of %q", due, want)
		}
		k.commit(due, nil)
	}
	if k.due(frame.MaxTimestamp, now, 9); k.Pending() || k.records() > 0 {
		t.Errorf("%d records are left", k.records())
	}
}

// interval is the window that ends at that time, in ms, not inclusive.
func interval(end int64) string {
	return string(windowing.Interval{Start: 0, End: end}.Append(nil))
}

// A window expires for a key after all that may still touch its state: at the
// end of time that is timers of processing time too. Before, they go with it.
func TestExpirationGoesLast(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		k := newTask(t, b, specOf(t, urns.CoderIntervalWindow, 5, "end", "event", "clock"))
		defer k.store.Close()
		now := time.UnixMilli(1000)
		w, v := interval(6), interval(16) // expire at 10 and 20
		key, scope := []byte("k"), k.scope("k")
		k.commit(nil, nil, statebackend.Cell{Scope: scope, Key: key, Window: []byte(w)}, statebackend.Cell{Scope: scope, Key: key, Window: []byte(v)})
		k.set(engine.Timer{Family: 1, Key: "k", Window: w, Fire: 10, Hold: 10},
			engine.Timer{Family: 1, Key: "k", Window: v, Fire: 15, Hold: 15},
			engine.Timer{Family: 2, Key: "k", Window: w, Fire: 900, Hold: 3},
			engine.Timer{Family: 2, Key: "k", Window: w, Tag: "never", Fire: 5000, Hold: 5},
			engine.Timer{Family: 2, Key: "k", Window: v, Tag: "later", Fire: 5000, Hold: 20})
		var got []string
		for _, watermark := range []int64{10, 11, 16, 18, frame.MaxTimestamp} {
			for due := k.due(watermark, now, 9); len(due) > 0; due = k.due(watermark, now, 9) {
				for _, d := range due {
					window, _, err := windowing.DecodeInterval([]byte(d.Window))
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprint(d.Family, " ", window.End, d.Tag, " at ", min(watermark, 99)))
				}
				k.commit(due, nil)
			}
			got = append(got, fmt.Sprint("held ", min(k.Hold(), 99)))
		}
		want := []string{"2 6 at 10", "held 5", "1 6 at 11", "0 6 at 11", "held 15", "1 16 at 16", "held 15", "held 15", "2 16later at 99", "0 16 at 99", "held 99"}
		if !slices.Equal(got, want) {
			t.Errorf("fired %q, want %q", got, want)
		}
		if n := k.records(); n > 0 || k.Pending() {
			t.Errorf("%d records are left", n)
		}
	})
}

// Windows that nobody waits for go when the watermark has passed them, many in several steps,
// and what is set for later than their end fires before.
func TestExpiredWindowsAreRemoved(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		k := newTask(t, b, specOf(t, urns.CoderIntervalWindow, 0, "event", "clock"))
		defer k.store.Close()
		const keys = 2*collectAtOnce + 500
		var cells []statebackend.Cell
		for i := range keys {
			key := fmt.Append(nil, "k", i)
			scope := k.scope(string(key))
			for _, end := range []int64{11, 21} {
				cells = append(cells, statebackend.Cell{Scope: scope, Key: key, Window: []byte(interval(end)), State: "s"})
			}
		}
		k.commit(nil, nil, cells...)
		k.set(engine.Timer{Family: 0, Key: "k7", Window: interval(11), Fire: 5000, Hold: 7},
			engine.Timer{Family: 1, Key: "k8", Window: interval(11), Fire: 5000, Hold: 8})
		now := time.UnixMilli(1000)
		if due := k.due(10, now, 9); len(due) > 0 || k.records() != 4*keys+6 {
			t.Fatalf("%d records and %v before the end", k.records(), due)
		}
		due := k.due(11, now, 9)
		if len(due) != 1 || due[0].Key != "k7" || due[0].Fire != 10 {
			t.Fatalf("due: %+v", due)
		}
		k.commit(due, nil)
		for range 3 {
			if due := k.due(11, now, 9); len(due) > 0 {
				t.Fatalf("due: %+v", due)
			}
			at, ok := k.NextClock()
			if more := k.records() > 2*keys; more != (ok && at.Before(now.Add(time.Second))) {
				t.Fatalf("%d records are left; wake at %v, %v", k.records(), at, ok)
			}
		}
		k.due(11, time.UnixMilli(6000), 9) // sees that the timer of processing time is gone too
		if k.records() != 2*keys || k.Hold() != frame.MaxTimestamp || k.Pending() {
			t.Errorf("%d records are left, want %d; held at %d", k.records(), 2*keys, k.Hold())
		}
	})
}

// A bundle that began before the timers that it changes were written to the store changes them there.
func TestTimersWrittenDuringABundle(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		spec := specOf(t, urns.CoderIntervalWindow, 0, "event", "clock", "end")
		k := newTask(t, b, spec)
		defer k.store.Close()
		w := interval(1000)
		at := func(key string, fire int64) engine.Timer {
			return engine.Timer{Key: key, Window: w, Fire: fire, Hold: fire, Pane: []byte{coders.PaneNoFiring}}
		}
		k.set(at("fires", 3), at("cleared", 4), at("set", 5), at("stays", 6))
		due := k.due(4, time.UnixMilli(0), 9)
		if len(due) != 1 || due[0].Key != "fires" {
			t.Fatalf("due: %+v", due)
		}
		o := statebackend.NewOverlay(k.store)
		e := k.Edit(o)
		if err := e.Touch([]byte("touched"), []byte(w)); err != nil {
			t.Fatal(err)
		}
		if err := e.Finish(due, []engine.TimerChange{{Timer: at("cleared", 0), Clear: true}, {Timer: at("set", 8)}}); err != nil {
			t.Fatal(err)
		}
		k.memory = NewMemory(1)
		k.commit(nil, nil)
		for len(k.near.keys) > 0 { // a quarter at a time
			k.commit(nil, nil)
		}
		if err := k.store.Commit(o.Batch()); err != nil {
			t.Fatal(err)
		}
		if err := k.Committed(e); err != nil {
			t.Fatal(err)
		}
		var got []string
		for watermark := int64(4); watermark < 2000; {
			due := k.due(watermark, time.UnixMilli(0), 9)
			for _, v := range due {
				got = append(got, fmt.Sprint(v.Family, " ", v.Key, " ", v.Fire))
			}
			if k.commit(due, nil); len(due) == 0 {
				if k.Hold() >= watermark { // else it is to be asked again
					watermark = k.Hold() + 1
				}
			}
		}
		if want := []string{"0 stays 6", "0 set 8", "2 touched 999"}; !slices.Equal(got, want) {
			t.Errorf("fired %q, want %q", got, want)
		}
		if n := k.records(); n > 0 || k.Pending() {
			t.Errorf("%d records are left", n)
		}
	})
}

// Keys with many timers, and a task with more than fit into its memory.
func TestManyTimers(t *testing.T) {
	backends(t, func(t *testing.T, b statebackend.Backend) {
		spec := specOf(t, urns.CoderGlobalWindow, 0, "event", "clock")
		k := newTask(t, b, spec)
		defer k.store.Close()
		k.memory = NewMemory(1 << 18)
		const n = 2000
		var changes []engine.TimerChange
		for i := range n {
			v := engine.Timer{Key: fmt.Sprint("key", i/2), Tag: fmt.Sprint(i), Fire: int64(i), Hold: int64(i)}
			if i%4 == 0 {
				v.Key = "hot"
			}
			changes = append(changes, engine.TimerChange{Timer: v})
		}
		for range 2 { // the second time they are set as they are
			for c := range slices.Chunk(changes, 100) {
				k.commit(nil, c)
			}
		}
		if k.near.bytes > 1<<18 || len(k.far) == 0 || len(k.near.keys) == 0 {
			t.Errorf("%d bytes in memory, %d groups in the store, %d keys in memory", k.near.bytes, len(k.far), len(k.near.keys))
		}
		last := map[string]int64{}
		fired := 0
		for due := k.due(frame.MaxTimestamp, time.Time{}, 500); len(due) > 0; due = k.due(frame.MaxTimestamp, time.Time{}, 500) {
			for _, v := range due {
				if at, seen := last[v.Key]; seen && v.Fire <= at {
					t.Fatalf("%q fires at %d after %d", v.Key, v.Fire, at)
				}
				last[v.Key] = v.Fire
			}
			fired += len(due)
			k.commit(due, nil)
		}
		if fired != n || k.near.bytes != 0 || k.records() != 0 || k.Hold() != frame.MaxTimestamp {
			t.Errorf("%d of %d fired; %d bytes in memory, %d records, held at %d", fired, n, k.near.bytes, k.records(), k.Hold())
		}
	})
}
