package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/rpc"
)

// counters is a pipeline whose "source" is an unbounded splittable DoFn: each of
// its restrictions counts up, from where it is, for ever.
type counters struct {
	*program
	rig *rig
	// tick is the time from one number to the next.
	tick time.Duration
	// delay, if not 0, is how long a restriction wants to rest after a few numbers.
	delay time.Duration
	// reluctant bundles don't split when they are asked first.
	reluctant bool
	asked     sync.Map // bundles of "source", by *fnapitest.Bundle
	// fails tells whether an attempt fails at its end.
	fails func() bool
	// ceiling, if not 0, is how far restrictions count for now.
	ceiling atomic.Int64

	walks     sync.Map // of bundles of "source" that have their input, by *fnapitest.Bundle
	mu        sync.Mutex
	ran       map[string]*process // who ran the bundle that succeeded
	finalized map[string]int
}

// truncatedTo is how far a restriction still counts when it is truncated.
const truncatedTo = 7

func newCounters(t *testing.T, restrictions int) *counters {
	return countersIn(t, portabletest.New(), restrictions)
}

// countersIn adds the pipeline to another, which has no transform of the SDK but identities.
func countersIn(t *testing.T, p *portabletest.Pipeline, restrictions int) *counters {
	p.Environment(pEnv, "", urns.TransformSDFTruncateSized)
	payload := &pipepb.ParDoPayload{RestrictionCoderId: pBytes, RequestsFinalization: true}
	out := p.ParDoWith("source", pEnv, payload, pBytes, p.Impulse("impulse"))
	p.Proto.Components.Pcollections[out].IsBounded = pipepb.IsBounded_UNBOUNDED
	timed := p.ParDoWith("timer", pEnv, payloadOf("f"), pBytes, p.ParDo("key", pEnv, pKV, out))
	for _, id := range []string{p.ParDo("write", pEnv, pBytes, out), timed, p.ParDo("fired", pEnv, pBytes, timed)} {
		p.Proto.Components.Pcollections[id].IsBounded = pipepb.IsBounded_UNBOUNDED
	}
	c := &counters{tick: time.Millisecond, fails: func() bool { return false }, ran: map[string]*process{}, finalized: map[string]int{}}
	c.program = compile(t, p, map[string]doFn{
		"source/PairWithRestriction": func(c *call) error {
			c.emit(slices.Concat(c.element, bytesOf("")))
			return nil
		},
		"source/SplitAndSize": func(c *call) error {
			for i := range restrictions {
				c.emit(restriction(i, 0, 1<<30))
			}
			return nil
		},
		"write": collector,
		"key": func(c *call) error {
			c.emit(kvOf("k", text(c.element)))
			return nil
		},
		"timer": func(c *call) error {
			if c.timer != nil {
				c.emit(bytesOf("passed"))
			} else {
				c.set("f", "", 5, 5)
			}
			return nil
		},
		"fired":         collector,
		"test/Encode/a": unprefix,
	})
	c.rig = newRig(t, c.script)
	c.rig.cfg.Attempts = 100
	return c
}

// restriction is an element of "source": ((id, from-to), size).
func restriction(id, from, to int) []byte {
	return slices.Concat(kvOf(fmt.Sprint(id), fmt.Sprintf("%d-%d", from, to)), make([]byte, 8))
}

// counting is a bundle of "source".
type counting struct {
	mu       sync.Mutex
	elements [][]byte
	truncate bool
	at       int // the current element
	bound    int // elements that it has not given away
	id       int
	from     int
	next, to int // of the current element
	cut      bool
	out      []byte
	ceiling  *atomic.Int64
}

func (w *counting) begin() (err error) {
	if w.at < w.bound {
		e := w.elements[w.at]
		id := text(e)
		if w.id, err = fmt.Sscanf(text(e[len(bytesOf(id)):]), "%d-%d", &w.next, &w.to); err != nil {
			return err
		}
		fmt.Sscan(id, &w.id)
		w.from, w.cut = w.next, false
		if w.truncate {
			w.to = min(w.to, w.next+truncatedTo)
		}
	}
	return nil
}

// step counts one up, and reports whether there is more to do in this bundle.
func (w *counting) step() (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at >= w.bound {
		return false, nil
	}
	if c := w.ceiling.Load(); c > 0 && w.next >= int(c) && w.next < w.to {
		return true, nil
	}
	if w.next < w.to {
		w.out = append(w.out, windowed(0, bytesOf(fmt.Sprintf("%d:%d", w.id, w.next)))...)
		w.next++
	}
	if w.next < w.to {
		return true, nil
	}
	w.at++
	return w.at < w.bound, w.begin()
}

func (w *counting) root(from, to int) *fnpb.BundleApplication {
	return &fnpb.BundleApplication{TransformId: "source", InputId: "i0", Element: windowed(0, restriction(w.id, from, to)),
		OutputWatermarks: map[string]*timestamppb.Timestamp{"o0": timestamppb.New(time.UnixMilli(int64(from)))}}
}

func (c *counters) script(me *process) fnapitest.Script {
	return fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			s := c.stage(b)
			if !s.Exec.Splittable {
				return c.process(b)
			}
			return c.count(me, b, s)
		},
		Split: func(b *fnapitest.Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			w, ok := c.walks.Load(b)
			if _, again := c.asked.LoadOrStore(b, nil); !ok || c.reluctant && !again {
				return &fnpb.ProcessBundleSplitResponse{}
			}
			return c.split(b, w.(*counting), req.GetDesiredSplits()[c.stage(b).Exec.Source])
		},
		Finalize: func(bundle string) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.ran[bundle] != me {
				c.t.Errorf("bundle %s is finalised where it did not succeed", bundle)
			}
			c.finalized[bundle]++
			return errors.New("a callback that fails is nobody's concern")
		},
	}
}

func (c *counters) split(b *fnapitest.Bundle, w *counting, d *fnpb.ProcessBundleSplitRequest_DesiredSplit) *fnpb.ProcessBundleSplitResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.GetFractionOfRemainder() != 0 || int(d.GetEstimatedInputElements()) != len(w.elements) {
		c.t.Errorf("asked for %v", d)
	}
	if w.at >= w.bound || w.cut {
		return &fnpb.ProcessBundleSplitResponse{}
	}
	resp := &fnpb.ProcessBundleSplitResponse{
		ChannelSplits: []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{TransformId: c.stage(b).Exec.Source,
			LastPrimaryElement: int64(w.at) - 1, FirstResidualElement: int64(w.at) + 1}},
		PrimaryRoots:  []*fnpb.BundleApplication{w.root(w.from, w.next)},
		ResidualRoots: []*fnpb.DelayedBundleApplication{{Application: w.root(w.next, w.to)}},
	}
	w.to, w.bound, w.cut = w.next, w.at+1, true
	return resp
}

func (c *counters) count(me *process, b *fnapitest.Bundle, s *plan.Stage) error {
	w := &counting{ceiling: &c.ceiling, truncate: b.Descriptor.GetId() != "job/"+s.ID}
	for in, err := range b.Input() {
		if err != nil {
			return err
		}
		var el coders.Element
		for rest := in.Data; len(rest) > 0; rest = rest[el.Size:] {
			if err := s.In[0].Coder.Next(rest, &el); err != nil {
				return err
			}
			header := el.Size - len(el.Key) - len(el.Value)
			w.elements = append(w.elements, rest[header:el.Size])
		}
	}
	w.bound = len(w.elements)
	if err := w.begin(); err != nil {
		return err
	}
	c.walks.Store(b, w)
	resp := &fnpb.ProcessBundleResponse{RequiresFinalization: true}
	for n := 1; ; n++ {
		if more, err := w.step(); err != nil || !more {
			if err != nil {
				return err
			}
			break
		}
		if c.delay > 0 && n == 3 {
			w.mu.Lock()
			if w.at < w.bound && w.next < w.to {
				resp.ResidualRoots = []*fnpb.DelayedBundleApplication{{Application: w.root(w.next, w.to), RequestedTimeDelay: durationpb.New(c.delay)}}
				w.to, w.cut = w.next, true
			}
			w.mu.Unlock()
		}
		select {
		case <-time.After(c.tick):
		case <-me.stop:
			return errors.New("stopped")
		}
	}
	if c.fails() {
		return errors.New("not today")
	}
	if err := b.Emit(s.Exec.Sinks[0], w.out); err != nil {
		return err
	}
	c.mu.Lock()
	c.ran[b.ID] = me
	c.mu.Unlock()
	return errors.Join(b.Terminate(), b.Respond(resp))
}

// numbers returns what has been written of each restriction, in order.
func (c *counters) numbers() map[int][]int {
	all := map[int][]int{}
	for _, e := range c.got("write") {
		var id, n int
		fmt.Sscanf(text([]byte(e)), "%d:%d", &id, &n)
		all[id] = append(all[id], n)
	}
	for _, n := range all {
		slices.Sort(n)
	}
	return all
}

// drained drains the job and checks what was written in all.
func (c *counters) drained(t *testing.T, run rpc.Execution, restrictions int) {
	t.Helper()
	before := c.numbers()
	run.Drain()
	run.Drain()
	if err := c.rig.wait(run); err != nil {
		t.Fatal(err)
	}
	after := c.numbers()
	for id := range restrictions {
		for want, n := range after[id] {
			if n != want {
				t.Fatalf("restriction %d: %d after %d numbers, something is lost or doubled", id, n, want)
			}
		}
		if len(after[id]) < len(before[id])+truncatedTo {
			t.Errorf("restriction %d has written %d numbers before the drain and %d in all", id, len(before[id]), len(after[id]))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for bundle := range c.ran {
		if n := c.finalized[bundle]; n != 1 {
			t.Errorf("bundle %s is finalised %d times", bundle, n)
		}
	}
}

func TestUnboundedWorkIsCommittedAsItGoes(t *testing.T) {
	for name, change := range map[string]func(*counters){
		"interrupted":           func(*counters) {},
		"interrupted and tried": func(c *counters) { c.fails = func() bool { return rand.IntN(3) == 0 } },
		"checkpoints by itself": func(c *counters) { c.delay = 5 * time.Millisecond },
		"both": func(c *counters) {
			c.delay = 15 * time.Millisecond
			c.tick = 5 * time.Millisecond
			c.fails = func() bool { return rand.IntN(4) == 0 }
		},
	} {
		t.Run(name, func(t *testing.T) {
			const restrictions = 20 // more than bundles at once
			c := newCounters(t, restrictions)
			change(c)
			e := c.rig.deploy(context.Background(), c.plan)
			testkit.Eventually(t, patience, "ten numbers of each restriction", func() bool {
				all := c.numbers()
				for id := range restrictions {
					if len(all[id]) < 10 {
						return false
					}
				}
				return len(c.got("fired")) > 0 // the watermark has moved on
			})
			c.drained(t, e, restrictions)
		})
	}
}

// Beside a TestStream time stands still while bundles run; they are interrupted all the same.
func TestUnboundedWorkBesideTestStreams(t *testing.T) {
	p := portabletest.New()
	testStream(p, "test", []string{"a"}, elements("a", "k=1@10"), pass(time.Hour))
	c := countersIn(t, p, 1)
	c.rig.cfg.Checkpoints.Most = 10 * time.Millisecond
	c.reluctant = true
	e := c.rig.deploy(context.Background(), c.plan)
	testkit.Eventually(t, patience, "numbers of many bundles", func() bool { return len(c.numbers()[0]) >= 50 })
	c.drained(t, e, 1)
}

// A TestStream stops where it is when its job is drained, and what came is grouped.
func TestDrainStopsTestStreams(t *testing.T) {
	p := portabletest.New()
	outs := testStream(p, "test", []string{"a"}, elements("a", "k=1@10", "k=2@20"), elements("a", "k=drain@30"), elements("a", "k=4@40"))
	first := p.ParDo("first", pEnv, pKV, outs[0])
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", first)))
	run := make(chan rpc.Execution, 1)
	c := compile(t, p, map[string]doFn{
		"test/Encode/a": unprefix,
		"first": func(c *call) error {
			if strings.Contains(string(c.element), "drain") {
				e := <-run
				e.Drain()
			}
			c.emit(c.element)
			return nil
		},
		"ungroup": ungroup,
		"write":   collector,
	})
	r := newRig(t, c.script)
	e := r.deploy(context.Background(), c.plan)
	run <- e
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	want := []string{string(bytesOf("k=1")), string(bytesOf("k=2")), string(bytesOf("k=drain"))}
	slices.Sort(want)
	if got := c.got("write"); !slices.Equal(got, want) {
		t.Errorf("written: %q", got)
	}
}
