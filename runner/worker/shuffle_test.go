package worker

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

const (
	pBytes  = portabletest.Bytes
	pKV     = portabletest.KV
	pGroups = portabletest.Groups
	pEnv    = portabletest.Env
)

// split is a doFn that emits 0 to n-1, as text.
func split(n int) doFn {
	return func(c *call) error {
		for i := range n {
			c.emit(bytesOf(fmt.Sprint(i)))
		}
		return nil
	}
}

// ungroup is a doFn that emits "key=value" for each value of a group.
func ungroup(c *call) error {
	key, values := group(c.element)
	for _, v := range values {
		c.emit(bytesOf(key + "=" + v))
	}
	return nil
}

// shuffle is a pipeline with all kinds of edges: n numbers, spread, made KVs of
// k keys, grouped, and written. "write" processes "key=value".
func shuffle(t testing.TB, n, k int, toKV doFn) *program {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", kvs)))
	if toKV == nil {
		toKV = modulo(k)
	}
	return compile(t, p, map[string]doFn{"split": split(n), "kv": toKV, "ungroup": ungroup, "write": collector})
}

// modulo is a doFn that makes KVs of numbers.
func modulo(k int) doFn {
	return func(c *call) error {
		var i int
		fmt.Sscan(text(c.element), &i)
		c.emit(kvOf(fmt.Sprint("k", i%k), text(c.element)))
		return nil
	}
}

// shuffled is what "write" of shuffle has to get, sorted.
func shuffled(n, k int) []string {
	var want []string
	for i := range n {
		want = append(want, string(bytesOf(fmt.Sprintf("k%d=%d", i%k, i))))
	}
	slices.Sort(want)
	return want
}

func wantShuffled(t testing.TB, p *program, n, k int) {
	t.Helper()
	if diff := cmp.Diff(shuffled(n, k), p.got("write")); diff != "" {
		t.Errorf("elements lost or doubled (-want +got):\n%s", diff)
	}
}

func TestShuffleGivesEveryElementOnce(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		for _, chunk := range []int{0, 1, 7, 1000} { // bytes in a message: elements span messages
			t.Run(fmt.Sprintf("%d tasks, chunks of %d", parallelism, chunk), func(t *testing.T) {
				p := shuffle(t, 500, 7, nil)
				p.chunk = chunk
				r := newRig(t, p.script)
				r.deployment.Parallelism = parallelism
				r.mustRun(p.plan)
				wantShuffled(t, p, 500, 7)
			})
		}
	}
}

func TestBundlesRunSideBySide(t *testing.T) {
	p := shuffle(t, 400, 7, nil)
	var running, most atomic.Int64
	together := make(chan struct{})
	p.before = func(_ *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "kv" {
			return nil
		}
		now := running.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		if now == 4 { // two tasks, two bundles each
			close(together)
		}
		<-together
		return nil
	}
	r := newRig(t, p.script)
	r.mustRun(p.plan)
	wantShuffled(t, p, 400, 7)
}

func TestOneKeyHasMostElements(t *testing.T) {
	const n = 3000
	skewed := func(c *call) error {
		key := "hot"
		if strings.HasSuffix(text(c.element), "00") {
			key = "cold" + text(c.element)
		}
		c.emit(kvOf(key, text(c.element)))
		return nil
	}
	p := shuffle(t, n, 0, skewed)
	r := newRig(t, p.script)
	r.deployment.Parallelism = 4
	r.mustRun(p.plan)
	got := p.got("write")
	hot := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.Contains(s, "hot=") })
	if len(got) != n || len(slices.Compact(got)) != n || len(hot) != n-29 {
		t.Errorf("%d elements, %d of the hot key; want %d and %d", len(got), len(hot), n, n-29)
	}
}

func TestLargeElements(t *testing.T) {
	large := string(bytes.Repeat([]byte("x"), 5<<20))
	p := shuffle(t, 4, 0, func(c *call) error {
		c.emit(kvOf("k", large+text(c.element)))
		return nil
	})
	r := newRig(t, p.script)
	r.cfg.MemoryBytes = 16 << 20 // staging gets 4 MiB: less than one of them
	r.mustRun(p.plan)
	got := p.got("write")
	for i := range 4 {
		if len(got) != 4 || got[i] != string(bytesOf(fmt.Sprint("k=", large, i))) {
			t.Fatalf("%d elements, number %d is not as it was", len(got), i)
		}
	}
	if r.spilled == 0 {
		t.Error("nothing was spilled")
	}
}

func TestNothingToDo(t *testing.T) {
	t.Run("no transforms", func(t *testing.T) {
		p := compile(t, portabletest.New(), nil)
		newRig(t, p.script).mustRun(p.plan)
	})
	t.Run("an impulse that nobody reads", func(t *testing.T) {
		p := portabletest.New()
		p.Impulse("impulse")
		c := compile(t, p, nil)
		newRig(t, c.script).mustRun(c.plan)
	})
	t.Run("a flatten of nothing", func(t *testing.T) {
		p := portabletest.New()
		empty := p.Flatten("nothing", pKV)
		p.ParDo("side", pEnv, pBytes, empty, p.Flatten("no side", pBytes))
		p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", empty)))
		c := compile(t, p, map[string]doFn{"ungroup": ungroup, "write": collector, "side": collector})
		newRig(t, c.script).mustRun(c.plan)
		if got := append(c.got("write"), c.got("side")...); len(got) > 0 {
			t.Errorf("elements out of nothing: %q", got)
		}
	})
	t.Run("no elements", func(t *testing.T) {
		p := shuffle(t, 0, 1, nil)
		newRig(t, p.script).mustRun(p.plan)
		wantShuffled(t, p, 0, 1)
	})
}

func TestFlattenKeepsDoubles(t *testing.T) {
	p := portabletest.New()
	a := p.ParDo("a", pEnv, pBytes, p.Impulse("impulse a"))
	b := p.ParDo("b", pEnv, pBytes, p.Impulse("impulse b"))
	p.ParDo("write", pEnv, pBytes, p.Flatten("all", pBytes, a, b, a))
	c := compile(t, p, map[string]doFn{"a": split(20), "b": split(30), "write": collector})
	newRig(t, c.script).mustRun(c.plan)
	if got := c.got("write"); len(got) != 70 {
		t.Errorf("%d elements, want 70: %q", len(got), got)
	}
}

func TestGarbageOutput(t *testing.T) {
	valid := append(bytes.Repeat([]byte{0}, 12), 0x0f) // a header that is all right but for its zero windows
	for name, garbage := range map[string][]byte{
		"half an element":         valid[:5],
		"no length":               valid,
		"a length without end":    append(slices.Clone(valid), bytes.Repeat([]byte{0xff}, 11)...),
		"a length of many GB":     append(slices.Clone(valid), 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3),
		"a pane that there isn't": append(bytes.Repeat([]byte{0}, 12), 0xff, 0, 0),
		"windows without end":     append(bytes.Repeat([]byte{0}, 8), 0x7f, 0xff, 0xff, 0xff, 0x0f, 0),
		"minus one windows":       append(bytes.Repeat([]byte{0}, 8), 0xff, 0xff, 0xff, 0xff, 0x0f, 0),
	} {
		for _, stage := range []string{"split", "kv"} { // before a rebalance, before a GroupByKey
			t.Run(name+" from "+stage, func(t *testing.T) {
				p := shuffle(t, 50, 7, nil)
				p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
					if s.Transforms[0] == stage {
						return b.Emit(s.Exec.Sinks[0], garbage)
					}
					return nil
				}
				r := newRig(t, p.script)
				_, err := r.run(p.plan)
				if name == "windows without end" && stage == "split" {
					// They take no bytes, so this is an element; no group has it though.
					wantError(t, err, fault.Corruption, "2147483647 windows")
					return
				}
				wantError(t, err, fault.Corruption, "output of", "failed 4 times")
				if got := p.got("ungroup"); len(got) > 0 {
					t.Errorf("later stages got %q", got)
				}
			})
		}
	}
}
