package worker

import (
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/runner/exchange"
)

// announce tells all tasks that an epoch has begun. Those whose channels have all come to their end, sources
// first of all, put its barrier into what they send; the others wait for it. Each epoch that
// begins must be announced, in order and though it may have come to nothing since: barriers
// are counted on all channels. One caller at a time; it doesn't wait.
func (e *execution) announce(epoch uint64) {
	e.tell(exchange.Announcement, epoch)
}

// align takes the snapshots of epochs whose barriers have come on all channels.
func align[R any](t *task, o owner[R]) error {
	for {
		epoch, ok := t.aligner.Aligned()
		if !ok {
			return nil
		}
		if err := passBarrier(t, o, epoch); err != nil {
			return err
		}
		for {
			_, m, ok := t.aligner.Next()
			if !ok {
				break
			}
			if err := o.deliver(m); err != nil {
				return err
			}
		}
	}
}

// passBarrier takes the snapshot of an epoch, unless that has come to nothing, and passes its barrier on.
func passBarrier[R any](t *task, o owner[R], epoch uint64) error {
	s := &snapshot{task: t, epoch: epoch}
	t.epoch = epoch
	t.ahead.passed(t.e.clock.Now())
	wanted := t.e.wants(s)
	if wanted {
		failpoint.Hit(failpoint.BeforeSnapshot)
		if err := o.snapshot(s); err != nil {
			s.drop()
			return err
		}
		s.counted = t.e.stats.counted(t)
	}
	s.outbox = t.outbox.Barrier(epoch)
	if s.endsHold != 0 && s.endsHold == t.holding {
		t.holdBack(0, o)
	}
	switch {
	case !wanted:
		s.drop()
	case t.e.snapshots != nil:
		t.e.snapshots(s)
	default:
		t.e.checkpoints.upload(s)
	}
	return nil
}
