package jobservice_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/jobservice"
)

// said returns the messages of a job that have a text.
func (r *rig) said(t testing.TB, id, text string) (said []string) {
	t.Helper()
	events, err := r.Messages(id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if strings.Contains(e.Text, text) {
			said = append(said, e.Text)
		}
	}
	return said
}

func (r *rig) stateOf(t testing.TB, id string) jobservice.State {
	t.Helper()
	d, err := r.Describe(id)
	if err != nil {
		t.Fatal(err)
	}
	return d.State
}

func TestSavepointOfARunningJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	if _, err := r.Savepoint(t.Context(), id, ""); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of a job that was never run: %v", err)
	}
	job := r.start(t, id)
	job.sink.Running()
	for uri, want := range map[string]string{"": "savepoints:" + id, "file:///s": "file:///s"} {
		made, err := r.Savepoint(t.Context(), id, uri)
		if err != nil || made != (jobservice.Savepoint{URI: want, Bytes: 42}) || len(r.said(t, id, "the savepoint "+want+" is complete")) != 1 {
			t.Errorf("%q: %+v, %v", uri, made, err)
		}
	}
	if _, err := r.Savepoint(t.Context(), id, "elsewhere:a"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("where none may be: %v", err)
	}
	job.takes = func(string) error { return errors.New("disk full") }
	if _, err := r.Savepoint(t.Context(), id, ""); err == nil || len(r.said(t, id, "came to nothing: disk full")) != 1 {
		t.Errorf("one that fails: %v", err)
	}
	if s := r.stateOf(t, id); s != running {
		t.Errorf("the job is %v", s)
	}
	if _, err := r.Savepoint(t.Context(), "nobody", ""); status.Code(err) != codes.NotFound {
		t.Errorf("of no job: %v", err)
	}
}

// A savepoint is taken to its end, though nobody waits for it.
func TestSavepointsOutliveTheirCallers(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	begun, goOn := make(chan bool), make(chan bool)
	job.takes = func(string) error {
		close(begun)
		<-goOn
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := r.Savepoint(ctx, id, "file:///s"); !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		t.Errorf("the caller that went: %v", err)
	}
	close(goOn)
	testkit.Eventually(t, 5*time.Second, "it is complete", func() bool { return len(r.said(t, id, "file:///s is complete")) == 1 })
}

func TestStopWithASavepoint(t *testing.T) {
	for what, c := range map[string]struct {
		drain bool
		want  jobservice.State
	}{"stopped": {false, cancelled}, "drained": {true, drained}} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			r := surviving(t, dir, unbounded)
			id := r.prepare(t)
			if _, _, err := r.Stop(t.Context(), id, "", c.drain); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("a job that was never run is stopped: %v", err)
			}
			job := r.start(t, id)
			job.sink.Running()
			if _, s, err := r.Stop(t.Context(), id, "elsewhere:a", c.drain); status.Code(err) != codes.InvalidArgument || s != running {
				t.Errorf("with a savepoint where none may be: %v, %v", s, err)
			}
			made, state, err := r.Stop(t.Context(), id, "file:///s", c.drain)
			if err != nil || state != c.want || made.URI != "file:///s" || job.drained.Load() != c.drain {
				t.Fatalf("%+v, %v, %v", made, state, err)
			}
			if _, _, err := r.Stop(t.Context(), id, "", c.drain); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("stopped twice: %v", err)
			}
			if !slices.Contains(r.executor.forgotten(), id) {
				testkit.Eventually(t, 5*time.Second, "its checkpoints are removed", func() bool { return slices.Contains(r.executor.forgotten(), id) })
			}
			r.shutDown(t)

			r = surviving(t, dir, unbounded)
			if s := r.stateOf(t, id); s != c.want || len(r.said(t, id, "stopped with the savepoint file:///s")) != 1 {
				t.Errorf("after a restart it is %v, with %q", s, r.said(t, id, "savepoint"))
			}
		})
	}
}

// Where the savepoint fails the job goes on, and can be stopped later.
func TestJobsThatCannotBeStoppedGoOn(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	job.takes = func(string) error { return errors.New("disk full") }
	if _, s, err := r.Stop(t.Context(), id, "", false); err == nil || s != running {
		t.Errorf("%v, %v", s, err)
	}
	job.takes = nil
	if _, s, err := r.Stop(t.Context(), id, "", false); err != nil || s != cancelled {
		t.Errorf("%v, %v", s, err)
	}
}

// One stop at a time; a job that is cancelled meanwhile is.
func TestStopsAndCancelAtOnce(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	job.takes = func(string) error {
		if _, _, err := r.Stop(t.Context(), id, "", false); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a second stop: %v", err)
		}
		if _, err := r.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
			t.Error(err)
		}
		return job.ctx.Err()
	}
	_, s, err := r.Stop(t.Context(), id, "", false)
	r.watch(t, id)
	if err == nil || jobservice.Terminal(s) && s != cancelled || r.stateOf(t, id) != cancelled {
		t.Errorf("%v, %v; the job is %v", s, err, r.stateOf(t, id))
	}
}

// A server that ends takes no stop for one that has happened.
func TestStopWhileTheServerEnds(t *testing.T) {
	dir := t.TempDir()
	r := surviving(t, dir, unbounded)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	begun := make(chan bool)
	job.takes = func(string) error {
		close(begun)
		<-job.ctx.Done()
		return job.ctx.Err()
	}
	failure := make(chan error)
	go func() {
		_, _, err := r.Stop(context.Background(), id, "", false)
		failure <- err
	}()
	<-begun
	r.shutDown(t)
	if err := <-failure; err == nil {
		t.Error("it was stopped")
	}
	r = surviving(t, dir, unbounded)
	r.executor.run(id).sink.Running()
	if s := r.stateOf(t, id); s != running {
		t.Errorf("it is %v", s)
	}
}
