package worker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// sightings are what attempts have seen, by what is to be the same in all of them.
type sightings struct {
	t     *testing.T
	mu    sync.Mutex
	seen  map[string]string
	again int
}

func (s *sightings) see(what, as string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.seen[what]
	if ok {
		s.again++
	}
	if ok && before != as {
		s.t.Errorf("%s was seen as %q, and then as %q", what, before, as)
	}
	s.seen[what] = as
}

// stableJob sends n numbers, drawn with something random, of k keys to "s", which wants them to be the same in each attempt. It
// keeps what comes with something random of its own in state, as timers see it.
func stableJob(t *testing.T, n, k int, families ...string) (*program, *sightings) {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	kvs := p.ParDo("kv", pEnv, pKV, p.Reshuffle("spread", pBytes, numbers))
	payload := &pipepb.ParDoPayload{}
	if len(families) > 0 {
		payload = payloadOf(families...)
	}
	payload.RequiresStableInput = true
	p.ParDo("write", pEnv, pBytes, p.ParDoWith("s", pEnv, payload, pBytes, kvs))
	s := &sightings{t: t, seen: map[string]string{}}
	c := compile(t, p, map[string]doFn{"split": split(n), "write": collector,
		"kv": slowly(time.Millisecond, func(c *call) error {
			var i int
			fmt.Sscan(text(c.element), &i)
			c.emit(kvOf(fmt.Sprint("k", i%k), fmt.Sprint(i, ":", rand.Uint32())))
			return nil
		}),
	})
	c.fns["s"] = s.stateless
	if len(families) > 0 {
		c.fns["s"] = slowly(time.Millisecond, s.stateful) // so that barriers come in the middle of it
	}
	return c, s
}

func (s *sightings) stateless(c *call) error {
	id, _, _ := strings.Cut(c.value(), ":")
	s.see("element "+id, c.value())
	c.emit(bytesOf(id))
	return nil
}

// drawn is what a key's state has of an attempt.
var drawn = regexp.MustCompile(`:\d+`)

func (s *sightings) stateful(c *call) error {
	bag, err := c.bundle.StateGet(c.bag("bag"))
	if err != nil {
		return err
	}
	if c.timer != nil {
		// What elements have drawn is durable before it fires: each attempt sees the same.
		s.see(fmt.Sprint("timer ", c.key(), " ", strings.Count(string(bag), "timer")), string(bag))
		return c.bundle.StateAppend(c.bag("bag"), []byte(" timer "+c.timer.family))
	}
	id, _, _ := strings.Cut(c.value(), ":")
	// Elements and timers before it are the same ones.
	s.see("element "+id, c.value()+" after "+drawn.ReplaceAllString(string(bag), ""))
	c.emit(bytesOf(id))
	c.set("clock", "", time.Now().Add(3*time.Millisecond).UnixMilli(), 1000)
	return c.bundle.StateAppend(c.bag("bag"), fmt.Appendf(nil, " %s:%d", id, rand.Uint32()))
}

// numbersOf are the first n numbers as they are collected.
func numbersOf(n int) []string {
	var all []string
	for i := range n {
		all = append(all, string(bytesOf(fmt.Sprint(i))))
	}
	slices.Sort(all)
	return all
}

// Each attempt sees the same input, in the order of each key, whatever fails: a bundle, or all of the job. So timers do too, and the
// state that they find.
func TestStableInputIsTheSameInEachAttempt(t *testing.T) {
	for name, families := range map[string][]string{"stateless": nil, "timers": {"clock", "end"}} {
		again, parked := 0, 0
		t.Run(name, func(t *testing.T) {
			eachSeed(t, 4, func(t *testing.T, seed uint64) {
				const n, k = 150, 5
				p, s := stableJob(t, n, k, families...)
				var attempts atomic.Int64
				p.after = func(_ *fnapitest.Bundle, stage *plan.Stage) error {
					if stage.Transforms[0] == "s" && attempts.Add(1)%5 == 0 {
						return errors.New("not today")
					}
					return nil
				}
				r := newRig(t, p.script)
				r.cfg.Attempts = 100
				v := newRecovery(t, r, seed)
				v.with = []protocol.PartKind{protocol.Parked, protocol.Parked, protocol.Parked}
				v.to(p.plan, 8)
				if diff := cmp.Diff(numbersOf(n), slices.Compact(p.got("write"))); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				again += s.again
				parked += v.found[protocol.Parked]
			})
		})
		if again == 0 || parked == 0 {
			t.Errorf("%s: %d were seen again, and jobs went on from %d checkpoints with input that waited for them", name, again, parked)
		}
	}
}

// Without checkpoints nothing waits: what is tried again is in memory.
func TestStableInputWaitsForNoCheckpointWhereThereAreNone(t *testing.T) {
	const n = 50
	p, _ := stableJob(t, n, 5, "clock", "end")
	newRig(t, p.script).mustRun(p.plan)
	if diff := cmp.Diff(numbersOf(n), p.got("write")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What waits for checkpoints may be much more than tasks may hold, and checkpoints go round what waits for that.
func TestStableInputIsBounded(t *testing.T) {
	const n = 200
	p, s := stableJob(t, n, 5)
	p.fns["kv"] = func(c *call) error {
		c.emit(kvOf("k", text(c.element)+":"+strings.Repeat("x", 1<<20)))
		return nil
	}
	p.fns["s"] = func(c *call) error {
		id, _, _ := strings.Cut(c.value(), ":")
		s.see(id, "")
		c.emit(bytesOf(id))
		return nil
	}
	r := newRig(t, p.script)
	r.cfg.MemoryBytes = LeastMemoryBytes
	r.cfg.HeldBytes = 4 << 20
	v := newRecovery(t, r, 1)
	most := int64(0)
	v.checked = func(m *protocol.Manifest) {
		for _, task := range m.Tasks {
			for _, part := range task.Parts {
				if part.Kind == protocol.Parked {
					most = max(most, part.Span.Length)
				}
			}
		}
	}
	v.to(p.plan, 2)
	if diff := cmp.Diff(numbersOf(n), slices.Compact(p.got("write"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if most == 0 || most > 16<<20 {
		t.Errorf("tasks held %d bytes at the most", most)
	}
}
