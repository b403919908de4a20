package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// waitingPipeline has a function in an environment whose worker never connects.
func waitingPipeline(t *testing.T, pool string) *pipepb.Pipeline {
	t.Helper()
	p := &pipepb.Pipeline{}
	if err := protojson.Unmarshal([]byte(impulse), p); err != nil {
		t.Fatal(err)
	}
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	c := p.GetComponents()
	c.Transforms["f"] = &pipepb.PTransform{UniqueName: "Function", EnvironmentId: "e", Inputs: map[string]string{"in": "p"},
		Spec: &pipepb.FunctionSpec{Urn: "beam:transform:pardo:v1", Payload: marshal(&pipepb.ParDoPayload{DoFn: &pipepb.FunctionSpec{Urn: "any"}})}}
	c.Environments = map[string]*pipepb.Environment{"e": {Urn: "beam:env:external:v1",
		Payload: marshal(&pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: pool}})}}
	p.RootTransformIds = append(p.RootTransformIds, "f")
	return p
}

func dialJobs(t *testing.T, d *dev) jobpb.JobServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.JobEndpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return jobpb.NewJobServiceClient(conn)
}

// submit prepares and runs a job.
func submit(t *testing.T, jobs jobpb.JobServiceClient, p *pipepb.Pipeline) string {
	t.Helper()
	prepared, err := jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: p, JobName: "survivor"})
	if err != nil {
		t.Fatal(err)
	}
	run, err := jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	return run.GetJobId()
}

func TestJobsSurviveAKill(t *testing.T) {
	testkit.Leaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dir := t.TempDir()
	d := startDev(t, dir)
	jobs := dialJobs(t, d)
	impulses := &pipepb.Pipeline{}
	if err := protojson.Unmarshal([]byte(impulse), impulses); err != nil {
		t.Fatal(err)
	}
	done := submit(t, jobs, impulses)
	stream, err := jobs.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: done})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	waiting := submit(t, jobs, waitingPipeline(t, silent.Addr().String()))
	testkit.Eventually(t, 5*time.Second, "the record says that the job has started", func() bool {
		info, err := os.Stat(filepath.Join(dir, "data", "jobs", waiting, "log"))
		return err == nil && info.Size() > 30
	})
	before, code := get(t, d.HTTP+"/v1/jobs/"+done)
	if before != 200 {
		t.Fatal(code)
	}
	if err := d.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.stdout.Wait()
	_ = d.Wait() // killed

	d = startDev(t, dir)
	const why = "the server stopped while the job ran"
	if _, after := get(t, d.HTTP+"/v1/jobs/"+done); after != code {
		t.Errorf("the job that is done: %s, before the kill %s", after, code)
	}
	for path, want := range map[string]string{"": why, "/logs": why, "/metrics": "metrics"} {
		if status, body := get(t, d.HTTP+"/v1/jobs/"+waiting+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s of the job that ran: %d %s", path, status, body)
		}
	}
	checkOldJobs(t, d, map[string]string{done: "DONE", waiting: "FAILED"}, why)
	d.end(t, os.Interrupt)
}

func checkOldJobs(t *testing.T, d *dev, states map[string]string, why string) {
	t.Helper()
	c, err := jobclient.New(d.JobEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.List(t.Context())
	if err != nil || len(list) != len(states) {
		t.Errorf("jobs: %v, %v", list, err)
	}
	for _, job := range list {
		if job.State != states[job.ID] || job.Name != "survivor" {
			t.Errorf("job %+v, want state %s", job, states[job.ID])
		}
		detail, err := c.Describe(t.Context(), job.ID)
		if err != nil || detail.Pipeline.Transforms == 0 || strings.Contains(detail.Error, why) != (job.State == "FAILED") {
			t.Errorf("job %+v: %v", detail, err)
		}
		logged := 0
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.Logs(ctx, job.ID, jobclient.Follow, func(jobview.LogEntry) error { logged++; return nil }); err != nil || logged < 3 {
			t.Errorf("log of %s: %d entries, %v", job.ID, logged, err)
		}
	}
}
