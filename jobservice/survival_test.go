package jobservice_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/plan"
)

// surviving is a rig whose jobs survive, over the folders of an earlier one.
func surviving(t testing.TB, dir string, planner jobservice.Planner) *rig {
	t.Helper()
	x := &executor{runs: map[string]*run{}, survives: true}
	return newRigWith(t, jobservice.Config{Records: openRecords(t, filepath.Join(dir, "jobs"))}, planner, filepath.Join(dir, "artifacts"), x)
}

// unbounded plans a job whose input does not end.
func unbounded(_ context.Context, p *pipepb.Pipeline, _ *structpb.Struct) (*plan.Plan, error) {
	return &plan.Plan{Components: p.GetComponents(), Stages: []*plan.Stage{{ID: "s0"}}}, nil
}

func complete(epoch uint64) jobservice.Checkpoint {
	at := time.Unix(1700000000+int64(epoch), 0).UTC()
	return jobservice.Checkpoint{Epoch: epoch, Generation: 1, Began: at, Ended: at.Add(time.Second), Bytes: 1000, NewBytes: 10}
}

func TestAgesOfCheckpoints(t *testing.T) {
	r := surviving(t, t.TempDir(), unbounded)
	r.start(t, r.prepare(t)).sink.Running()
	with := r.prepare(t)
	job := r.start(t, with)
	job.sink.Running()
	c := complete(1)
	c.Began = time.Now().Add(time.Hour)
	job.sink.Checkpoint(c)
	failed := complete(2)
	failed.Began, failed.Failure = time.Now().Add(2*time.Hour), "disk full"
	job.sink.Checkpoint(failed)
	ages := r.CheckpointAges()
	if len(ages) != 2 || ages[with] > -59*time.Minute || ages[with] < -time.Hour {
		t.Errorf("ages %v: that of a job with one to come in an hour is less than -59m", ages)
	}
	for id, age := range ages {
		if id != with && (age < 0 || age > time.Minute) {
			t.Errorf("a job that has just begun and has none: %v", age)
		}
	}
	job.end(nil)
	r.watch(t, with)
	if ages := r.CheckpointAges(); len(ages) != 1 {
		t.Errorf("of a job that has ended there is none: %v", ages)
	}
}

func TestSurvivingJobsGoOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := surviving(t, dir, unbounded)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	job.sink.Checkpoint(complete(1))
	failure := complete(2)
	failure.Failure = "disk full"
	job.sink.Checkpoint(failure)
	job.sink.Checkpoint(complete(3))
	stream, err := r.client.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	token := job.job.RetrievalToken
	r.shutDown(t)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the client that waits is told %v", err)
	}

	r = surviving(t, dir, unbounded)
	again := r.executor.run(id)
	if j := again.job; !j.Resumed || j.AtLeast != 3 || j.RetrievalToken != token || j.Plan == nil || j.Pipeline == nil || job.job.Resumed {
		t.Errorf("it is started with %+v", j)
	}
	again.sink.Running()
	again.sink.Checkpoint(complete(4))
	list, err := r.Checkpoints(id)
	if err != nil || len(list) != 4 || list[1].Failure != "disk full" || list[3] != complete(4) {
		t.Errorf("checkpoints %+v, %v", list, err)
	}
	if d, err := r.Describe(id); err != nil || d.State != running || d.Started.IsZero() {
		t.Errorf("it is %+v, %v", d, err)
	}
	again.end(nil)
	messages := r.watch(t, id)
	if got := statesOf(messages); !slices.Equal(got, []jobservice.State{stopped, starting, running, done}) {
		t.Errorf("states over both processes: %v", got)
	}
	testkit.Eventually(t, 5*time.Second, "its checkpoints are removed", func() bool { return slices.Contains(r.executor.forgotten(), id) })
	r.shutDown(t)

	r = surviving(t, dir, unbounded) // what has ended stays so
	if list, err := r.Checkpoints(id); err != nil || len(list) != 4 || r.view(t, id).Summary.State != done {
		t.Errorf("checkpoints of the ended job: %v, %v", list, err)
	}
}

// ways are how a process ends: they return the folders that the next one finds.
var ways = map[string]func(t *testing.T, r *rig, dir, id string, events int) string{
	"stopped": func(t *testing.T, r *rig, dir, _ string, _ int) string {
		r.shutDown(t)
		return dir
	},
	"killed": func(t *testing.T, _ *rig, dir, id string, events int) string {
		after := filepath.Dir(crash(t, filepath.Join(dir, "jobs"), map[string]int{id: events}))
		if err := os.CopyFS(filepath.Join(after, "artifacts"), os.DirFS(filepath.Join(dir, "artifacts"))); err != nil {
			t.Fatal(err)
		}
		return after
	},
}

func TestWhichJobsGoOn(t *testing.T) {
	nothing := func(*rig, string, *run) {}
	for what, c := range map[string]struct {
		planner jobservice.Planner
		before  func(*rig, string, *run)
		events  int                         // that there are then
		want    map[string]jobservice.State // after the restart, by the way that the process has ended
		text    string
	}{
		"unbounded without a checkpoint": {unbounded, nothing, 3, map[string]jobservice.State{"stopped": running, "killed": running}, ""},
		"bounded with a checkpoint": {
			acceptAll, func(_ *rig, _ string, j *run) { j.sink.Checkpoint(complete(1)) }, 3,
			map[string]jobservice.State{"stopped": running, "killed": running}, "",
		},
		"bounded without a checkpoint": {
			acceptAll, nothing, 3, map[string]jobservice.State{"stopped": cancelled, "killed": failed}, "no checkpoint to go on from",
		},
		"bounded with a failed checkpoint": {
			acceptAll, func(_ *rig, _ string, j *run) {
				j.sink.Checkpoint(jobservice.Checkpoint{Epoch: 1, Failure: "disk full"})
			}, 3,
			map[string]jobservice.State{"stopped": cancelled, "killed": failed}, "no checkpoint to go on from",
		},
		"being drained": {unbounded, func(r *rig, id string, _ *run) {
			if _, err := r.Drain(context.Background(), &jobpb.DrainJobRequest{JobId: id}); err != nil {
				panic(err)
			}
		}, 4, map[string]jobservice.State{"stopped": draining, "killed": draining}, ""},
		"cancelled": {unbounded, func(r *rig, id string, _ *run) {
			if _, err := r.Cancel(context.Background(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
				panic(err)
			}
		}, 4, map[string]jobservice.State{"stopped": cancelled, "killed": cancelled}, ""},
	} {
		for way, end := range ways {
			t.Run(what+", "+way, func(t *testing.T) {
				dir := t.TempDir()
				r := surviving(t, dir, c.planner)
				id := r.prepare(t)
				job := r.start(t, id)
				job.sink.Running()
				c.before(r, id, job)
				r = surviving(t, end(t, r, dir, id, c.events), c.planner)
				if want := c.want[way]; jobservice.Terminal(want) {
					testkit.Eventually(t, 5*time.Second, "it has ended", func() bool { return jobservice.Terminal(r.view(t, id).Summary.State) })
					v := r.view(t, id)
					if v.Summary.State != want || want == failed && !strings.Contains(v.Summary.Failure, c.text) {
						t.Errorf("it is %v: %s", v.Summary.State, v.Summary.Failure)
					}
					return
				}
				again := r.executor.run(id)
				if d, err := r.Describe(id); err != nil || d.State != c.want[way] {
					t.Errorf("it is %v, %v", d.State, err)
				}
				if c.want[way] == draining {
					testkit.Eventually(t, 5*time.Second, "it is drained again", again.drained.Load)
				}
				again.end(nil)
				r.watch(t, id)
			})
		}
	}
}

// A job goes on however soon after the answer to its client the process is killed.
func TestKilledWhenRunHasReturned(t *testing.T) {
	for range 10 {
		dir := t.TempDir()
		r := surviving(t, dir, unbounded)
		id := r.prepare(t)
		if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
			t.Fatal(err)
		}
		again := surviving(t, ways["killed"](t, r, dir, id, 0), unbounded)
		r.executor.run(id).end(nil)
		if d, err := again.Describe(id); err != nil || jobservice.Terminal(d.State) {
			t.Fatalf("it is %v: %v", d.State, err)
		}
		again.executor.run(id).end(nil)
		for _, r := range []*rig{r, again} {
			if states := statesOf(r.watch(t, id)); states[len(states)-1] != done {
				t.Errorf("states %v", states)
			}
		}
	}
}

// A service that is closed says what becomes of each job that runs.
func TestCloseSaysWhatBecomesOfJobs(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	cfg := jobservice.Config{
		Records: openRecords(t, filepath.Join(dir, "jobs")), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	x := &executor{runs: map[string]*run{}, survives: true}
	r := newRigWith(t, cfg, nil, filepath.Join(dir, "artifacts"), x)
	with, without, ended := r.prepare(t), r.prepare(t), r.prepare(t)
	r.start(t, with).sink.Checkpoint(complete(7))
	r.start(t, without).sink.Running()
	r.start(t, ended).end(nil)
	r.watch(t, ended)
	r.shutDown(t)
	for _, c := range []struct{ id, want string }{{with, "the next start goes on with it"}, {with, "checkpoint=7"}, {without, "job cancelled"}} {
		if !slices.ContainsFunc(strings.Split(log.String(), "\n"), func(line string) bool { return strings.Contains(line, c.id) && strings.Contains(line, c.want) }) {
			t.Errorf("nothing of %q about %s:\n%s", c.want, c.id, &log)
		}
	}
	if strings.Contains(log.String(), ended) {
		t.Errorf("something about a job that had ended:\n%s", &log)
	}
}

func TestJobsThatCannotGoOnSayWhy(t *testing.T) {
	dir := t.TempDir()
	r := surviving(t, dir, unbounded)
	id := r.prepare(t)
	r.start(t, id).sink.Running()
	r.shutDown(t)
	r = surviving(t, dir, func(context.Context, *pipepb.Pipeline, *structpb.Struct) (*plan.Plan, error) {
		return nil, errors.New("this release knows no such transform")
	})
	r.watch(t, id)
	if v := r.view(t, id); v.Summary.State != failed || !strings.Contains(v.Summary.Failure, "this release knows no such transform") {
		t.Errorf("it is %v: %s", v.Summary.State, v.Summary.Failure)
	}
}
