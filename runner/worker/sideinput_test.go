package worker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// "blow" produces 20 MB, which are main and side input of "use". The main input
// cannot be used before the last of it was produced, and neither inboxes nor
// memory hold it until then.
func TestMainInputWaitsForSideInput(t *testing.T) {
	const n, size = 20, 512 << 10
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	blown := p.ParDo("blow", pEnv, pBytes, p.Reshuffle("spread", pBytes, numbers))
	p.ParDo("write", pEnv, pBytes, p.ParDo("use", pEnv, pBytes, blown, blown))
	var bundles sync.Map
	var reads atomic.Int32 // the first bundles would see if it was not complete
	c := compile(t, p, map[string]doFn{
		"split": split(n),
		"blow": func(c *call) error {
			c.emit(bytesOf(text(c.element) + strings.Repeat("x", size)))
			return nil
		},
		"use": func(c *call) error {
			c.emit(bytesOf(strings.TrimRight(text(c.element), "x")))
			if _, again := bundles.LoadOrStore(c.bundle.ID, true); again || reads.Add(1) > 4 {
				return nil
			}
			all, err := c.side("i1")
			if err != nil {
				return err
			}
			slices.Sort(all)
			if all = slices.Compact(all); len(all) != n || len(all[0]) < size {
				return fmt.Errorf("%d elements in the side input", len(all))
			}
			return nil
		},
		"write": collector,
	})
	r := newRig(t, c.script)
	r.cfg.MemoryBytes = 16 << 20
	r.mustRun(c.plan)
	if got := c.got("write"); len(got) != n || len(slices.Compact(got)) != n {
		t.Errorf("%d elements, want %d different ones", len(got), n)
	}
}

func TestEmptySideInput(t *testing.T) {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	none := p.ParDo("none", pEnv, pBytes, p.Impulse("another impulse"))
	p.ParDo("write", pEnv, pBytes, p.ParDo("use", pEnv, pBytes, numbers, none))
	c := compile(t, p, map[string]doFn{
		"split": split(10),
		"none":  func(*call) error { return nil },
		"use": func(c *call) error {
			all, err := c.side("i1")
			if err == nil && len(all) > 0 {
				err = fmt.Errorf("%d elements in the side input", len(all))
			}
			c.emit(c.element)
			return err
		},
		"write": collector,
	})
	newRig(t, c.script).mustRun(c.plan)
	if got := c.got("write"); len(got) != 10 {
		t.Errorf("%d elements, want 10", len(got))
	}
}

// A side input whose producer fails is never there; the error is that of the producer.
func TestSideInputOfAFailingProducer(t *testing.T) {
	p := portabletest.New()
	numbers := p.ParDo("split", pEnv, pBytes, p.Impulse("impulse"))
	side := p.ParDo("fail", pEnv, pBytes, p.Impulse("another impulse"))
	p.ParDo("use", pEnv, pBytes, numbers, side)
	c := compile(t, p, map[string]doFn{
		"split": split(10),
		"fail":  func(*call) error { return fmt.Errorf("no luck at all") },
		"use":   collector,
	})
	_, err := newRig(t, c.script).run(c.plan)
	if err == nil || !strings.Contains(err.Error(), "no luck at all") {
		t.Errorf("error %v", err)
	}
	if got := c.got("use"); len(got) > 0 {
		t.Errorf("elements were processed without their side input: %q", got)
	}
}

func TestParkingKeepsOrderOnDiskAndInMemory(t *testing.T) {
	dir := t.TempDir()
	p := parking{spill: spiller{dir: dir, budget: newBudget(1000, new(atomic.Int64))}}
	message := func(i int) exchange.Message {
		if i%5 == 4 {
			return exchange.Message{Channel: i, Kind: exchange.Watermark, Watermark: int64(i)}
		}
		f := frame.Frame{Data: []byte(fmt.Sprintf("%0100d", i)), Elements: i, MinTimestamp: int64(i)}
		return exchange.Message{Channel: i, Frame: f}
	}
	const parked, queued = 50, 70
	for i := range queued {
		if i < parked {
			if err := p.push(message(i)); err != nil {
				t.Fatal(err)
			}
		} else {
			p.queue(message(i))
		}
	}
	if p.spill.spilled() != 30*100 {
		t.Errorf("%d bytes on disk, want what exceeds the budget", p.spill.spilled())
	}
	for i := range queued - 5 {
		m, prepaid, err := p.pop()
		if err != nil {
			t.Fatal(err)
		}
		want := message(i)
		if m.Channel != want.Channel || m.Watermark != want.Watermark || m.Frame.MinTimestamp != want.Frame.MinTimestamp ||
			m.Frame.Elements != want.Frame.Elements || string(m.Frame.Data) != string(want.Frame.Data) {
			t.Fatalf("message %d is %+v", i, m)
		}
		if prepaid != (i < parked) {
			t.Errorf("message %d: prepaid is %v", i, prepaid)
		}
	}
	file := p.spill.file
	p.close()
	if file.refs != 0 || p.spill.budget.used.Load() != 0 {
		t.Errorf("%d references to the file, %d bytes of the budget used", file.refs, p.spill.budget.used.Load())
	}
}

// The credit of parked input goes back at once, that of input behind it when it
// has been committed; none of it twice.
func TestCreditOfParkedInput(t *testing.T) {
	p := portabletest.New()
	p.ParDo("use", pEnv, pBytes, p.ParDo("main", pEnv, pBytes, p.Impulse("impulse")), p.ParDo("side", pEnv, pBytes, p.Impulse("another")))
	c := compile(t, p, nil)
	r := newRig(t, nil)
	r.deployment.Plan, r.deployment.Parallelism = c.plan, 1
	if err := r.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	var x *execTask
	for _, task := range newExecution(r.cfg, r.deployment, t.TempDir(), new(atomic.Int64)).tasks {
		if task.stage.Exec != nil && task.stage.Exec.Transforms[0] == "use" {
			var err error
			if x, err = newExecTask(t.Context(), task, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer x.parked.close()
	now := time.Unix(0, 0)
	arrived := 0
	put := func(n int) {
		element := append(coders.AppendHeader(nil, 0, 1, nil, []byte{coders.PaneNoFiring}), bytesOf(strings.Repeat("x", 1<<20-16))...)
		for range n {
			arrived++
			x.inbox.Put(exchange.Message{Frame: frame.Frame{Data: element, Elements: 1, MinTimestamp: int64(-arrived)}})
		}
		if err := receive(x.task, x); err != nil {
			t.Fatal(err)
		}
		if err := x.unpark(); err != nil {
			t.Fatal(err)
		}
	}
	wantUsed := func(want int) {
		t.Helper()
		if got := x.inbox.Used() >> 20; got != want {
			t.Errorf("%d MiB have no credit, want %d", got, want)
		}
	}
	elements, done := 0, false
	work := func() {
		ready, err := x.core.Ready(now)
		if err != nil {
			t.Fatal(err)
		}
		x.repay(ready.Consumed)
		done = done || ready.Done
		if ready.Advanced && elements < 35 && ready.Watermark > -35 {
			t.Fatalf("watermark %d after %d elements: it has overtaken parked input", ready.Watermark, elements)
		}
		for _, b := range ready.Start {
			elements += b.Elements
			x.core.Succeeded(b.ID, engine.Result{}, now)
		}
	}

	put(30)
	wantUsed(0)
	x.inbox.Put(exchange.Message{Channel: 1, Kind: exchange.Watermark, Watermark: frame.MaxTimestamp})
	put(5)
	x.inbox.Put(exchange.Message{Channel: 0, Kind: exchange.Watermark, Watermark: frame.MaxTimestamp})
	put(0)
	wantUsed(5)
	for range 20 {
		work()
		put(0)
	}
	wantUsed(0)
	if !done || x.prepaid != 0 {
		t.Errorf("%d elements of 35, done: %v; %d bytes are still prepaid", elements, done, x.prepaid)
	}
}
