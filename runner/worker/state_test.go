package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
)

// count numbers the elements of each key by the length of a bag.
func count(c *call) error {
	before, err := c.bundle.StateGet(c.bag("bag"))
	if err != nil {
		return err
	}
	if err := c.bundle.StateAppend(c.bag("bag"), []byte{'x'}); err != nil {
		return err
	}
	after, err := c.bundle.StateGet(c.bag("bag"))
	if err != nil {
		return err
	}
	if len(after) != len(before)+1 {
		return fmt.Errorf("%d elements in the bag, and after one was added %d", len(before), len(after))
	}
	c.emit(bytesOf(fmt.Sprintf("%s=%d", c.key(), len(after))))
	return nil
}

// counts is what "write" gets of n elements of k keys that were counted.
func counts(n, k int) []string {
	var want []string
	for i := range n {
		want = append(want, string(bytesOf(fmt.Sprintf("k%d=%d", i%k, i/k+1))))
	}
	slices.Sort(want)
	return want
}

// Each element of a key sees what the ones before it have written: in its own
// bundle, in earlier ones and not in failed ones; so bundles of a key run one
// after the other, and on one task.
func TestStateIsOfOneKeyAndOneElementAfterTheOther(t *testing.T) {
	const n, k = 1500, 7
	for _, backend := range []string{"memory", "pebble"} {
		for _, failures := range []int64{0, 3} {
			t.Run(fmt.Sprintf("%s, %d failures", backend, failures), func(t *testing.T) {
				p := stateful(t, n, k, count)
				var bundles atomic.Int64
				p.after = func(_ *fnapitest.Bundle, s *plan.Stage) error {
					if s.Transforms[0] == "s" && bundles.Add(1) <= failures {
						return errors.New("not today")
					}
					return nil
				}
				inSeveralBundles(t, p, 6)
				r := newRig(t, p.script)
				r.deployment.Parallelism = 3
				r.cfg.State = stateBackend(t, backend)
				r.mustRun(p.plan)
				if diff := cmp.Diff(counts(n, k), p.got("write")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// inSeveralBundles makes the first bundles of "kv" wait for each other's output
// to get to "s", so that this comes in at least as many bundles.
func inSeveralBundles(t *testing.T, p *program, bundles int) {
	began := make(chan struct{}, 1000)
	turn := make(chan int, 1)
	turn <- 0
	p.before = func(_ *fnapitest.Bundle, s *plan.Stage) error {
		switch s.Transforms[0] {
		case "s":
			began <- struct{}{}
		case "kv":
			n := <-turn
			if n > 0 && n < bundles {
				select {
				case <-began:
				case <-time.After(patience / 2):
					t.Errorf("no bundle of s after %d of kv", n)
				}
			}
			turn <- n + 1
		}
		return nil
	}
}

func stateBackend(t *testing.T, name string) statebackend.Backend {
	if name == "memory" {
		return memstate.New()
	}
	b, err := pebblestate.New(pebblestate.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("a store is open after the job: %v", err)
		}
	})
	return b
}

// entry is one of an ordered list as SDKs write it.
func entry(sortKey int64, value string) string {
	return string(append(coders.AppendVarint(nil, sortKey), bytesOf(value)...))
}

// All kinds of state, read back in the same bundle and, when the timer fires, in
// a later one.
func TestKindsOfState(t *testing.T) {
	s := func(c *call) error {
		const first, last = -1 << 63, 1<<63 - 1
		read := func(when string) error {
			keys, values := bytesOf("a"), bytesOf("b")
			return errors.Join(
				c.wantState(when+": replaced", c.bag("value"), c.key()+"2"),
				c.wantState(when+": cleared", c.bag("gone"), ""),
				c.wantState(when+": never set", c.bag("never"), ""),
				c.wantState(when+": appended", c.bag("bag"), "xyz"),
				c.wantState(when+": map keys", c.multimapKeys("map"), string(append(keys, values...))),
				c.wantState(when+": map a", c.multimap("map", "a"), "12"),
				c.wantState(when+": map b", c.multimap("map", "b"), "3"),
				c.wantState(when+": map c, cleared", c.multimap("map", "c"), ""),
				c.wantState(when+": map d, not there", c.multimap("map", "d"), ""),
				c.wantState(when+": keys of what was dropped", c.multimapKeys("dropped"), ""),
				c.wantState(when+": list", c.orderedList("list", first, last), entry(-5, "m")+entry(-5, "n")+entry(0, "o")+entry(7, "")),
				c.wantState(when+": part of the list", c.orderedList("list", -5, 1), entry(-5, "m")+entry(-5, "n")+entry(0, "o")),
				c.wantState(when+": empty part of the list", c.orderedList("list", 1, 7), ""),
				c.wantState(when+": no range", c.orderedList("list", 1, 1), ""),
			)
		}
		if c.timer != nil {
			c.emit(bytesOf(c.key()))
			return read("later")
		}
		b := c.bundle
		c.set("f", "", 10, 10)
		return errors.Join(
			b.StateReplace(c.bag("value"), []byte(c.key()+"1")), b.StateReplace(c.bag("value"), []byte(c.key()+"2")),
			b.StateAppend(c.bag("gone"), []byte("x")), b.StateClear(c.bag("gone")), b.StateClear(c.bag("never")),
			b.StateAppend(c.bag("bag"), []byte("x")), b.StateAppend(c.bag("bag"), []byte("yz")),
			b.StateAppend(c.multimap("map", "b"), []byte("3")), b.StateAppend(c.multimap("map", "a"), []byte("1")),
			b.StateAppend(c.multimap("map", "c"), []byte("0")), b.StateAppend(c.multimap("map", "a"), []byte("2")),
			b.StateClear(c.multimap("map", "c")),
			b.StateAppend(c.multimap("dropped", "a"), []byte("1")), b.StateAppend(c.multimap("dropped", "b"), []byte("1")),
			b.StateClear(c.multimapKeys("dropped")),
			b.StateAppend(c.orderedList("list", 0, 0), []byte(entry(7, "")+entry(-5, "m")+entry(5, "dropped"))),
			b.StateAppend(c.orderedList("list", 0, 0), []byte(entry(0, "o")+entry(-5, "n")+entry(6, "dropped")+entry(last, "dropped"))),
			b.StateClear(c.orderedList("list", 5, 7)), b.StateClear(c.orderedList("list", 8, last)),
			c.wantState("the range's end", c.orderedList("list", 8, last), ""),
			b.StateAppend(c.multimap("other", "a"), []byte("of another state")),
			removeLast(c, last), read("at once"),
		)
	}
	p := stateful(t, 3, 3, s, "f")
	newRig(t, p.script).mustRun(p.plan)
	if got := p.got("write"); len(got) != 3 {
		t.Errorf("timers of %q", got)
	}
}

// removeLast drops the whole list and writes it anew without the entry at the
// last sort key, which no range [start, end) can name.
func removeLast(c *call, last int64) error {
	kept, err := c.bundle.StateGet(c.orderedList("list", -1<<63, last))
	if err != nil {
		return err
	}
	return errors.Join(c.bundle.StateClear(c.orderedList("list", -1<<63, last)), c.bundle.StateAppend(c.orderedList("list", 0, 0), kept))
}

func TestGarbageStateRequests(t *testing.T) {
	ordered := func(data []byte) doFn {
		return func(c *call) error { return c.bundle.StateAppend(c.orderedList("list", 0, 0), data) }
	}
	for name, s := range map[string]struct {
		do   doFn
		text string
	}{
		"an entry without a value":  {ordered(coders.AppendVarint(nil, 5)), `ordered list "list"`},
		"an entry that is cut":      {ordered([]byte(entry(5, "abc"))[:3]), `ordered list "list"`},
		"a value of 2^63 bytes":     {ordered(binary.AppendUvarint(coders.AppendVarint(nil, 5), 1<<63)), `ordered list "list"`},
		"a sort key without an end": {ordered([]byte{0xff, 0xff}), ""},
		"a key of no type": {func(c *call) error {
			_, err := c.bundle.StateGet(&fnpb.StateKey{})
			return err
		}, "state request"},
		"an append to map keys": {func(c *call) error { return c.bundle.StateAppend(c.multimapKeys("map"), []byte{1}) }, "MultimapKeys"},
		"a side input's append": {func(c *call) error {
			return c.bundle.StateAppend(&fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{}}}, []byte{1})
		}, "IterableSideInput"},
	} {
		t.Run(name, func(t *testing.T) {
			p := stateful(t, 3, 1, s.do)
			_, err := newRig(t, p.script).run(p.plan)
			wantError(t, err, fault.UserCode, s.text, "failed 4 times")
			if got := p.got("write"); len(got) > 0 {
				t.Errorf("output %q", got)
			}
		})
	}
	t.Run("in a stage without state", func(t *testing.T) {
		p := portabletest.New()
		p.ParDo("write", pEnv, pBytes, p.ParDo("kv", pEnv, pKV, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))))
		c := compile(t, p, map[string]doFn{"split": split(1), "kv": modulo(1), "write": count})
		_, err := newRig(t, c.script).run(c.plan)
		wantError(t, err, fault.UserCode, "BagUserState", "failed 4 times")
	})
}
