package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

// total is what a branch of the pipeline has of a key in a window.
type total struct {
	Branch          string
	Key             int64
	Window          int64 // its last ms
	Count, Sum, Xor int64
}

// oracle knows the totals: each shard has an element every so many ms from Start on, N in all, which go to Keys keys in turn.
type oracle struct{ Start, Every, N, Shards, Keys int64 }

// at is the moment of the element with an id.
func (o oracle) at(id int64) int64 { return o.Start + id%o.N*o.Every }

// windowOf is the last ms of the window of a moment.
func windowOf(ms int64) int64 { return ms - ms%windowMs + windowMs - 1 }

const windowMs = 500

func (o oracle) want() map[total]bool {
	type place struct{ key, window int64 }
	all := map[place]total{}
	for shard := range o.Shards {
		for i := range o.N {
			id := shard*o.N + i
			at := place{id % o.Keys, windowOf(o.at(id))}
			t := all[at]
			t.add(id)
			all[at] = t
		}
	}
	want := map[total]bool{}
	for at, t := range all {
		t.Key, t.Window = at.key, at.window
		t.Branch = "state"
		want[t] = true
		t.Branch = "group"
		want[t] = true
		want[total{Branch: "combine", Key: t.Key, Window: t.Window, Sum: t.Sum}] = true
	}
	return want
}

func (t *total) add(id int64) {
	t.Count++
	t.Sum += id
	t.Xor ^= mix(id)
}

// exact adds up an unbounded input that ends, in user state with timers of both kinds, in groups and in
// accumulators, and fails if a total is missing, wrong or there twice. What its totals were, again after each failure, is added to
// the file observed.
func exact(s beam.Scope) {
	o := oracle{Start: cmp.Or(*start, time.Now().UnixMilli()), Every: every.Milliseconds(), N: *n, Shards: *shards, Keys: *keys}
	var parts []beam.PCollection
	for shard := range o.Shards {
		s := s.Scope(fmt.Sprintf("shard%d", shard))
		sequence := beam.Create(s, periodic.SequenceDefinition{Interval: *every, Start: o.Start, End: o.Start + o.N*o.Every})
		parts = append(parts, beam.ParDo(s, &name{Shard: shard, oracle: o}, periodic.Sequence(s, sequence)))
	}
	windows := window.NewFixedWindows(windowMs * time.Millisecond)
	ids := beam.Flatten(s, parts...)
	in := beam.WindowInto(s, windows, ids)
	totals := beam.Flatten(s,
		beam.ParDo(s, newTally(), beam.WindowInto(s, windows, beam.ParDo(s, newLinger(o), ids))),
		beam.ParDo(s, addGroup, beam.GroupByKey(s, in)),
		beam.ParDo(s, takeSum, stats.SumPerKey(s, in)),
	)
	observed := beam.ParDo(s, &observe{File: *observed}, totals)
	all := beam.WindowInto(s, window.NewGlobalWindows(), observed)
	beam.ParDo0(s, &verify{o}, beam.GroupByKey(s, beam.AddFixedKey(s, all)))
}

// name gives the elements of a shard their ids.
type name struct {
	Shard int64
	oracle
}

func (f *name) ProcessElement(i int64) (key, id int64) {
	id = f.Shard*f.N + i
	return id % f.Keys, id
}

// linger keeps ids for a while. The Go SDK takes one timer family a DoFn at most, so it isn't part of tally.
type linger struct {
	Bag   state.Bag[int64]
	Waits state.Value[wait]
	Soon  timers.ProcessingTime
	oracle
}

// wait is until when the bag is kept, and the earliest of its ids' moments, which the SDK doesn't hold the watermark for by itself.
type wait struct{ Until, Least int64 }

func newLinger(o oracle) *linger {
	return &linger{
		Bag: state.MakeBagState[int64]("bag"), Waits: state.MakeValueState[wait]("waits"), Soon: timers.InProcessingTime("soon"), oracle: o,
	}
}

func (f *linger) ProcessElement(p state.Provider, t timers.Provider, _, id int64, _ func(beam.EventTime, int64, int64)) error {
	if err := f.Bag.Add(p, id); err != nil {
		return err
	}
	w, waits, err := f.Waits.Read(p)
	if err != nil || waits && w.Least <= f.at(id) {
		return err
	}
	if !waits {
		w.Until = time.Now().Add(50 * time.Millisecond).UnixMilli()
	}
	w.Least = f.at(id)
	f.Soon.Set(t, time.UnixMilli(w.Until), timers.WithOutputTimestamp(time.UnixMilli(w.Least)))
	return f.Waits.Write(p, w)
}

func (f *linger) OnTimer(_ context.Context, p state.Provider, _ timers.Provider, key int64, _ timers.Context, emit func(beam.EventTime, int64, int64)) error {
	ids, _, err := f.Bag.Read(p)
	if err != nil {
		return err
	}
	for _, id := range ids {
		emit(beam.EventTime(f.at(id)), key, id)
	}
	if err := f.Bag.Clear(p); err != nil {
		return err
	}
	return f.Waits.Clear(p)
}

// tally adds ids up, and gives the sums at the end of the window.
type tally struct {
	Sums state.Value[total]
	End  timers.EventTime
}

func newTally() *tally {
	return &tally{Sums: state.MakeValueState[total]("sums"), End: timers.InEventTime("end")}
}

// tallied counts what it adds up, after failures too.
var tallied = beam.NewCounter("exact", "tallied")

func (f *tally) ProcessElement(ctx context.Context, w beam.Window, p state.Provider, t timers.Provider, _, id int64, _ func(total)) error {
	sums, _, err := f.Sums.Read(p)
	if err != nil {
		return err
	}
	sums.add(id)
	tallied.Inc(ctx, 1)
	f.End.Set(t, w.MaxTimestamp().ToTime())
	return f.Sums.Write(p, sums)
}

func (f *tally) OnTimer(_ context.Context, w beam.Window, p state.Provider, _ timers.Provider, key int64, _ timers.Context, emit func(total)) error {
	sums, _, err := f.Sums.Read(p)
	if err != nil {
		return err
	}
	sums.Branch, sums.Key, sums.Window = "state", key, int64(w.MaxTimestamp())
	emit(sums)
	return f.Sums.Clear(p)
}

func addGroup(w beam.Window, key int64, ids func(*int64) bool, emit func(total)) {
	t := total{Branch: "group", Key: key, Window: int64(w.MaxTimestamp())}
	var id int64
	for ids(&id) {
		t.add(id)
	}
	emit(t)
}

func takeSum(w beam.Window, key, sum int64) total {
	return total{Branch: "combine", Key: key, Window: int64(w.MaxTimestamp()), Sum: sum}
}

// observe notes each total in a file, at once and before anything is durable.
type observe struct {
	File string
	out  *os.File
}

func (f *observe) Setup() (err error) {
	f.out, err = os.OpenFile(f.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return err
}

func (f *observe) ProcessElement(t total) (total, error) {
	_, err := fmt.Fprintln(f.out, t.Branch, t.Key, t.Window, t.Count, t.Sum, t.Xor)
	return t, err
}

func (f *observe) Teardown() error { return f.out.Close() }

// verify compares all totals with those of the oracle.
type verify struct{ oracle }

func (f *verify) ProcessElement(_ int, totals func(*total) bool) error {
	want, seen := f.want(), map[total]bool{}
	var t total
	for totals(&t) {
		if !want[t] || seen[t] {
			return fmt.Errorf("%+v is wrong, or there twice: %t", t, seen[t])
		}
		seen[t] = true
	}
	maps.DeleteFunc(want, func(t total, _ bool) bool { return seen[t] })
	if len(want) > 0 {
		return fmt.Errorf("%d totals of %d are missing, such as %+v", len(want), len(want)+len(seen), slices.Collect(maps.Keys(want))[0])
	}
	return nil
}

func init() {
	beam.RegisterType(typeOf(total{}))
	beam.RegisterType(typeOf(wait{}))
	register.Function4x0(addGroup)
	register.Function3x1(takeSum)
	register.DoFn1x2[int64, int64, int64](&name{})
	register.DoFn7x1[context.Context, beam.Window, state.Provider, timers.Provider, int64, int64, func(total), error](&tally{})
	register.DoFn5x1[state.Provider, timers.Provider, int64, int64, func(beam.EventTime, int64, int64), error](&linger{})
	register.DoFn1x2[total, total, error](&observe{})
	register.DoFn2x1[int, func(*total) bool, error](&verify{})
	register.Emitter1[total]()
	register.Emitter3[beam.EventTime, int64, int64]()
	register.Iter1[total]()
}
