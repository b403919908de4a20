package worker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// tour is a pipeline to go from savepoint to savepoint: sources count up to a limit, all numbers are counted by key in state,
// where timers say how many there were at last, and grouped.
type tour struct {
	*counters
	keys, sources, limit int
}

// itinerary is how the pipeline of a tour is made.
type itinerary struct {
	// counter is the name of the transform that keeps state, "count" if "".
	counter string
	// fused has transforms share stages, and detour adds one before that which counts.
	fused, detour bool
	// without leaves out what groups.
	without bool
}

func newTour(t *testing.T, by itinerary) *tour {
	p := portabletest.New()
	p.Environment(pEnv, "")
	u := &tour{counters: &counters{tick: time.Millisecond, fails: func() bool { return false }, ran: map[string]*process{}, finalized: map[string]int{}}, keys: 23, sources: 5, limit: 60}
	counter := cmp.Or(by.counter, "count")
	payload := &pipepb.ParDoPayload{RestrictionCoderId: pBytes, RequestsFinalization: true}
	numbers := p.ParDoWith("source", pEnv, payload, pBytes, p.Impulse("impulse"))
	keyed := p.ParDo("key", pEnv, pKV, numbers)
	if by.detour {
		keyed = p.ParDo("detour", pEnv, pKV, keyed)
	}
	counted := p.ParDoWith(counter, pEnv, payloadOf("f"), pBytes, keyed)
	p.ParDo("write", pEnv, pBytes, counted)
	if !by.without {
		p.ParDo("lines", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", keyed)))
	}
	for id := range p.Proto.Components.Pcollections {
		if pc := p.Proto.Components.Pcollections[id]; pc != nil && !strings.Contains(id, "impulse") {
			pc.IsBounded = pipepb.IsBounded_UNBOUNDED
		}
	}
	u.program = compileAs(t, p, portable.Options{SeparateStages: !by.fused, Checkpoints: true}, map[string]doFn{
		"source/PairWithRestriction": func(c *call) error {
			c.emit(slices.Concat(c.element, bytesOf("")))
			return nil
		},
		"source/SplitAndSize": func(c *call) error {
			for i := range u.sources {
				c.emit(restriction(i, 0, u.limit))
			}
			return nil
		},
		"key": func(c *call) error {
			var id, n int
			fmt.Sscanf(text(c.element), "%d:%d", &id, &n)
			c.emit(kvOf(fmt.Sprintf("k%d", (id*u.limit+n)%u.keys), text(c.element)))
			return nil
		},
		"detour": func(c *call) error {
			c.emit(c.element)
			return nil
		},
		counter: func(c *call) error {
			if c.timer == nil {
				c.set("f", "", 1<<40, 1<<40)
				return count(c)
			}
			bag, err := c.bundle.StateGet(c.bag("bag"))
			c.emit(bytesOf(fmt.Sprintf("%s has %d", c.key(), len(bag))))
			return err
		},
		"ungroup": whole,
		"write":   collector,
		"lines":   collector,
	})
	u.rig = newRig(t, u.script)
	return u
}

// want is all that a tour writes, and groups.
func (u *tour) want() (written, groups []string) {
	byKey := map[string][]string{}
	for i := range u.sources * u.limit {
		key := fmt.Sprintf("k%d", i%u.keys)
		byKey[key] = append(byKey[key], fmt.Sprintf("%d:%d", i/u.limit, i%u.limit))
		written = append(written, string(bytesOf(fmt.Sprintf("%s=%d", key, len(byKey[key])))))
	}
	for key, all := range byKey {
		slices.Sort(all)
		written = append(written, string(bytesOf(fmt.Sprintf("%s has %d", key, len(all)))))
		groups = append(groups, string(bytesOf(key+": "+strings.Join(all, " "))))
	}
	slices.Sort(written)
	slices.Sort(groups)
	return written, groups
}

// check checks what was written by programs one after the other.
func (u *tour) check(t *testing.T, all ...*tour) {
	t.Helper()
	var written, groups []string
	for _, p := range append(all, u) {
		written, groups = append(written, p.got("write")...), append(groups, p.got("lines")...)
	}
	slices.Sort(written)
	slices.Sort(groups)
	wantWritten, wantGroups := u.want()
	if diff := gocmp.Diff(wantWritten, written); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(wantGroups, groups); diff != "" {
		t.Errorf("grouped (-want +got):\n%s", diff)
	}
}

// passed says when a part of all has been written.
func (u *tour) passed(part float64) func() bool {
	return func() bool { return float64(len(u.got("write"))) >= part*float64(u.sources*u.limit) }
}

// A job that is stopped with a savepoint and goes on, at another parallelism and in another state backend each time, does
// all once: it was quiet at each, so that nothing was under way but at its sources.
func TestJobsTravel(t *testing.T) {
	eachSeed(t, 3, func(t *testing.T, seed uint64) {
		u := newTour(t, itinerary{})
		v := newTravel(t, u.rig, seed)
		for i, l := range []leg{{1, "memory", u.passed(0.2)}, {8, "pebble", u.passed(0.4)}, {3, "memory", u.passed(0.6)}, {2, "pebble", nil}} {
			m := v.to(u.plan, l)
			if (m == nil) != (l.after == nil) {
				t.Fatalf("leg %d has the savepoint %v", i, m)
			}
			if m != nil {
				wantQuiet(t, m)
			}
		}
		u.check(t)
		for _, kind := range []protocol.PartKind{protocol.State, protocol.Residuals} {
			if v.found[kind] == 0 {
				t.Errorf("no savepoint had %v", kind)
			}
		}
	})
}
