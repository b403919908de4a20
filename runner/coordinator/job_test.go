package coordinator

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/runner/rpc"
)

func newReader(text string) io.ReadSeeker { return strings.NewReader(text) }

// every10 is what most tests run with.
var every10 = map[string]any{"checkpoint_interval": "10s", "restart_delay": "1s"}

// bubble runs a test in a bubble, with a context that ends before it.
func bubble(t *testing.T, test func(t *testing.T, ctx context.Context, cancel context.CancelFunc)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		test(t, ctx, cancel)
	})
}

func wantWait(t *testing.T, j *Job, want error) {
	t.Helper()
	if err := j.Wait(); !errors.Is(err, want) {
		t.Errorf("the job ended with %v, want %v", err, want)
	}
}

func TestCheckpointsAreTaken(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, cancel context.CancelFunc) {
		r := newRig(t, map[string]any{"checkpoint_interval": "10s", "checkpoint_retain": 2.0})
		j := r.start(ctx, t)
		sleep(50 * time.Second)
		if got := r.complete(); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
			t.Errorf("complete are %v; failed %q", got, r.failed())
		}
		if got := r.run(1).said(); len(got) != 5 || got[4] != "5 true" {
			t.Errorf("tasks were told %q", got)
		}
		c := r.checkpoints[1]
		if c.Generation != 1 || c.Bytes == 0 || c.NewBytes != 3 || c.Ended.Before(c.Began) {
			t.Errorf("the second is %+v: only the three counts of the tasks are new", c)
		}
		if got := manifests(t, r); !slices.Equal(got, []string{"job-1/manifest-000000000004", "job-1/manifest-000000000005"}) {
			t.Errorf("manifests %q, want those of the newest two", got)
		}
		cancel()
		wantWait(t, j, context.Canceled)
	})
}

func manifests(t *testing.T, r *rig) (names []string) {
	t.Helper()
	if err := r.store.List(t.Context(), "job-1/manifest", func(name string, _ int64) error { names = append(names, name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestJobsWithoutCheckpointsRunAsBefore(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, nil)
		r.spec.Plan.Stages[1].Bounded = true
		j := r.start(ctx, t)
		sleep(time.Hour)
		if d := r.run(1).d; d.Checkpoints != nil || d.Restore != nil || d.Generation != 1 {
			t.Errorf("deployed with %+v", d)
		}
		boom := fault.New(fault.Retryable, "a harness is lost")
		r.run(1).result <- boom
		wantWait(t, j, boom)
		if r.run(2) != nil || len(r.checkpoints) != 0 {
			t.Error("it was started again")
		}
		if _, err := j.Savepoint(ctx, "file:///s"); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("savepoint: %v", err)
		}
	})
}

// Whatever kind of failure it is that may not come again, the job goes on from its newest checkpoint.
func TestFailuresGoBackToTheNewestCheckpoint(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		j.Drain()
		sleep(20 * time.Second)
		r.run(1).result <- fault.New(fault.Retryable, "a harness is lost")
		sleep(time.Second)
		second := r.run(2)
		if second == nil || second.d.Generation != 2 || second.d.Restore == nil || second.d.Restore.Manifest.Epoch != 2 || !second.d.Restore.Same {
			t.Fatalf("the second run has %+v; %q", second, r.messages)
		}
		if !slices.Equal(second.restored, []int{2, 2, 2}) || !second.drained {
			t.Errorf("counts %v after two checkpoints; drained %v", second.restored, second.drained)
		}
		if _, m := j.Metrics(); m[0].Urn != "generation 2" {
			t.Errorf("metrics of %v", m)
		}
		sleep(10 * time.Second)
		second.result <- errors.New("a defect") // Internal
		sleep(2 * time.Second)
		if third := r.run(3); third == nil || third.d.Restore.Manifest.Epoch != 3 {
			t.Fatalf("the third run has %+v", third)
		}
		r.run(3).result <- nil
		wantWait(t, j, nil)
	})
}

// What tasks have counted goes on from the checkpoint, that of tasks which had ended too.
func TestMetricsGoOnFromTheCheckpoint(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		r.onBarrier = func(e *execution, b protocol.Begun) {
			switch b.Epoch {
			case 1:
				e.answers <- e.snapshot(b.Epoch, 0)
			case 2:
				e.answers <- rpc.Answer{Task: 0, Ended: true, Metrics: []*pipepb.MonitoringInfo{metrics.ElementCount("answers", 100)}}
			}
			e.answers <- e.snapshot(b.Epoch, 1)
			e.answers <- e.snapshot(b.Epoch, 2)
		}
		j := r.start(ctx, t)
		want := func(run int, n int64) {
			t.Helper()
			want := []*pipepb.MonitoringInfo{metrics.ElementCount("answers", n)}
			if diff := cmp.Diff(want, r.run(run).d.Restore.Counted(), protocmp.Transform()); diff != "" {
				t.Errorf("run %d (-want +got):\n%s", run, diff)
			}
		}
		sleep(10 * time.Second)
		r.run(1).result <- fault.New(fault.Retryable, "lost")
		sleep(2 * time.Second)
		want(2, 3)
		sleep(10 * time.Second)
		r.run(2).result <- fault.New(fault.Retryable, "lost")
		sleep(3 * time.Second)
		want(3, 3+100+2)
		r.run(3).answers <- rpc.Answer{Task: 0, Ended: true} // again
		sleep(10 * time.Second)
		r.run(3).result <- fault.New(fault.Retryable, "lost")
		sleep(5 * time.Second)
		want(4, 3+100+2+2)
		r.run(4).result <- nil
		wantWait(t, j, nil)
	})
}

func TestFailuresOfUserCodeAreFinal(t *testing.T) {
	for _, class := range []fault.Class{fault.UserCode, fault.Fenced, fault.Corruption, fault.Unsupported, fault.Invalid} {
		bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
			r := newRig(t, every10)
			j := r.start(ctx, t)
			boom := fault.New(class, "boom")
			r.run(1).result <- boom
			wantWait(t, j, boom)
			if r.run(2) != nil {
				t.Errorf("%v: started again", class)
			}
		})
	}
}

func TestRestartsAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, map[string]any{"checkpoint_interval": "10s", "restart_attempts": 3.0})
		boom := fault.New(fault.Retryable, "boom")
		r.onDeploy = func(e *execution) error {
			if e.d.Generation > 1 {
				return boom
			}
			return nil
		}
		began := time.Now()
		j := r.start(ctx, t)
		r.run(1).result <- boom
		wantWait(t, j, boom)
		if r.run(4) == nil || r.run(5) != nil || time.Since(began).Round(time.Second) != 7*time.Second {
			t.Errorf("%d runs in %v; want 4, after 1, 2 and 4 s", len(r.runs), time.Since(began))
		}
	})
}

func TestRestartStrategy(t *testing.T) {
	lost := fault.New(fault.Retryable, "lost")
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	r := newRestarts(options.Restart{Attempts: 2, Window: time.Minute, Delay: time.Second, MaxDelay: 3 * time.Second})
	for i, c := range []struct {
		at   int
		want time.Duration
		ok   bool
	}{{0, time.Second, true}, {10, 2 * time.Second, true}, {20, 0, false}, {61, 2 * time.Second, true}, {200, time.Second, true}} {
		if got, ok := r.next(lost, at(c.at)); got != c.want || ok != c.ok {
			t.Errorf("failure %d: %v, %v; want %v, %v", i, got, ok, c.want, c.ok)
		}
	}
	r = newRestarts(options.Restart{Always: true})
	for range 100 {
		if d, ok := r.next(lost, at(0)); !ok || d > time.Minute {
			t.Fatalf("%v, %v", d, ok)
		}
	}
	if _, ok := newRestarts(options.Restart{Never: true}).next(lost, at(0)); ok {
		t.Error("restarts though there are to be none")
	}
}

// A new process takes the job up where it was, however it ended; so does the next run after a crash in
// the middle of a checkpoint.
func TestJobsAreTakenUpByAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		life, kill := context.WithCancel(ctx)
		j := r.start(life, t)
		sleep(20 * time.Second)
		r.set(func() {
			r.onBarrier = func(e *execution, b protocol.Begun) { e.answers <- e.snapshot(b.Epoch, 0) } // one task only
		})
		sleep(10 * time.Second)
		kill()
		wantWait(t, j, context.Canceled)
		r.onBarrier = nil
		r.spec.Resumed, r.spec.AtLeast = true, 2
		j = r.start(ctx, t)
		if e := r.run(2); e.d.Restore == nil || e.d.Restore.Manifest.Epoch != 2 || e.d.Generation != 2 {
			t.Fatalf("restored %+v", e.d.Restore)
		}
		sleep(10 * time.Second)
		if got := r.complete(); !slices.Equal(got, []uint64{1, 2, 4}) {
			t.Errorf("complete are %v", got) // 3 was claimed
		}
		r.run(2).result <- nil
		wantWait(t, j, nil)
		if err := r.co.Forget(ctx, "job-1"); err != nil {
			t.Error(err)
		}
		if err := r.store.List(ctx, "", func(name string, _ int64) error { t.Errorf("%s is left", name); return nil }); err != nil {
			t.Error(err)
		}
	})
}

// An older run whose successor has begun stops, and isn't started again.
func TestReplacedRunsStop(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		old := r.start(ctx, t)
		sleep(time.Second)
		successor := r.start(ctx, t)
		sleep(20 * time.Second)
		if err := old.Wait(); fault.ClassOf(err) != fault.Fenced {
			t.Errorf("the old one ended with %v", err)
		}
		if got := len(r.runs); got != 2 {
			t.Errorf("%d runs", got)
		}
		if r.run(1).ctx.Err() == nil || r.run(2).ctx.Err() != nil {
			t.Error("the wrong one was stopped")
		}
		r.run(2).result <- nil
		wantWait(t, successor, nil)
	})
}

// A file that is found damaged while tasks restore costs that checkpoint, and not the job.
func TestDamagedCheckpointsAreSkipped(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		j := r.start(ctx, t)
		sleep(30 * time.Second)
		r.set(func() {
			r.onRestored = func(e *execution) error {
				if m := e.d.Restore.Manifest; m.Epoch == 3 {
					return fault.New(fault.Corruption, "file %s is damaged", m.Files[1].Name())
				}
				return nil
			}
		})
		r.run(1).result <- fault.New(fault.Retryable, "lost")
		sleep(time.Second)
		if e := r.run(3); e == nil || e.d.Restore.Manifest.Epoch != 2 || e.d.Generation != 2 || r.run(2).ctx.Err() == nil {
			t.Fatalf("%d runs; %q", len(r.runs), r.messages)
		}
		if !slices.ContainsFunc(r.messages, func(m string) bool {
			return strings.Contains(m, "checkpoint 3 can't be used") && strings.Contains(m, "is damaged")
		}) {
			t.Errorf("nobody is told: %q", r.messages)
		}
		// All of them damaged: the job fails, and says so.
		r.set(func() { r.onRestored = func(*execution) error { return fault.New(fault.Corruption, "damaged") } })
		r.run(3).result <- fault.New(fault.Retryable, "lost")
		if err := j.Wait(); fault.ClassOf(err) != fault.Corruption || !strings.Contains(err.Error(), "no checkpoint can be used") {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestTooManyFailedCheckpointsFailTheRun(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, map[string]any{"checkpoint_interval": "10s", "checkpoint_max_failures": 1.0, "restart_attempts": 0.0})
		full := errors.New("disk full")
		r.onBarrier = func(e *execution, b protocol.Begun) { e.answers <- (rpc.Answer{Epoch: b.Epoch, Task: 1, Err: full}) }
		j := r.start(ctx, t)
		if err := j.Wait(); !errors.Is(err, full) || !strings.Contains(err.Error(), "2 checkpoints in a row failed") {
			t.Errorf("ended with %v", err)
		}
		if got := r.failed(); len(got) != 2 || got[0] != "task 1: disk full" {
			t.Errorf("recorded are %q", got)
		}
		if got := r.run(1).said(); !slices.Equal(got, []string{"1 false", "2 false"}) {
			t.Errorf("tasks were told %q", got)
		}
	})
}

// A task that does not answer costs the checkpoint, whose record says so; one that has ended costs nothing.
func TestSlowAndEndedTasks(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, map[string]any{"checkpoint_interval": "10s", "checkpoint_timeout": "3s"})
		r.onBarrier = func(e *execution, b protocol.Begun) {
			e.answers <- e.snapshot(b.Epoch, 1)
			e.answers <- e.snapshot(b.Epoch, 2)
		}
		r.start(ctx, t)
		sleep(13 * time.Second)
		if got := r.failed(); len(got) != 1 || !strings.Contains(got[0], "1 tasks did not answer within 3s") {
			t.Errorf("failed %q", got)
		}
		r.run(1).answers <- rpc.Answer{Task: 0, Ended: true}
		sleep(10 * time.Second)
		if got := r.complete(); !slices.Equal(got, []uint64{2}) {
			t.Fatalf("complete %v, failed %q", got, r.failed())
		}
		r.run(1).result <- fault.New(fault.Retryable, "lost")
		sleep(2 * time.Second)
		if m := r.run(2).d.Restore.Manifest; !m.Tasks[0].Ended || m.Tasks[1].Ended || m.Tasks[1].EndGroup != 512 {
			t.Errorf("tasks of the manifest %+v", m.Tasks)
		}
	})
}

// The store fails by chance all the time: checkpoints come late, none is wrong, and what is restored is the newest.
func TestFaultyStores(t *testing.T) {
	for seed := range uint64(5) {
		bubble(t, func(t *testing.T, ctx context.Context, cancel context.CancelFunc) {
			r := newRig(t, map[string]any{"checkpoint_interval": "1s", "checkpoint_retain": 2.0, "restart_attempts": -1.0})
			r.under = checkpointingtest.NewFaulty(r.store, seed, checkpointingtest.Faults{
				Unavailable: 0.1, LostAck: 0.1, Partial: 0.05, StaleList: 0.3, Latency: 20 * time.Millisecond,
			})
			j := r.start(ctx, t)
			for n := 1; n <= 5; n++ {
				sleep(10 * time.Second)
				e := r.run(len(r.runs))
				e.result <- fault.New(fault.Retryable, "lost")
				sleep(30 * time.Second)
				newest := slices.Max(append(r.completeBefore(e.d.Generation), 0))
				m := r.run(len(r.runs)).d.Restore
				if m == nil || m.Manifest.Epoch < newest {
					t.Fatalf("seed %d: restored %v, and %d was complete", seed, m, newest)
				}
			}
			cancel()
			wantWait(t, j, context.Canceled)
		})
	}
}

func (r *rig) completeBefore(generation uint64) (epochs []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.checkpoints {
		if c.Err == nil && c.Generation <= generation {
			epochs = append(epochs, c.Epoch)
		}
	}
	return epochs
}

// The server's default parallelism is another after a restart: the job keeps its own.
func TestCheckpointsKeepTheirParallelism(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
		r := newRig(t, every10)
		life, kill := context.WithCancel(ctx)
		j := r.start(life, t)
		sleep(10 * time.Second)
		kill()
		wantWait(t, j, context.Canceled)
		r.spec.Resumed = true
		co, err := New(Config{Worker: r.worker, Parallelism: 7, Checkpoints: &Checkpoints{Store: r.store}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := co.Start(ctx, r.spec); err != nil {
			t.Fatal(err)
		}
		if d := r.run(2).d; d.Parallelism != 2 || d.Harnesses != 2 || !d.Restore.Same {
			t.Errorf("deployed with %d tasks and %d harnesses", d.Parallelism, d.Harnesses)
		}
	})
}

// A release whose plan has no place for what a checkpoint has says so.
func TestCheckpointsOfOtherPlans(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*rig)
		want   string
	}{
		"the stage is another": {func(r *rig) { r.spec.Plan.Stages[1].Group.Name = "Other" }, `stage "Group"`},
		"the source is another": {func(r *rig) {
			r.spec.Plan.Stages[0].Name = "Other"
		}, `"Impulse"`},
		"more is fused": {func(r *rig) { r.spec.Plan.Stages[1].Name = "Group, and more" }, ""},
	} {
		bubble(t, func(t *testing.T, ctx context.Context, _ context.CancelFunc) {
			r := newRig(t, every10)
			life, kill := context.WithCancel(ctx)
			j := r.start(life, t)
			sleep(10 * time.Second)
			kill()
			wantWait(t, j, context.Canceled)
			c.change(r)
			r.spec.Resumed = true
			_, err := r.tryStart(ctx, t)
			if c.want != "" && (fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), c.want)) || c.want == "" && err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if c.want == "" && r.run(2).d.Restore.Same {
				t.Errorf("%s: it passes for the same plan", what)
			}
		})
	}
}

func TestServersWithoutCheckpointsRefuseThem(t *testing.T) {
	c := newCoordinator(t, &deployed{})
	for option, value := range map[string]string{"checkpoint_interval": "1s", "restore_from": "file:///s"} {
		if _, err := c.Start(t.Context(), spec(t, map[string]any{option: value})); fault.ClassOf(err) != fault.Unsupported {
			t.Errorf("%s: %v", option, err)
		}
	}
	if _, err := c.Start(t.Context(), spec(t, map[string]any{"checkpoint_interval": "0"})); err != nil {
		t.Error(err)
	}
}
