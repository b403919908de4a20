package worker

import (
	"context"
	"time"

	"github.com/lintelrun/lintel/runner/exchange"
)

// owner is a kind of task as its loop sees it; R is what goroutines of the task have for it. The
// task's goroutine calls all methods. None of them waits for credit or a bundle: a
// barrier that comes meanwhile would wait with it (DESIGN.md, rule 6).
type owner[R any] interface {
	// act does what there is to do. It says when it is to be called again though nothing comes, zero
	// for never, and whether all is done, the final watermark sent.
	act(ctx context.Context) (next time.Time, done bool, err error)
	// deliver takes a frame or a watermark of one of the channels.
	deliver(m exchange.Message) error
	// reports is where goroutines of the task hand things over; nil if it has none.
	reports() <-chan R
	// reported takes such a thing.
	reported(R) error
	// hold has the task hold back from what begins by itself, as engine.Task.Hold has it, or lets it go on.
	hold(on bool)
	// atRest tells whether nothing is under way in a task that holds back, when act has done what there was to do.
	atRest() bool
	// drain is called once if the job is drained while the task runs.
	drain()
	// durable is told of checkpoints that are complete.
	durable(epoch uint64)
	// flush writes about so many bytes of what is only in memory to the store, and tells whether that was all.
	flush(bytes int) (all bool, err error)
	// snapshot adds to s what the kind of task has at a barrier. It pins and does no more.
	snapshot(s *snapshot) error
}

// quiet is the part of an owner that has no goroutines, and nothing of its own to do when the job is drained, holds back or has a checkpoint.
type quiet struct{}

func (quiet) reports() <-chan struct{} { return nil }
func (quiet) reported(struct{}) error  { return nil }
func (quiet) drain()                   {}
func (quiet) hold(bool)                {}
func (quiet) atRest() bool             { return true }
func (quiet) durable(uint64)           {}

// inStore is the part of an owner that has nothing only in memory that a store is to have.
type inStore struct{}

func (inStore) flush(int) (bool, error) { return true, nil }

// loop is the life of a task: it does what there is to do and waits for more, until all is done, what it
// has sent is delivered, and its bundles that ask for it are durable. Whatever the task is at, it is here again soon, and takes part in checkpoints.
func loop[R any](ctx context.Context, t *task, o owner[R]) error {
	wake := t.e.clock.newAlarm()
	defer wake.stop()
	drain, done := t.e.draining.asked, false
	t.ahead.begin(t.e.clock.Now())
	for {
		// Cancelled bundles come back as failed ones; they are no reason to try again.
		if err := ctx.Err(); err != nil {
			return err
		}
		if !done {
			next, last, err := o.act(ctx)
			if err != nil {
				return err
			}
			if next, err = writeAhead(t, o, next); err != nil {
				return err
			}
			done = last
			wake.set(next)
		}
		if done && t.outbox.Waiting() == 0 && t.unfinalized.Load() == 0 {
			return nil
		}
		t.rest(o)
		t.settle()
		var err error
		select {
		case <-t.inbox.C:
			err = receive(t, o)
		case r := <-o.reports():
			t.held++ // what the goroutine was at is ours now
			err = o.reported(r)
		case <-t.outbox.Credit:
			err = t.outbox.Flush()
		case <-wake.C:
			t.held++
		case <-drain:
			o.drain()
			drain = nil
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// receive hands what has arrived to the task, but for what follows barriers, which waits until
// these have come on all channels.
func receive[R any](t *task, o owner[R]) error {
	for _, m := range t.take() {
		if m.Travels() {
			t.received++
		}
		switch m.Kind {
		case exchange.Hold:
			t.holdBack(m.Epoch, o)
		case exchange.Resume:
			if t.holding == m.Epoch {
				t.holdBack(0, o)
			}
		case exchange.Probe:
			t.probe = m.Epoch
		case exchange.Announcement:
			t.aligner.Announce(m.Epoch)
		case exchange.Barrier:
			t.aligner.Barrier(m.Channel, m.Epoch)
		case exchange.Complete:
			o.durable(m.Epoch)
		default:
			if !t.aligner.Take(m.Channel, m, m.Final()) {
				continue
			}
			if err := o.deliver(m); err != nil {
				return err
			}
		}
		if err := align(t, o); err != nil {
			return err
		}
	}
	return nil
}
