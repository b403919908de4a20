// Command gen writes the Go pipelines of the golden plans as Beam sends them
// over the Job API: gen OUTPUT_FOLDER.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local" // for textio
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"google.golang.org/protobuf/proto"
)

func init() {
	register.Function2x0(words)
	register.Function2x1(format)
	register.Function1x0(drop)
	register.Function1x2(pair)
	register.Function2x1(add)
	register.Function4x0(joined)
	register.Function2x0(grouped)
	register.Function3x1(withList)
	register.Function3x1(withMap)
	register.Function3x0(twoWays)
	register.DoFn3x1[*sdf.LockRTracker, int, func(int), error](&counter{})
	register.DoFn5x0[state.Provider, timers.Provider, string, int, func(int)](&batch{})
	register.Emitter1[int]()
	register.Emitter1[string]()
	register.Iter1[int]()
	register.Iter1[string]()
	beam.RegisterType(reflect.TypeOf((*point)(nil)).Elem())
	register.Function1x1(toPoint)
}

// point is encoded as a row.
type point struct{ X, Y int }

func words(line string, emit func(string)) {
	for _, w := range strings.Fields(line) {
		emit(w)
	}
}

func format(w string, n int) string      { return fmt.Sprint(w, n) }
func drop(string)                        {}
func pair(n int) (string, int)           { return "k", n }
func add(a, b int) int                   { return a + b }
func grouped(string, func(*int) bool)    {}
func toPoint(n int) point                { return point{n, n} }
func twoWays(n int, even, odd func(int)) { even(n); odd(n) }
func joined(k string, a, b func(*int) bool, emit func(string)) {
	emit(k)
}
func withList(n int, l []int, next func(*int) bool) int            { return n + len(l) }
func withMap(n int, get func(string) func(*int) bool, one int) int { return n }

// counter is a splittable DoFn that emits the numbers below its element.
type counter struct{}

func (*counter) CreateInitialRestriction(n int) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(n)}
}
func (*counter) SplitRestriction(_ int, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(4)
}
func (*counter) RestrictionSize(_ int, r offsetrange.Restriction) float64 { return r.Size() }
func (*counter) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}
func (*counter) ProcessElement(rt *sdf.LockRTracker, _ int, emit func(int)) error {
	for i := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(i); i++ {
		emit(int(i))
	}
	return nil
}

// batch keeps the numbers of a key and emits how many there are when a timer fires.
type batch struct {
	Seen  state.Bag[int]
	Total state.Combining[int, int, int]
	Last  state.Map[string, int]
	Full  timers.EventTime
	Stale timers.ProcessingTime
}

func (b *batch) ProcessElement(sp state.Provider, tp timers.Provider, _ string, n int, _ func(int)) {
	if err := b.Seen.Add(sp, n); err != nil {
		panic(err)
	}
	b.Full.Set(tp, time.UnixMilli(int64(n)))
	b.Stale.Set(tp, time.UnixMilli(int64(n)))
}

func (b *batch) OnTimer(_ context.Context, _ beam.EventTime, sp state.Provider, _ timers.Provider, _ string, _ timers.Context, emit func(int)) {
	if all, ok, err := b.Seen.Read(sp); err == nil && ok {
		emit(len(all))
	}
}

func wordcount(s beam.Scope) {
	lines := beam.Create(s, "a b", "b c")
	counts := stats.Count(s, beam.ParDo(s, words, lines))
	beam.ParDo0(s, drop, beam.ParDo(s, format, counts))
}

func readText(s beam.Scope) {
	counts := stats.Count(s, beam.ParDo(s, words, textio.Read(s, "/etc/hosts")))
	textio.Write(s, "/tmp/out", beam.ParDo(s, format, counts))
}

func cogroup(s beam.Scope) {
	a := beam.ParDo(s, pair, beam.Create(s, 1, 2))
	b := beam.ParDo(s, pair, beam.Create(s, 3))
	beam.ParDo0(s, drop, beam.ParDo(s, joined, beam.CoGroupByKey(s, a, b)))
}

func flatten(s beam.Scope) {
	a, b := beam.Create(s, 1, 2), beam.Create(s, 3)
	both := beam.Flatten(s, a, b, a)
	beam.ParDo0(s, grouped, beam.GroupByKey(s, beam.ParDo(s, pair, both)))
	beam.Combine(s, add, both)
}

func sideInputs(s beam.Scope) {
	main, other := beam.Create(s, 1, 2), beam.Create(s, 3)
	table := beam.ParDo(s, pair, other)
	double := beam.ParDo(s, withList, main, beam.SideInput{Input: other}, beam.SideInput{Input: other})
	beam.ParDo(s, withMap, double, beam.SideInput{Input: table}, beam.SideInput{Input: beam.Combine(s, add, double)})
}

func windows(s beam.Scope) {
	kvs := beam.ParDo(s, pair, beam.Create(s, 1, 2))
	for _, w := range []*window.Fn{window.NewFixedWindows(10 * time.Second), window.NewSlidingWindows(5*time.Second, 10*time.Second), window.NewSessions(time.Minute)} {
		in := beam.WindowInto(s, w, kvs)
		beam.ParDo0(s, grouped, beam.GroupByKey(s, in))
		beam.CombinePerKey(s, add, in)
	}
}

func splittable(s beam.Scope) {
	beam.Combine(s, add, beam.ParDo(s, &counter{}, beam.Create(s, 10, 20)))
}

func reshuffle(s beam.Scope) {
	points := beam.ParDo(s, toPoint, beam.Create(s, 1, 2))
	stats.Count(s, beam.Reshuffle(s, points))
}

func multiOutput(s beam.Scope) {
	even, odd := beam.ParDo2(s, twoWays, beam.Create(s, 1, 2))
	beam.ParDo0(s, grouped, beam.GroupByKey(s, beam.ParDo(s, pair, even)))
	beam.Combine(s, add, odd)
}

func stateful(s beam.Scope) {
	kvs := beam.WindowInto(s, window.NewFixedWindows(10*time.Second), beam.ParDo(s, pair, beam.Create(s, 1, 2)))
	b := &batch{
		Seen: state.MakeBagState[int]("seen"), Total: state.MakeCombiningState[int, int, int]("total", add),
		Last: state.MakeMapState[string, int]("last"),
		Full: timers.InEventTime("full"), Stale: timers.InProcessingTime("stale"),
	}
	beam.Combine(s, add, beam.ParDo(s, b, kvs))
	beam.ParDo0(s, grouped, beam.GroupByKey(s, kvs))
}

func main() {
	pipelines := map[string]func(beam.Scope){
		"wordcount": wordcount, "read_text": readText, "cogroup": cogroup, "flatten": flatten, "side_inputs": sideInputs,
		"windows": windows, "sdf": splittable, "reshuffle": reshuffle, "multi_output": multiOutput,
		"stateful": stateful,
	}
	for name, build := range pipelines {
		if err := write(filepath.Join(os.Args[1], "go_"+name+".pb"), build); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
	}
}

func write(path string, build func(beam.Scope)) error {
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		return err
	}
	env, err := graphx.CreateEnvironment(context.Background(), graphx.URNEnvExternal, func(context.Context) string { return "localhost:1234" })
	if err != nil {
		return err
	}
	pipeline, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(pipeline)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
