package jobservice_test

import (
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/jobservice"
)

func (r *rig) drain(t *testing.T, id string) jobservice.State {
	t.Helper()
	resp, err := r.client.Drain(t.Context(), &jobpb.DrainJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetState()
}

func TestDrainEndsARunningJob(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	if _, err := r.client.Drain(t.Context(), &jobpb.DrainJobRequest{JobId: id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a job that was never run is drained: %v", err)
	}
	job := r.start(t, id)
	job.sink.Running()
	for range 2 {
		if s := r.drain(t, id); s != draining {
			t.Errorf("the job is %v", s)
		}
	}
	if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: r.prepare(t)}); err != nil {
		t.Fatal(err) // of another job
	}
	job.end(nil)
	states := statesOf(r.watch(t, id))
	if last := states[len(states)-1]; last != drained || states[len(states)-2] != draining {
		t.Errorf("the job was %v", states)
	}
	if !job.drained.Load() {
		t.Error("the run was not drained")
	}
	if s := r.drain(t, id); s != drained {
		t.Errorf("draining a drained job makes it %v", s)
	}
}

// A job runs before the executor has handed its run over.
func TestDrainBeforeTheRunIsKnown(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	id := r.prepare(t)
	r.executor.get(id).onStart = func(job *run) {
		job.sink.Running()
		if s := r.drain(t, id); s != draining {
			t.Errorf("the job is %v", s)
		}
		job.end(nil)
	}
	job := r.start(t, id)
	r.watch(t, id)
	if !job.drained.Load() {
		t.Error("the run was not drained")
	}
}

// Java's client knows no such state and would ask on for ever.
func TestDrainedIsDoneInJava(t *testing.T) {
	r := newRig(t, jobservice.Config{}, nil)
	conn, err := grpc.NewClient(r.conn.Target(), append(r.dial, grpc.WithUserAgent("grpc-java-netty/1.62.2"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	java := jobpb.NewJobServiceClient(conn)
	id := r.prepare(t)
	job := r.start(t, id)
	job.sink.Running()
	r.drain(t, id)
	state := func(c jobpb.JobServiceClient) jobservice.State {
		e, err := c.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
		if err != nil {
			t.Fatal(err)
		}
		return e.GetState()
	}
	if s := state(java); s != running {
		t.Errorf("a job that is being drained is %v", s)
	}
	job.end(nil)
	r.watch(t, id)
	if s := state(java); s != done {
		t.Errorf("a drained job is %v", s)
	}
	if s := state(r.client); s != drained {
		t.Errorf("for others it is %v", s)
	}
}
