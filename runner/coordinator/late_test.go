package coordinator

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
)

// said returns the job's messages that begin so.
func (r *rig) said(beginning string) (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages {
		if strings.HasPrefix(m, beginning) {
			texts = append(texts, m)
		}
	}
	return texts
}

// A store that is away for ten minutes: the job runs, its log says so, and a checkpoint is there within an interval after.
func TestOutagesAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		store := checkpointingtest.NewFaulty(r.store, 1, checkpointingtest.Faults{})
		r.under = store
		r.start(ctx, t)
		sleep(25 * time.Second)
		store.Set(checkpointingtest.Faults{Unavailable: 1})
		sleep(10 * time.Minute)
		if got := r.complete(); !slices.Equal(got, []uint64{1, 2}) {
			t.Errorf("complete %v", got)
		}
		late := r.said("there was no checkpoint for 30s, and one is due every 10s")
		if len(late) != 1 || len(r.said("there was no checkpoint")) != 1 {
			t.Errorf("said %q", r.said(""))
		}
		if got := r.said("the store of checkpoints failed, and is asked again"); len(got) != 10 || !strings.Contains(got[0], "503 by chance") {
			t.Errorf("said %q", got)
		}
		if n := len(r.run(1).said()); n != 2 || r.run(2) != nil {
			t.Errorf("tasks were told of %d, and there are %d runs", n, len(r.runs))
		}
		store.Set(checkpointingtest.Faults{})
		sleep(10 * time.Second)
		if got := r.complete(); len(got) < 3 {
			t.Errorf("complete %v", got)
		}
		if got := r.said("checkpoint 3 is complete: there are checkpoints again"); len(got) != 1 {
			t.Errorf("said %q", r.said(""))
		}
		sleep(time.Hour)
		if got := len(r.said("there was no checkpoint")); got != 1 {
			t.Errorf("%d warnings", got)
		}
	})
}

// Nobody waits for checkpoints that are taken only when they are asked for.
func TestNoCheckpointsAreLateWithoutInterval(t *testing.T) {
	l := newLateness(0, time.Now())
	if l.wait(time.Now().Add(time.Hour)) < time.Hour {
		t.Error("something is to be told")
	}
}
