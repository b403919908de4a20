package statebackend_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	sb "github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// timers is what SetTimer, ClearTimer and RemoveWindow should do: a map by name.
type timers map[string]timerIn

type timerIn struct {
	sb.Scope
	sb.Timer
}

func name(s sb.Scope, t sb.Timer) string {
	return fmt.Sprintf("%d %q %q %q %q %q", s.Group, s.Transform, t.Key, t.Window, t.Family, t.Tag)
}

func (m timers) due(s sb.Scope, d sb.Domain, from, before int64) []sb.Timer {
	var out []sb.Timer
	for _, t := range m {
		if t.Scope == s && t.Domain == d && from <= t.Fire && t.Fire < before {
			out = append(out, t.Timer)
		}
	}
	slices.SortFunc(out, func(a, b sb.Timer) int {
		return cmp.Or(cmp.Compare(a.Fire, b.Fire), bytes.Compare(a.Key, b.Key), bytes.Compare(a.Window, b.Window),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Tag, b.Tag))
	})
	return out
}

func (m timers) hold(s sb.Scope) (hold int64, ok bool) {
	hold = math.MaxInt64
	for _, t := range m {
		if t.Scope != s {
			continue
		}
		if hold, ok = min(hold, t.Hold), true; t.Domain == sb.EventTime {
			hold = min(hold, t.Fire)
		}
	}
	return hold, ok
}

func drawTimer(t *rapid.T) (sb.Scope, sb.Timer) {
	few := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	s := sb.Scope{Group: rapid.Uint16Range(0, 1).Draw(t, "group"), Transform: few("transform", "a", "a\x00")}
	timer := sb.Timer{
		Key: []byte(few("key", "k", "k\x00")), Window: []byte(few("window", "", "w")),
		Family: few("family", "f", "g"), Tag: few("tag", "", "t"),
		Domain: sb.EventTime, Fire: millis.Draw(t, "fire"), Hold: millis.Draw(t, "hold"),
		Pane: rapid.SliceOfN(rapid.Byte(), 1, 2).Draw(t, "pane"),
	}
	if timer.Family == "g" {
		timer.Domain = sb.ProcessingTime
	}
	return s, timer
}

func TestTimers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, err := memstate.New().Open("task")
		if err != nil {
			t.Fatal(err)
		}
		o, m := sb.NewOverlay(store), timers{}
		// removed checks what came back of a timer that was or was not there.
		removed := func(t *rapid.T, s sb.Scope, old sb.Timer, found bool, err error) {
			want, ok := m[name(s, old)]
			if !found {
				ok = false
			}
			if err != nil || found != ok || found && !gocmp.Equal(old, want.Timer) {
				t.Fatalf("it returned %+v, %v, %v, want %+v", old, found, err, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				s, timer := drawTimer(t)
				old, found, err := sb.SetTimer(o, s, timer)
				if _, ok := m[name(s, timer)]; ok != found {
					t.Fatalf("set %+v: replaced is %v", timer, found)
				}
				removed(t, s, old, found, err)
				m[name(s, timer)] = timerIn{s, timer}
			},
			"clear": func(t *rapid.T) {
				s, timer := drawTimer(t)
				old, found, err := sb.ClearTimer(o, s, timer)
				if _, ok := m[name(s, timer)]; ok != found {
					t.Fatalf("clear %+v: removed is %v", timer, found)
				}
				removed(t, s, old, found, err)
				delete(m, name(s, timer))
			},
			"remove window": func(t *rapid.T) {
				s, timer := drawTimer(t)
				gone := 0
				err := sb.RemoveWindow(o, sb.Expiry{Scope: s, Window: timer.Window, Key: timer.Key}, func(old sb.Timer) {
					removed(t, s, old, true, nil)
					gone++
				})
				before := len(m)
				maps.DeleteFunc(m, func(_ string, other timerIn) bool {
					return other.Scope == s && bytes.Equal(other.Key, timer.Key) && bytes.Equal(other.Window, timer.Window)
				})
				if err != nil || gone != before-len(m) {
					t.Fatalf("%d timers removed, want %d; %v", gone, before-len(m), err)
				}
			},
			"commit": func(t *rapid.T) {
				if err := store.Commit(o.Batch()); err != nil {
					t.Fatal(err)
				}
				o.Reset(store)
			},
			"": func(t *rapid.T) {
				s, timer := drawTimer(t)
				from := millis.Draw(t, "from")
				var got []sb.Timer
				err := sb.DueTimers(o, s, timer.Domain, from, timer.Fire, func(due sb.Timer) bool {
					due.Key, due.Window, due.Pane = bytes.Clone(due.Key), bytes.Clone(due.Window), bytes.Clone(due.Pane)
					got = append(got, due)
					return true
				})
				if diff := gocmp.Diff(m.due(s, timer.Domain, from, timer.Fire), got); err != nil || diff != "" {
					t.Fatalf("due from %d before %d: %v\n(-want +got)\n%s", from, timer.Fire, err, diff)
				}
				want, some := m.hold(s)
				known := int64(math.MinInt64) // that nothing holds before it
				if rapid.Bool().Draw(t, "known") {
					known = want
				}
				if hold, ok, err := sb.MinHold(o, s, known); err != nil || ok != some || ok && hold != want {
					t.Fatalf("held at %d, %v, %v, want %d, %v", hold, ok, err, want, some)
				}
			},
		})
	})
}

// The end of a window takes all there is of it, and nothing else.
func TestRemoveWindow(t *testing.T) {
	store, err := memstate.New().Open("task")
	if err != nil {
		t.Fatal(err)
	}
	o := sb.NewOverlay(store)
	write := func(key, window string) {
		c := sb.Cell{Scope: sb.Scope{Group: 3, Transform: "T"}, Key: []byte(key), Window: []byte(window)}
		for _, c.State = range []string{"bag", "map", "list"} {
			o.Append(c.AppendKey(nil), []byte("v"))
			o.Append(c.AppendMapKey(nil, []byte("\xff\xff")), []byte("v"))
			o.Append(c.AppendSortKey(nil, math.MaxInt64), []byte("v"))
		}
		if _, _, err := sb.SetTimer(o, c.Scope, sb.Timer{Key: c.Key, Window: c.Window, Domain: sb.ProcessingTime, Fire: 9}); err != nil {
			t.Fatal(err)
		}
		e := sb.Expiry{Scope: c.Scope, At: 5, Window: c.Window, Key: c.Key}
		o.Set(e.AppendKey(nil), nil)
	}
	contents := func() (out []string) {
		t.Helper()
		if err := store.Commit(o.Batch()); err != nil {
			t.Fatal(err)
		}
		o.Reset(store)
		if err := store.Scan(nil, nil, func(k, v []byte) bool {
			out = append(out, fmt.Sprintf("%q=%q", k, v))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, other := range []string{"", "k", "k\x00", "k\xff", "l"} {
		for _, window := range []string{"", "w\x00", "x"} {
			write(other, window)
		}
	}
	want := contents()
	write("k", "w")
	if len(contents()) != len(want)+13 {
		t.Fatalf("a window of a key has %d records, want 13", len(contents())-len(want))
	}
	e := sb.Expiry{Scope: sb.Scope{Group: 3, Transform: "T"}, At: 5, Window: []byte("w"), Key: []byte("k")}
	if err := sb.RemoveWindow(o, e, func(sb.Timer) {}); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, contents()); diff != "" {
		t.Errorf("after its end (-want +got):\n%s", diff)
	}
}

func TestDamagedTimers(t *testing.T) {
	s, timer := sb.Scope{Transform: "T"}, sb.Timer{Key: []byte("k"), Window: []byte("w"), Family: "f", Domain: sb.EventTime}
	if _, _, err := sb.SetTimer(sb.NewOverlay(nothing{}), s, sb.Timer{}); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("set of a timer without a domain: %v, want it refused", err)
	}
	o := sb.NewOverlay(nothing{})
	if _, _, err := sb.SetTimer(o, s, timer); err != nil {
		t.Fatal(err)
	}
	var keys [][]byte
	for c := range o.Batch().All() {
		keys = append(keys, bytes.Clone(c.Key))
	}
	for _, key := range keys {
		o.Set(key, []byte("short"))
	}
	_, _, setErr := sb.SetTimer(o, s, timer)
	_, _, clearErr := sb.ClearTimer(o, s, timer)
	for what, err := range map[string]error{
		"set":   setErr,
		"clear": clearErr,
		"due":   sb.DueTimers(o, s, sb.EventTime, 0, 1, func(sb.Timer) bool { return true }),
		"end":   sb.RemoveWindow(o, sb.Expiry{Scope: s, Window: timer.Window, Key: timer.Key}, func(sb.Timer) {}),
	} {
		if fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v, want an error of class corruption", what, err)
		}
	}
}
