package trigger

import (
	"fmt"
	"math"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
)

// Triggers, by their names in SDKs.

type proto = *pipepb.Trigger

func count(n int32) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: n}}}
}

func delay(transforms ...*pipepb.TimestampTransform) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{
		AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{TimestampTransforms: transforms}}}
}

func plusDelay(ms int64) *pipepb.TimestampTransform {
	return &pipepb.TimestampTransform{TimestampTransform: &pipepb.TimestampTransform_Delay_{
		Delay: &pipepb.TimestampTransform_Delay{DelayMillis: ms}}}
}

func alignTo(period, offset int64) *pipepb.TimestampTransform {
	return &pipepb.TimestampTransform{TimestampTransform: &pipepb.TimestampTransform_AlignTo_{
		AlignTo: &pipepb.TimestampTransform_AlignTo{Period: period, Offset: offset}}}
}

func synchronized() proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterSynchronizedProcessingTime_{
		AfterSynchronizedProcessingTime: &pipepb.Trigger_AfterSynchronizedProcessingTime{}}}
}

func all(subs ...proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: subs}}}
}

func either(subs ...proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: subs}}}
}

func each(subs ...proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: subs}}}
}

func end(early, late proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{
		AfterEndOfWindow: &pipepb.Trigger_AfterEndOfWindow{EarlyFirings: early, LateFirings: late}}}
}

func forever(sub proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: sub}}}
}

func until(main, finally proto) proto {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{OrFinally: &pipepb.Trigger_OrFinally{Main: main, Finally: finally}}}
}

var (
	byDefault    = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{}}
	neverTrigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{}}
	eachElement  = &pipepb.Trigger{Trigger: &pipepb.Trigger_Always_{}}
)

// script runs a trigger in a window that ends at 9. Of its steps, "e" is an element, "wN" moves the
// watermark to N and "pN" processing time. The result has for each step what happened: "." nothing, "F" it fired, "X" it
// fired and finished.
func script(t *testing.T, m *Machine, steps ...string) string {
	t.Helper()
	s := m.New()
	at := Moment{End: 9, Watermark: -1}
	out := ""
	for _, step := range steps {
		if m.Finished(s) {
			t.Fatalf("%q after %q", step, out)
		}
		switch step[0] {
		case 'e':
			m.OnElement(s, at)
		case 'w':
			fmt.Sscan(step[1:], &at.Watermark)
		case 'p':
			fmt.Sscan(step[1:], &at.Now)
		}
		again, n, err := m.Decode(m.Append(nil, s))
		if err != nil || !slices.Equal(s, again) || n != len(m.Append(nil, s)) {
			t.Fatalf("%v is written and read as %v of %d bytes, %v", s, again, n, err)
		}
		s = again
		switch fires := m.ShouldFire(s, at); {
		case !fires:
			out += "."
		default:
			m.OnFire(s, at)
			if m.Finished(s) {
				out += "X"
			} else {
				out += "F"
			}
		}
	}
	return out
}

func TestTriggers(t *testing.T) {
	for _, test := range []struct {
		name    string
		trigger proto
		steps   []string
		want    string
	}{
		{"default", byDefault, []string{"e", "w9", "w10", "e"}, "..FF"},
		{"never", neverTrigger, []string{"e", "w10", "e"}, "..."},
		{"always", eachElement, []string{"e", "e"}, "FF"},
		{"count", count(3), []string{"e", "e", "e"}, "..X"},
		{"repeated count", forever(count(2)), []string{"e", "e", "e", "e", "e"}, ".F.F."},
		{"end", end(nil, nil), []string{"e", "w9", "w10"}, "..X"},
		{"delay", delay(plusDelay(5)), []string{"p2", "e", "p5", "e", "p6", "p7"}, ".....X"},
		{"repeated delay", forever(delay(plusDelay(5))), []string{"e", "p5", "p20", "e", "p24", "p25"}, ".F...F"},
		{"aligned", delay(plusDelay(1), alignTo(10, 3)), []string{"p3", "e", "p12", "p13"}, "...X"},
		{"aligned already", delay(alignTo(10, 3)), []string{"p13", "e", "p14"}, "..X"},
		{"synchronized", synchronized(), []string{"p4", "e", "p5"}, "..X"},
		{"early and late", end(count(2), count(1)), []string{"e", "e", "e", "e", "w10", "e", "e"}, ".F.FFFF"},
		{"early count is forgotten at the end", end(count(2), count(2)), []string{"e", "w10", "e", "e", "e"}, ".F.F."},
		{"early and late start anew", end(all(count(2), delay(plusDelay(5))), each(count(1), count(2))),
			[]string{"e", "e", "p5", "e", "e", "p10", "w10", "e", "e", "e", "e"}, "..F..FFF.FF"},
		{"early only", end(count(2), nil), []string{"e", "e", "e", "w10"}, ".F.X"},
		{"late only", end(nil, count(2)), []string{"e", "e", "e", "w10", "e", "e"}, "...F.F"},
		{"all", all(count(3), delay(plusDelay(5))), []string{"e", "e", "p6", "e"}, "...X"},
		{"any", either(count(3), delay(plusDelay(5))), []string{"e", "e", "p6"}, "..X"},
		{"repeated any starts anew", forever(either(count(3), delay(plusDelay(5)))), []string{"e", "e", "p6", "e", "e", "e"}, "..F..F"},
		{"each", each(count(1), count(2), end(nil, nil)), []string{"e", "e", "e", "e", "w10"}, "F.F.X"},
		{"each of forever", each(forever(count(1)), count(2)), []string{"e", "e", "e"}, "FFF"},
		{"until", until(forever(count(2)), count(5)), []string{"e", "e", "e", "e", "e"}, ".F.FX"},
		{"until the end", until(forever(count(2)), end(nil, nil)), []string{"e", "e", "e", "w10"}, ".F.X"},
		{"main finishes", until(count(2), count(5)), []string{"e", "e"}, ".X"},
		{"forever of each", forever(each(count(1), count(2))), []string{"e", "e", "e", "e", "e", "e"}, "F.FF.F"},
	} {
		m, err := Compile(test.trigger, false, 0)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := script(t, m, test.steps...); got != test.want {
			t.Errorf("%s: %v: %s, not %s", test.name, test.steps, got, test.want)
		}
	}
}

// Synchronized processing time is that of the slowest task upstream.
func TestSynchronizedTimeLags(t *testing.T) {
	m, err := Compile(either(synchronized(), delay(plusDelay(30))), false, 20)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := script(t, m, "p4", "e", "p23", "p24"), "...X"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, trigger := range map[string]proto{
		"nothing":              nil,
		"no kind":              {},
		"no subtrigger":        forever(nil),
		"no subtriggers":       either(),
		"half":                 until(count(1), nil),
		"no period":            delay(alignTo(0, 0)),
		"no kind of transform": delay(&pipepb.TimestampTransform{}),
		"below":                end(nil, each(count(1), nil)),
	} {
		if m, err := Compile(trigger, false, 0); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// state returns the state after steps of a script, of a trigger whose windows merge.
func state(t *testing.T, m *Machine, elements int, at Moment) State {
	t.Helper()
	s := m.New()
	for range elements {
		m.OnElement(s, at)
		if m.ShouldFire(s, at) {
			m.OnFire(s, at)
		}
	}
	return s
}

func TestMerge(t *testing.T) {
	before, after := Moment{End: 9, Watermark: 0}, Moment{End: 9, Watermark: 10}
	compile := func(trigger proto) *Machine {
		m, err := Compile(trigger, true, 0)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}

	m := compile(count(5))
	if s := m.Merge([]State{state(t, m, 2, before), state(t, m, 3, before)}, nil, before); !m.ShouldFire(s, before) {
		t.Error("counts are not added up")
	}
	if s := m.Merge([]State{state(t, m, 2, before), state(t, m, 2, before)}, nil, before); m.ShouldFire(s, before) {
		t.Error("counts become more")
	}

	m = compile(delay(plusDelay(5)))
	early, late := before, before
	early.Now, late.Now = 100, 103
	s := m.Merge([]State{state(t, m, 1, late), state(t, m, 1, early)}, nil, before)
	if at := m.WakeUp(s, 103); at != 105 {
		t.Errorf("waits for %d, not 105", at)
	}
	if at := m.WakeUp(s, 105); at != math.MaxInt64 {
		t.Errorf("waits for %d, which is past", at)
	}

	// One whose window had ended goes on where it merges into one that has not.
	m = compile(end(count(3), count(2)))
	past := state(t, m, 1, after) // on time, as it is past the end
	longer := Moment{End: 20, Watermark: 10}
	for name, test := range map[string]struct {
		at   Moment
		want bool // it fires with one element more
	}{"ended": {after, false}, "longer": {longer, false}} {
		s := m.Merge([]State{past, past}, past, test.at)
		m.OnElement(s, test.at)
		if got := m.ShouldFire(s, test.at); got != test.want {
			t.Errorf("%s: fires after one element: %v", name, got)
		}
		m.OnElement(s, test.at)
		if got := m.ShouldFire(s, test.at); got != (name == "ended") {
			t.Errorf("%s: fires after two elements: %v", name, got)
		}
	}
	// One that is early with one that is late is as early: something waits for the end.
	open := state(t, m, 1, before)
	if s := m.Merge([]State{past, open}, nil, after); !m.ShouldFire(s, after) {
		t.Error("what waited for the end does not fire")
	}

	if s := m.Merge(nil, nil, before); !slices.Equal(s, m.New()) {
		t.Error("of nothing comes something")
	}
}

// drawTrigger draws a trigger of up to three levels.
func drawTrigger(t *rapid.T, depth int) proto {
	leaves := []func() proto{
		func() proto { return byDefault }, func() proto { return neverTrigger }, func() proto { return eachElement },
		func() proto { return count(rapid.Int32Range(0, 4).Draw(t, "count")) },
		func() proto { return delay(plusDelay(rapid.Int64Range(-3, 9).Draw(t, "delay"))) },
		func() proto { return delay(alignTo(rapid.Int64Range(1, 9).Draw(t, "period"), -2)) },
		func() proto { return end(nil, nil) },
	}
	if depth == 0 {
		return rapid.SampledFrom(leaves).Draw(t, "leaf")()
	}
	sub := func() proto { return drawTrigger(t, depth-1) }
	return rapid.SampledFrom(append(leaves,
		func() proto { return all(sub(), sub()) }, func() proto { return either(sub(), sub(), sub()) },
		func() proto { return each(sub(), sub()) }, func() proto { return end(sub(), sub()) },
		func() proto { return until(sub(), sub()) }, func() proto { return forever(sub()) },
	)).Draw(t, "trigger")()
}

func TestStatesAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, err := Compile(drawTrigger(t, 3), rapid.Bool().Draw(t, "merging"), 0)
		if err != nil {
			t.Fatal(err)
		}
		var states []State
		at := Moment{End: 9}
		for range rapid.IntRange(1, 4).Draw(t, "windows") {
			s := m.New()
			for range rapid.IntRange(0, 6).Draw(t, "elements") {
				if m.Finished(s) {
					break
				}
				at.Now += rapid.Int64Range(-20, 20).Draw(t, "now")
				at.Watermark += rapid.Int64Range(0, 5).Draw(t, "watermark")
				m.OnElement(s, at)
				if m.ShouldFire(s, at) {
					m.OnFire(s, at)
				}
			}
			if !m.Finished(s) {
				states = append(states, s)
			}
		}
		states = append(states, m.Merge(states, nil, at))
		for _, s := range states {
			b := m.Append(nil, s)
			got, n, err := m.Decode(append(b, 7))
			if err != nil || n != len(b) || !slices.Equal(s, got) {
				t.Fatalf("%v is written as %x and read as %v of %d bytes, %v", s, b, got, n, err)
			}
			for cut := range b {
				if _, _, err := m.Decode(b[:cut]); fault.ClassOf(err) != fault.Corruption {
					t.Fatalf("%x cut to %d bytes: %v", b, cut, err)
				}
			}
		}
	})
}

// The states are state format: a failure here means that old checkpoints are lost.
func TestEncodedState(t *testing.T) {
	m, err := Compile(end(either(count(9), delay(plusDelay(64))), count(1)), true, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := m.New()
	if got, want := fmt.Sprintf("%x", m.Append(nil, s)), "0100000000"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	m.OnElement(s, Moment{End: 9, Now: 0})
	m.OnElement(s, Moment{End: 9, Now: 0})
	if got, want := fmt.Sprintf("%x", m.Append(nil, s)), "010002810102"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	m, err := Compile(forever(end(either(count(9), delay(plusDelay(64))), each(count(1), synchronized()))), true, 0)
	if err != nil {
		f.Fatal(err)
	}
	s := m.New()
	f.Add(m.Append(nil, s))
	m.OnElement(s, Moment{End: 9})
	f.Add(m.Append(nil, s))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n, err := m.Decode(b)
		if err != nil {
			if fault.ClassOf(err) != fault.Corruption {
				t.Fatal(err)
			}
			return
		}
		if again := m.Append(nil, s); n > len(b) || string(again) != string(b[:n]) {
			t.Fatalf("%x is read and written as %x", b[:min(n, len(b))], again)
		}
		at := Moment{End: 9, Watermark: 10, Now: 5}
		m.OnElement(s, at)
		if m.ShouldFire(s, at) {
			m.OnFire(s, at)
		}
		m.WakeUp(s, 0)
	})
}
