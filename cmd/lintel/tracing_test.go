package main

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/internal/tracing/tracingtest"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// runTraced runs a job that needs no harness on a server that sends spans to endpoint.
func runTraced(t *testing.T, endpoint string) (metrics string) {
	s, err := startServer(serverConfig{
		bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler), userSeries: 10, tracing: traceConfig{endpoint: endpoint},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.stop(ctx)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the server took %v to stop", took)
		}
	}()
	p := portabletest.New()
	p.Reshuffle("spread", portabletest.Bytes, p.Impulse("impulse"))
	prepared, err := s.service.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: p.Proto, JobName: "traced"})
	if err != nil {
		t.Fatal(err)
	}
	id := prepared.GetPreparationId()
	if _, err := s.service.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.service.Follow(ctx, id, 0, func(jobservice.Event) error { return nil }); err != nil {
		t.Fatal(err)
	}
	d, err := s.service.Describe(id)
	if err != nil || d.State != jobpb.JobState_DONE {
		t.Errorf("the job is %v %s, %v", d.State, d.Failure, err)
	}
	var counted []string
	for _, info := range d.Committed {
		counted = append(counted, info.GetLabels()["PCOLLECTION"])
	}
	return strings.Join(counted, " ")
}

func TestJobIsTraced(t *testing.T) {
	testkit.Leaks(t)
	r := tracingtest.Start(t)
	if got, want := runTraced(t, r.Endpoint), "impulse.out spread.out impulse.out spread.out"; got != want {
		t.Errorf("metrics are about %s, want %s", got, want)
	}
	parents, traces := map[string]string{}, map[string]bool{}
	for _, s := range r.Spans() {
		parents[s.Name] = s.Parent
		traces[string(s.GetTraceId())] = true
	}
	want := map[string]string{
		"job": "", "Prepare": "job", "plan": "Prepare", "stage artifacts": "job", "Run": "job", "deploy": "job", "stage s0": "job",
	}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents of spans (-want +got):\n%s", diff)
	}
	if len(traces) != 1 {
		t.Errorf("the job is %d traces", len(traces))
	}
}

func TestCollectorThatIsNotThere(t *testing.T) {
	testkit.Leaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	runTraced(t, l.Addr().String())
}

func TestTraceFlags(t *testing.T) {
	for want, c := range map[string]traceConfig{
		"":                    {bundles: 1},
		"--trace-bundles 0":   {},
		"not on this machine": {bundles: 1, endpoint: "10.0.0.1:4317"},
	} {
		if err := c.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}
