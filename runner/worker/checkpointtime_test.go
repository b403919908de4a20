package worker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing/protocol"
)

// A harness that takes 30 s for an element holds up no checkpoint: all kinds of tasks answer within a second while
// bundles run and channels are full.
func TestCheckpointsTakeNoTimeOfHarnesses(t *testing.T) {
	const element, limit, checkpoints = 30 * time.Second, time.Second, 9
	large := func(c *call) error {
		c.emit(kvOf("k"+text(c.element)[:1], text(c.element)+strings.Repeat(" ", 30<<10)))
		return nil
	}
	for name, c := range map[string]struct {
		made  func(t *testing.T) *program
		hangs string // the transform that takes so long
		with  []protocol.PartKind
	}{
		"full channels": {func(t *testing.T) *program { return shuffle(t, 140, 7, large) }, "ungroup", []protocol.PartKind{protocol.Inbox, protocol.Outbox}},
		"state":         {func(t *testing.T) *program { return stateful(t, 150, 7, totals, "f") }, "s", []protocol.PartKind{protocol.Inbox}},
		"behind groups": {func(t *testing.T) *program { return shuffle(t, 300, 7, nil) }, "kv", []protocol.PartKind{protocol.Inbox}},
		"TestStream":    {func(t *testing.T) *program { p, _ := earlyPanes(t); return p }, "write", []protocol.PartKind{protocol.State, protocol.Position}},
		"large panes":   {func(t *testing.T) *program { return largePanes(t, 300, 3000, 50) }, "ungroup", []protocol.PartKind{protocol.Inbox, protocol.Spool}},
		"residuals":     {func(t *testing.T) *program { p, _ := countdown(t, "20", time.Millisecond); return p }, "ungroup", []protocol.PartKind{protocol.Inbox}},
		"side inputs": {func(t *testing.T) *program {
			return newSidePipeline(t, 10, 20, nil, nil,
				elements("main", "a=1@1", "b=2@11", "c=3@41"), elements("side", "k=x@2", "k=y@12"), watermark("side", 40),
			).program
		}, "use", []protocol.PartKind{protocol.Inbox, protocol.Parked}},
	} {
		t.Run(name, func(t *testing.T) {
			p, release := c.made(t), make(chan struct{})
			finish := sync.OnceFunc(func() { close(release) })
			var hanging atomic.Bool
			do := p.fns[c.hangs]
			p.fns[c.hangs] = func(call *call) error {
				hanging.Store(true)
				select {
				case <-release:
				case <-time.After(element):
				}
				return do(call)
			}
			r := newRig(t, p.script)
			r.cfg.MemoryBytes = LeastMemoryBytes
			v := newRecovery(t, r, 0)
			if !inPanes(p.plan) {
				t.Fatal("this plan takes no checkpoints")
			}
			r.deployment.Plan = p.plan
			from, began := 0, time.Now()
			v.run(func() bool {
				if time.Since(began) > element {
					t.Errorf("%d checkpoints in %v, %d of them while %s hangs, or without one of the parts %v", v.taken, element, v.taken-from, c.hangs, c.with)
					finish()
					return true
				}
				if !hanging.Load() || v.newest == nil || slices.ContainsFunc(c.with, func(k protocol.PartKind) bool { return !v.has(k) }) {
					from = v.taken
					return false
				}
				if v.taken < from+checkpoints {
					return false
				}
				finish()
				return true
			})
			if t.Failed() {
				return
			}
			took := slices.Sorted(slices.Values(v.took[from:]))
			t.Logf("%v at the median, %v at the most", took[len(took)/2], took[len(took)-1])
			if took[len(took)/2] > limit {
				t.Errorf("checkpoints took %v", took)
			}
		})
	}
}
