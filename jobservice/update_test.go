package jobservice_test

import (
	"context"
	"errors"
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
)

const updated = jobpb.JobState_UPDATED

func (r *rig) prepareWith(t testing.TB, name string, values map[string]any) (string, error) {
	t.Helper()
	options, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}, JobName: name, PipelineOptions: options})
	return resp.GetPreparationId(), err
}

// startNamed starts a job of a name.
func (r *rig) startNamed(t testing.TB, name string) (string, *run) {
	t.Helper()
	id, err := r.prepareWith(t, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := r.start(t, id)
	job.sink.Running()
	return id, job
}

func TestUpdateOfARunningJob(t *testing.T) {
	for what, option := range map[string]func(id string) map[string]any{
		"by name": func(string) map[string]any { return map[string]any{"update": true} },
		"by id": func(id string) map[string]any {
			return map[string]any{"update_job": id, "update_savepoint": "file:///s"}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			r := surviving(t, dir, unbounded)
			old, job := r.startNamed(t, "pipeline")
			r.startNamed(t, "other")
			next, err := r.prepareWith(t, "pipeline", option(old))
			if err != nil {
				t.Fatal(err)
			}
			if s := r.stateOf(t, old); s != running {
				t.Errorf("prepared, and the job is %v", s)
			}
			taking := make(chan string)
			job.takes = func(uri string) error {
				taking <- uri
				if s := r.stateOf(t, next); s != starting {
					t.Errorf("the new job is %v while the old one runs", s)
				}
				return nil
			}
			if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: next}); err != nil {
				t.Fatal(err)
			}
			uri := <-taking
			job2 := r.executor.run(next)
			if want := map[string]string{"by name": "savepoints:" + old, "by id": "file:///s"}[what]; uri != want || job2.job.RestoreFrom != want || job.job.RestoreFrom != "" {
				t.Errorf("the savepoint is %s, the new job begins with %q; want %s", uri, job2.job.RestoreFrom, want)
			}
			if s := r.stateOf(t, old); s != updated {
				t.Errorf("the old job is %v when the new one begins", s)
			}
			job2.sink.Running()
			if got := statesOf(r.watch(t, old)); !slices.Equal(got, []jobservice.State{stopped, starting, running, updated}) {
				t.Errorf("states of the old job: %v", got)
			}
			if len(r.said(t, old, "with which job "+next+" goes on")) != 1 || len(r.said(t, next, "job "+old+" is stopped")) != 1 {
				t.Errorf("the logs say %q and %q", r.said(t, old, ""), r.said(t, next, ""))
			}
			r.shutDown(t)

			r = surviving(t, dir, unbounded)
			again := r.executor.run(next).job
			if r.stateOf(t, old) != updated || !again.Resumed || again.RestoreFrom != job2.job.RestoreFrom {
				t.Errorf("after a restart the old job is %v, the new one %+v", r.stateOf(t, old), again)
			}
		})
	}
}

// Nothing is stopped for a job that can't take its place.
func TestUpdatesThatAreRefused(t *testing.T) {
	r := surviving(t, t.TempDir(), unbounded)
	id, _ := r.startNamed(t, "pipeline")
	r.startNamed(t, "twice")
	r.startNamed(t, "twice")
	ended, job := r.startNamed(t, "ended")
	job.end(nil)
	r.watch(t, ended)
	for what, c := range map[string]struct {
		name   string
		values map[string]any
		code   codes.Code
		text   string
	}{
		"incompatible":   {"pipeline", map[string]any{"update": true, "refuse": "state a is gone\nstate b is gone"}, codes.InvalidArgument, "state a is gone\nstate b is gone"},
		"no such name":   {"nobody", map[string]any{"update": true}, codes.FailedPrecondition, `no running job "nobody"`},
		"no such id":     {"pipeline", map[string]any{"update_job": "nobody"}, codes.NotFound, "nobody"},
		"two of a name":  {"twice", map[string]any{"update": true}, codes.FailedPrecondition, "update_job"},
		"ended":          {"ended", map[string]any{"update": true}, codes.FailedPrecondition, "no running job"},
		"ended, by id":   {"a", map[string]any{"update_job": ended}, codes.FailedPrecondition, "DONE"},
		"and restore":    {"pipeline", map[string]any{"update": true, "restore_from": "file:///s"}, codes.InvalidArgument, "restore_from"},
		"only where to":  {"pipeline", map[string]any{"update_savepoint": "file:///s"}, codes.InvalidArgument, "update_savepoint"},
		"not understood": {"pipeline", map[string]any{"update": "perhaps"}, codes.InvalidArgument, "update"},
	} {
		if _, err := r.prepareWith(t, c.name, c.values); status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := r.stateOf(t, id); s != running {
		t.Errorf("the job is %v", s)
	}
	r.executor.survives = false
	if _, err := r.prepareWith(t, "pipeline", map[string]any{"update": true}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "takes no checkpoints") {
		t.Errorf("a job without checkpoints: %v", err)
	}
}

// What goes wrong later leaves one of the two, or says what to go on from.
func TestUpdatesThatFail(t *testing.T) {
	r := surviving(t, t.TempDir(), unbounded)
	id, job := r.startNamed(t, "pipeline")
	update := func(values map[string]any) string {
		next, err := r.prepareWith(t, "pipeline", values)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	fails := func(next string) string {
		if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: next}); err != nil {
			t.Fatal(err)
		}
		r.watch(t, next)
		if v := r.view(t, next); v.Summary.State == failed {
			return v.Summary.Failure
		}
		return ""
	}
	late := update(map[string]any{"update": true})
	job.takes = func(string) error { return errors.New("disk full") }
	if why := fails(update(map[string]any{"update": true})); !strings.Contains(why, "disk full") || !strings.Contains(why, "was not updated") || r.stateOf(t, id) != running {
		t.Errorf("the savepoint failed: %q; the job is %v", why, r.stateOf(t, id))
	}
	if why := fails(update(map[string]any{"update": true, "update_savepoint": "elsewhere:a"})); !strings.Contains(why, "elsewhere:a") || r.stateOf(t, id) != running {
		t.Errorf("a savepoint where none may be: %q; the job is %v", why, r.stateOf(t, id))
	}
	job.takes = nil
	r.executor.startErr = errors.New("no worker came")
	if why := fails(update(map[string]any{"update": true})); !strings.Contains(why, "no worker came") || !strings.Contains(why, "savepoints:"+id) || !strings.Contains(why, "restore_from") || r.stateOf(t, id) != updated {
		t.Errorf("the new job could not begin: %q; the old one is %v", why, r.stateOf(t, id))
	}
	if why := fails(late); !strings.Contains(why, id) {
		t.Errorf("the job had been updated meanwhile: %q", why)
	}
}

// A server that is killed in the middle of an update goes on with one of the two jobs.
func TestUpdatesAndServersThatAreKilled(t *testing.T) {
	for what, c := range map[string]struct {
		stopped       bool // the old job
		wantOld, want jobservice.State
	}{
		"before the old job is stopped": {false, running, failed},
		"after it":                      {true, updated, starting},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			r := surviving(t, dir, unbounded)
			id, job := r.startNamed(t, "pipeline")
			next, err := r.prepareWith(t, "pipeline", map[string]any{"update": true})
			if err != nil {
				t.Fatal(err)
			}
			begun, killed := make(chan bool), make(chan bool)
			job.takes = func(string) error {
				close(begun)
				if c.stopped {
					return nil
				}
				<-killed
				return context.Canceled
			}
			if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: next}); err != nil {
				t.Fatal(err)
			}
			<-begun
			old := 3
			if c.stopped {
				old = 0 // its end is there
				r.executor.run(next)
			}
			after := filepath.Dir(crash(t, filepath.Join(dir, "jobs"), map[string]int{id: old, next: 3}))
			if err := os.CopyFS(filepath.Join(after, "artifacts"), os.DirFS(filepath.Join(dir, "artifacts"))); err != nil {
				t.Fatal(err)
			}
			close(killed)
			r = surviving(t, after, unbounded)
			testkit.Eventually(t, 5*time.Second, "the jobs are what they come to be", func() bool {
				return r.stateOf(t, id) == c.wantOld && r.stateOf(t, next) == c.want
			})
			if c.want == failed {
				if why := r.view(t, next).Summary.Failure; !strings.Contains(why, "was not updated") {
					t.Errorf("the new job failed with %q", why)
				}
				r.executor.run(id)
			} else if j := r.executor.run(next).job; j.RestoreFrom == "" {
				t.Errorf("the new job is %+v", j)
			}
		})
	}
}
