package worker

import (
	"fmt"
	"maps"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
)

// outputOf is that of a bundle of a stage with the timer families "f" and "g", keyed by bytes, in intervals.
func outputOf(t testing.TB, fires bool) *timerOutput {
	t.Helper()
	compiled := func(urn string) *coders.Coder {
		c, err := coders.Compile("c", map[string]*pipepb.Coder{"c": {Spec: &pipepb.FunctionSpec{Urn: urn}}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	spec := &plan.StatefulSpec{
		Timers: []plan.TimerFamily{{Name: "f"}, {Name: "g"}},
		Layout: coders.NewTimers(compiled(urns.CoderBytes), compiled(urns.CoderIntervalWindow)),
	}
	return newTimerOutput(spec, familiesOf(spec), newClock(&plan.Plan{}), fires)
}

// timerOf is a timer of a key in the n-th window of a second.
func timerOf(key, tag string, n int) coders.Timer {
	end := int64(n+1) * 1000
	return coders.Timer{
		Key: coders.AppendBytes(nil, []byte(key)), Tag: []byte(tag), NumWindows: 1,
		Windows: coders.AppendVarint(coders.AppendTimestamp(nil, end), 1000), Fire: end - 1, Hold: end - 1, Pane: []byte{coders.PaneNoFiring},
	}
}

// timerIdentity is of a timer.
type timerIdentity struct {
	family           int
	tag, key, window string
}

// said is what a bundle says of a timer.
type said struct {
	clear      bool
	fire, hold int64
	pane       string
}

// The last word on a timer counts, and it is the only one unless the bundle fires timers.
func TestTimerOutputHasTheLastWordOnEachTimer(t *testing.T) {
	for _, fires := range []bool{false, true} {
		t.Run(fmt.Sprintf("fires=%v", fires), func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				o, want, all := outputOf(t, fires), map[timerIdentity]said{}, 0
				for range rapid.IntRange(0, 20).Draw(r, "chunks") {
					family := rapid.IntRange(0, 1).Draw(r, "family")
					var chunk []byte
					for range rapid.IntRange(0, 4).Draw(r, "timers") {
						v := timerOf(rapid.SampledFrom([]string{"", "k", "key"}).Draw(r, "key"),
							rapid.SampledFrom([]string{"", "t", "tag"}).Draw(r, "tag"), rapid.IntRange(0, 2).Draw(r, "window"))
						if v.Clear = rapid.Bool().Draw(r, "clear"); v.Clear {
							v.Fire, v.Hold, v.Pane = 0, 0, nil
						} else {
							v.Fire, v.Hold = rapid.Int64Range(0, 9).Draw(r, "fire"), rapid.Int64Range(0, 9).Draw(r, "hold")
							v.Pane = coders.Pane{Index: rapid.Int64Range(0, 2).Draw(r, "pane")}.Append(nil)
						}
						want[timerIdentity{family, string(v.Tag), string(v.Key), string(v.Windows)}] = said{v.Clear, v.Fire, v.Hold, string(v.Pane)}
						all++
						chunk = v.Append(chunk)
					}
					if err := o.add(o.families[family].Family, chunk); err != nil {
						r.Fatal(err)
					}
				}
				got := map[timerIdentity]said{}
				for _, c := range o.changes {
					got[timerIdentity{c.Family, c.Tag, c.Key, c.Window}] = said{c.Clear, c.Fire, c.Hold, string(c.Pane)}
				}
				if !maps.Equal(got, want) {
					r.Fatalf("%v, not %v", got, want)
				}
				if n := len(o.changes); !fires && n != len(want) || fires && n != all {
					r.Fatalf("%d changes of %d timers, of which the bundle said %d", n, len(want), all)
				}
			})
		})
	}
}

// Of bundles that set each timer once no identities are kept beyond the first.
func TestTimerOutputOfTimersSetOnce(t *testing.T) {
	o := outputOf(t, false)
	for i := range 2 * enoughChanges {
		v := timerOf(fmt.Sprint("key", i), "", 0)
		if err := o.add("f", v.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.latest) > 0 {
		t.Errorf("the identities of %d timers are kept", len(o.latest))
	}
	v := timerOf("key0", "", 0)
	v.Fire = 7
	if err := o.add("f", v.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if n := len(o.changes); n != 2*enoughChanges+1 || o.changes[n-1].Fire != 7 {
		t.Errorf("%d changes, the last %+v", n, o.changes[n-1])
	}
}

// BenchmarkTimerOutput takes bundles of 20,000 timers in messages of 1,000: an operation is one timer.
func BenchmarkTimerOutput(b *testing.B) {
	for _, distinct := range []int{1000, 20_000} {
		b.Run(fmt.Sprintf("distinct=%d", distinct), func(b *testing.B) {
			const bundle, message = 20_000, 1000
			var chunks [][]byte
			for i := range bundle {
				if i%message == 0 {
					chunks = append(chunks, nil)
				}
				v := timerOf(fmt.Sprint("key", i*7919%distinct), "", 0)
				chunks[len(chunks)-1] = v.Append(chunks[len(chunks)-1])
			}
			b.ReportAllocs()
			var changes []engine.TimerChange
			for n := 0; n < b.N; n += bundle {
				o := outputOf(b, false)
				for _, c := range chunks {
					if err := o.add("f", c); err != nil {
						b.Fatal(err)
					}
				}
				changes = o.changes
			}
			if b.N > 1 && len(changes) != distinct {
				b.Fatalf("%d changes", len(changes))
			}
		})
	}
}
