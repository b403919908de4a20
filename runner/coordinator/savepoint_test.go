package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

func TestSavepoints(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		sleep(12 * time.Second)
		m, err := j.Savepoint(ctx, "file:///one")
		if err != nil {
			t.Fatal(err)
		}
		if begun := r.run(1).begun; len(begun) != 2 || begun[1].Savepoint == "" || begun[0].Savepoint != "" {
			t.Errorf("begun were %+v", begun)
		}
		if !m.Savepoint || m.Epoch != 2 || m.Job.Name != "job" {
			t.Errorf("manifest %+v", m)
		}
		if err := checkpointing.Verify(ctx, r.savepoints["file:///one"], m); err != nil {
			t.Error(err)
		}
		if c := r.checkpoints[1]; c.Savepoint != "file:///one" {
			t.Errorf("recorded is %+v", c)
		}
		if _, err := j.Savepoint(ctx, "file:///one"); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("a second one at the same place: %v", err)
		}
		r.run(1).result <- nil
		wantWait(t, j, nil)
		if _, err := j.Savepoint(ctx, "file:///two"); fault.ClassOf(err) != fault.Retryable {
			t.Errorf("after the end: %v", err)
		}

		// Another job begins with it, and has it still after a failure before its first checkpoint.
		from := newRig(t, map[string]any{"restore_from": "file:///one", "restart_delay": "1s"})
		from.savepoints = r.savepoints
		from.spec.ID = "job-2"
		from.start(ctx, t)
		for n := 1; n <= 2; n++ {
			e := from.run(n)
			if e == nil || e.d.Restore == nil || !e.d.Restore.Manifest.Savepoint || !slices.Equal(e.restored, []int{2, 2, 2}) {
				t.Fatalf("run %d has %+v", n, e)
			}
			e.result <- fault.New(fault.Retryable, "lost")
			sleep(3 * time.Second)
		}
	})
}

func TestSavepointsThatDoNotFitAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		if _, err := j.Savepoint(ctx, "file:///one"); err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			options map[string]any
			want    string
		}{
			"no such savepoint": {map[string]any{"restore_from": "file:///none"}, "there is no savepoint at file:///none"},
			"renamed":           {map[string]any{"restore_from": "file:///one"}, `"Other"`},
			"mapped":            {map[string]any{"restore_from": "file:///one", "transform_name_mapping": `{"Group": "Other"}`}, ""},
			"dropped":           {map[string]any{"restore_from": "file:///one", "allow_dropped_state": "Group"}, ""},
		} {
			other := newRig(t, c.options)
			other.savepoints = r.savepoints
			other.spec.Plan.Stages[1].Group.Name = "Other"
			_, err := other.tryStart(ctx, t)
			if c.want == "" && err != nil || c.want != "" && (fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// A run that comes to its end in the middle of a savepoint answers whoever asked.
func TestSavepointsOfRunsThatEnd(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		r.onBarrier = func(*execution, protocol.Begun) {}
		j := r.start(ctx, t)
		answer := make(chan error, 1)
		go func() {
			_, err := j.Savepoint(ctx, "file:///one")
			answer <- err
		}()
		sleep(time.Second)
		r.run(1).result <- nil
		if err := <-answer; fault.ClassOf(err) != fault.Retryable {
			t.Errorf("answered %v", err)
		}
	})
}

// Whoever asked for a savepoint may go: it is taken all the same, and its folder closed then.
func TestSavepointsGoOnWithoutThoseWhoAsked(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		r.onBarrier = func(e *execution, b protocol.Begun) {
			time.AfterFunc(3*time.Second, func() { e.answer(b) })
		}
		j := r.start(ctx, t)
		impatient, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := j.Savepoint(impatient, "file:///one"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the one who asked is told %v", err)
		}
		if to := r.savepoints["file:///one"]; to.closed.Load() {
			t.Error("the folder is closed before the savepoint is there")
		}
		sleep(3 * time.Second)
		to := r.savepoints["file:///one"]
		if m, err := checkpointing.ReadSavepoint(ctx, to); err != nil || m.Epoch != 1 || !to.closed.Load() {
			t.Errorf("there is %+v, %v; closed %v", m, err, to.closed.Load())
		}
		r.run(1).result <- nil
		wantWait(t, j, nil)
	})
}
