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
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
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

// A job that is stopped takes its savepoint with sources that stay held, has bundles finalised, and ends.
func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		sleep(12 * time.Second)
		m, err := j.Stop(ctx, "file:///one", false)
		if err != nil || !m.Savepoint {
			t.Fatalf("%+v, %v", m, err)
		}
		wantWait(t, j, ErrStopped)
		if got, want := r.run(1).held, []string{"quiet true", "finalized"}; !slices.Equal(got, want) {
			t.Errorf("tasks were told %q, not %q", got, want)
		}
		if r.run(2) != nil {
			t.Error("it has started again")
		}
		if _, err := j.Stop(ctx, "file:///two", false); fault.ClassOf(err) != fault.Retryable {
			t.Errorf("stopped again: %v", err)
		}
	})
}

// Where the savepoint of a stop comes to nothing the job goes on, and so do checkpoints.
func TestStopThatFails(t *testing.T) {
	for what, c := range map[string]struct {
		fail func(*rig)
		want []string
	}{
		"it gets not quiet": {
			func(r *rig) {
				r.onQuiet = func(ctx context.Context, _ *execution) error { <-ctx.Done(); return ctx.Err() }
			},
			[]string{"quiet true", "resume"},
		},
		"a task has no snapshot": {
			func(r *rig) {
				r.onBarrier = func(e *execution, b protocol.Begun) {
					if b.Savepoint == "" {
						e.answer(b)
						return
					}
					e.answers <- rpc.Answer{Epoch: b.Epoch, Task: 1, Err: errors.New("disk full")}
				}
			},
			[]string{"quiet true", "resume"},
		},
		"the place is full": {
			func(r *rig) { r.savepoints["file:///one"] = &savepointFolder{full: true} },
			[]string{"quiet true", "resume"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
				r := newRig(t, map[string]any{"checkpoint_interval": "10s", "checkpoint_timeout": "30s"})
				c.fail(r)
				j := r.start(ctx, t)
				if m, err := j.Stop(ctx, "file:///one", false); err == nil || m != nil {
					t.Fatalf("%+v, %v", m, err)
				}
				if got := r.run(1).held; !slices.Equal(got, c.want) {
					t.Errorf("tasks were told %q, not %q", got, c.want)
				}
				before := len(r.complete())
				sleep(25 * time.Second)
				if n := len(r.complete()) - before; n < 2 {
					t.Errorf("%d checkpoints since", n)
				}
				r.run(1).result <- nil
				wantWait(t, j, nil)
			})
		})
	}
}

// A job that is drained has its savepoint when all tasks have ended, over failures too.
func TestStopAtTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, map[string]any{"checkpoint_interval": "10s", "restart_delay": "1s"})
		j := r.start(ctx, t)
		stopped := make(chan *protocol.Manifest, 1)
		go func() {
			m, err := j.Stop(ctx, "file:///one", true)
			if err != nil {
				t.Error(err)
			}
			stopped <- m
		}()
		sleep(time.Second)
		if _, err := j.Stop(ctx, "file:///two", true); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("stopped twice: %v", err)
		}
		r.run(1).result <- fault.New(fault.Retryable, "lost")
		sleep(3 * time.Second)
		e := r.run(2)
		if !e.drained {
			t.Error("it goes on")
		}
		e.result <- nil
		wantWait(t, j, nil)
		m := <-stopped
		if m == nil || slices.ContainsFunc(m.Tasks, func(t protocol.Task) bool { return !t.Ended }) {
			t.Errorf("the savepoint is %+v", m)
		}
		if _, err := j.Stop(ctx, "file:///three", true); fault.ClassOf(err) != fault.Retryable {
			t.Errorf("after the end: %v", err)
		}
	})
}

// A bounded job that begins with a savepoint takes checkpoints if anything waits for them, and can't be without.
func TestJobsThatWaitForCheckpointsTakeThem(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		if _, err := j.Savepoint(ctx, "file:///one"); err != nil {
			t.Fatal(err)
		}
		start := func(waits bool, options map[string]any) (*rig, error) {
			options["restore_from"] = "file:///one"
			from := newRig(t, options)
			from.savepoints, from.spec.ID = r.savepoints, "job-2"
			for _, s := range from.spec.Plan.Stages {
				s.Bounded = true
			}
			if waits {
				from.spec.Plan.Stages[0].Exec = &plan.ExecutableSpec{StableInput: true}
			}
			_, err := from.tryStart(ctx, t)
			return from, err
		}
		for waits, want := range map[bool]bool{false: false, true: true} {
			from, err := start(waits, map[string]any{})
			if err != nil {
				t.Fatal(err)
			}
			sleep(time.Minute)
			if got := len(from.complete()) > 0; got != want {
				t.Errorf("a job of which something waits (%t) takes checkpoints: %t", waits, got)
			}
		}
		if _, err := start(true, map[string]any{"checkpoint_interval": "0s"}); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), "wait for its checkpoints") {
			t.Errorf("without an interval: %v", err)
		}
	})
}
