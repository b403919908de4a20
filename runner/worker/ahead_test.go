package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
)

// dirty is a task that has so many bytes only in memory, and as many again every so often.
type dirty struct {
	*task
	quiet
	bytes, more int
	every       time.Duration
	since       time.Time
	// left is what it had at its barriers.
	left []int
}

func (d *dirty) act(context.Context) (time.Time, bool, error) {
	for now := time.Now(); now.Sub(d.since) >= d.every; d.since = d.since.Add(d.every) {
		d.bytes += d.more
	}
	return d.since.Add(d.every), false, nil
}

func (d *dirty) deliver(exchange.Message) error { return nil }

func (d *dirty) flush(bytes int) (bool, error) {
	d.bytes -= min(bytes, d.bytes)
	<-time.After(time.Millisecond)
	return d.bytes == 0, nil
}

func (d *dirty) snapshot(*snapshot) error {
	d.left = append(d.left, d.bytes)
	d.bytes = 0
	return nil
}

// Most of what is only in memory is in the store when a barrier comes that was to be expected.
func TestTasksWriteAheadOfBarriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every, perSecond = 10 * time.Millisecond, 5 << 20
		e := lonely(&plan.Plan{})
		own := &task{e: e, inbox: exchange.NewInbox(100), outbox: exchange.NewOutbox(nil), aligner: engine.NewAligner[exchange.Message](0)}
		x := &dirty{task: own, every: every, more: perSecond / 100, since: time.Now()}
		e.snapshots = (*snapshot).drop
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- loop(ctx, own, x) }()
		const barriers = 10
		for epoch := range uint64(barriers) {
			<-time.After(time.Second)
			own.inbox.Put(exchange.Message{Kind: exchange.Announcement, Epoch: epoch + 1})
		}
		synctest.Wait()
		cancel()
		<-ended
		if len(x.left) != barriers || x.left[0] < perSecond*9/10 {
			t.Fatalf("%d bytes left", x.left)
		}
		for _, left := range x.left[1:] { // from when on it knows the interval
			if left > perSecond/40 {
				t.Errorf("%d bytes left, want a fortieth of what comes between barriers", x.left)
				break
			}
		}
	})
}
