package rest_test

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/web/jobview"
	"github.com/lintelrun/lintel/web/metrics"
	"github.com/lintelrun/lintel/web/rest"
)

// fakeJobs knows one job, "j1"; err, if set, is what all calls answer.
type fakeJobs struct {
	state string
	err   error
	slow  time.Duration // of savepoints
}

func (f *fakeJobs) find(id string) error {
	if id != "j1" {
		return fmt.Errorf("%w: %s", jobview.ErrNotFound, id)
	}
	return f.err
}

func (f *fakeJobs) List(context.Context) ([]jobview.Job, error) {
	return []jobview.Job{{ID: "j1", Name: "wordcount", State: f.state}}, f.err
}

func (f *fakeJobs) Describe(_ context.Context, id string) (jobview.Detail, error) {
	return jobview.Detail{
		Job:      jobview.Job{ID: id, Name: "wordcount", State: f.state},
		Changed:  time.Unix(100, 0).UTC(),
		Pipeline: jobview.Pipeline{Transforms: 3, Environments: []jobview.Environment{{ID: "go", URN: "beam:env:external:v1"}}},
	}, f.find(id)
}

func (f *fakeJobs) Checkpoints(_ context.Context, id string) ([]jobview.Checkpoint, error) {
	return []jobview.Checkpoint{{
		Epoch: 3, Generation: 2, State: jobview.CheckpointFailed, Began: time.Unix(100, 0).UTC(), Ended: time.Unix(101, 0).UTC(), Seconds: 1, Error: "disk full",
	}}, f.find(id)
}

func (f *fakeJobs) Drain(_ context.Context, id string) (string, error) {
	if id == "stopped" {
		return "", fmt.Errorf("%w: job stopped is STOPPED", jobview.ErrState)
	}
	if id != "j1" {
		return "", fmt.Errorf("%w: %s", jobview.ErrNotFound, id)
	}
	return "DRAINING", nil
}

func (f *fakeJobs) Savepoint(ctx context.Context, id, uri string) (jobview.Savepoint, error) {
	if uri == "elsewhere" {
		return jobview.Savepoint{}, fmt.Errorf("%w: not elsewhere", jobview.ErrInvalid)
	}
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
		return jobview.Savepoint{}, ctx.Err()
	}
	return jobview.Savepoint{ID: id, URI: stdcmp.Or(uri, "chosen"), Bytes: 7}, f.find(id)
}

func (f *fakeJobs) Stop(ctx context.Context, id, uri string, drain bool) (jobview.Savepoint, error) {
	made, err := f.Savepoint(ctx, id, uri)
	made.State = map[bool]string{true: "DRAINED", false: "CANCELLED"}[drain]
	return made, err
}

func (f *fakeJobs) Cancel(_ context.Context, id string) (string, error) {
	if err := f.find(id); err != nil {
		return "", err
	}
	f.state = "CANCELLED"
	return f.state, nil
}

func (f *fakeJobs) Metrics(_ context.Context, id string) ([]jobview.Metric, error) {
	return []jobview.Metric{{URN: "beam:metric:element_count:v1", Type: "beam:metrics:sum_int64:v1",
		Labels: map[string]string{"PCOLLECTION": "p"}, Step: "p", Committed: jobview.Int(7)}}, f.find(id)
}

func (f *fakeJobs) Logs(_ context.Context, id string, each func(jobview.LogEntry) error) error {
	for i := range 5 {
		if err := each(jobview.LogEntry{Level: jobview.Level(i), Message: fmt.Sprintf("m%d", i)}); err != nil {
			return err
		}
	}
	return f.find(id)
}

type fixture struct {
	jobs    fakeJobs
	ready   error
	handler http.Handler
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{jobs: fakeJobs{state: "RUNNING"}}
	reg := metrics.NewRegistry("v0.1", "abc", "go")
	metrics.New(reg)
	s, err := rest.New(rest.Config{
		Jobs: &f.jobs, Gatherer: reg, Ready: func() error { return f.ready },
		Version: map[string]string{"version": "v0.1"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f.handler = s.Handler
	return f
}

func (f *fixture) do(method, path string, headers ...string) *httptest.ResponseRecorder {
	return f.send(method, path, "", headers...)
}

func (f *fixture) send(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	f.handler.ServeHTTP(w, r)
	return w
}

func TestJobs(t *testing.T) {
	for _, c := range []struct {
		call string
		code int
		body string
	}{
		{"GET /healthz", 200, "ok"},
		{"GET /v1/version", 200, `{"version":"v0.1"}`},
		{"GET /v1/jobs", 200, `{"jobs":[{"id":"j1","name":"wordcount","state":"RUNNING"}]}`},
		{"GET /v1/jobs/j1", 200, `{"id":"j1","name":"wordcount","state":"RUNNING","changed":"1970-01-01T00:01:40Z",` +
			`"pipeline":{"transforms":3,"pcollections":0,"unbounded":false,"environments":[{"id":"go","urn":"beam:env:external:v1"}]}}`},
		{"GET /v1/jobs/j2", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"GET /v1/jobs/j1/metrics", 200, `{"metrics":[{"urn":"beam:metric:element_count:v1","type":"beam:metrics:sum_int64:v1",` +
			`"labels":{"PCOLLECTION":"p"},"step":"p","committed":7}]}`},
		{"GET /v1/jobs/j1/checkpoints", 200, `{"checkpoints":[{"epoch":3,"generation":2,"state":"failed","began":"1970-01-01T00:01:40Z",` +
			`"ended":"1970-01-01T00:01:41Z","seconds":1,"bytes":0,"new_bytes":0,"error":"disk full"}]}`},
		{"GET /v1/jobs/j2/checkpoints", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"GET /v1/jobs/j2/metrics", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"GET /v1/jobs/j1/logs", 200, `{"entries":[{"level":"info","message":"m2"},{"level":"warn","message":"m3"},{"level":"error","message":"m4"}],"skipped":0}`},
		{"GET /v1/jobs/j1/logs?level=debug&tail=2", 200, `{"entries":[{"level":"warn","message":"m3"},{"level":"error","message":"m4"}],"skipped":3}`},
		{"GET /v1/jobs/j1/logs?level=loud", 400, `{"title":"Bad Request","status":400,"detail":"unknown level \"loud\": want one of debug, detail, info, warn, error"}`},
		{"GET /v1/jobs/j1/logs?tail=0", 400, `{"title":"Bad Request","status":400,"detail":"tail=\"0\": want a number from 1 to 10000"}`},
		{"GET /v1/jobs/j2/logs", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"POST /v1/jobs/j1/cancel", 200, `{"id":"j1","state":"CANCELLED"}`},
		{"POST /v1/jobs/j1/drain", 200, `{"id":"j1","state":"DRAINING"}`},
		{"POST /v1/jobs/stopped/drain", 409, `{"title":"Conflict","status":409,"detail":"the job is not in a state for this: job stopped is STOPPED"}`},
		{"POST /v1/jobs/j1/savepoints", 200, `{"id":"j1","savepoint":"chosen","bytes":7}`},
		{`POST /v1/jobs/j1/savepoints {"uri": "file:///s"}`, 200, `{"id":"j1","savepoint":"file:///s","bytes":7}`},
		{`POST /v1/jobs/j1/savepoints {"uri": "elsewhere"}`, 400, `{"title":"Bad Request","status":400,"detail":"the request is invalid: not elsewhere"}`},
		{`POST /v1/jobs/j1/savepoints {"url": "file:///s"}`, 400, `{"title":"Bad Request","status":400,"detail":"the request's body: json: unknown field \"url\""}`},
		{"POST /v1/jobs/j2/savepoints", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"POST /v1/jobs/j1/stop {}", 200, `{"id":"j1","state":"CANCELLED","savepoint":"chosen","bytes":7}`},
		{`POST /v1/jobs/j1/stop {"uri": "file:///s", "drain": true}`, 200, `{"id":"j1","state":"DRAINED","savepoint":"file:///s","bytes":7}`},
		{"POST /v1/jobs/j2/stop", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"POST /v1/jobs/j2/cancel", 404, `{"title":"Not Found","status":404,"detail":"no such job: j2"}`},
		{"GET /v1/jobs/j1/cancel", 405, `{"title":"Method Not Allowed","status":405,"detail":"/v1/jobs/j1/cancel takes POST"}`},
		{"POST /v1/jobs", 405, `{"title":"Method Not Allowed","status":405,"detail":"/v1/jobs takes GET"}`},
		{"GET /v2", 404, `{"title":"Not Found","status":404,"detail":"nothing at /v2; jobs are at /v1/jobs"}`},
	} {
		t.Run(c.call, func(t *testing.T) {
			method, rest, _ := strings.Cut(c.call, " ")
			path, body, _ := strings.Cut(rest, " ")
			w := newFixture(t).send(method, path, body)
			got := strings.TrimSpace(w.Body.String())
			var compact bytes.Buffer
			if json.Compact(&compact, w.Body.Bytes()) == nil {
				got = compact.String()
			}
			if w.Code != c.code {
				t.Errorf("status %d, want %d", w.Code, c.code)
			}
			if d := cmp.Diff(c.body, got); d != "" {
				t.Errorf("body (-want +got):\n%s", d)
			}
			if kind := w.Header().Get("Content-Type"); c.code >= 400 && kind != "application/problem+json" {
				t.Errorf("an error of type %s", kind)
			}
		})
	}
}

func TestErrorsHaveTheirStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{context.DeadlineExceeded, 504},
		{errors.New("broken"), 500},
	} {
		f := newFixture(t)
		f.jobs.err = c.err
		if w := f.do("GET", "/v1/jobs"); w.Code != c.code {
			t.Errorf("%v: status %d, want %d", c.err, w.Code, c.code)
		}
	}
}

func TestReadyzFollowsTheServer(t *testing.T) {
	f := newFixture(t)
	f.ready = errors.New("stopping")
	if w := f.do("GET", "/readyz"); w.Code != 503 || w.Body.String() != "not ready: stopping\n" {
		t.Errorf("while stopping: %d %q", w.Code, w.Body)
	}
	f.ready = nil
	if w := f.do("GET", "/readyz"); w.Code != 200 || w.Body.String() != "ready\n" {
		t.Errorf("once ready: %d %q", w.Code, w.Body)
	}
}

func TestMetricsAreServed(t *testing.T) {
	w := newFixture(t).do("GET", "/metrics")
	for _, name := range []string{"lintel_bundles_total", "lintel_build_info", "go_goroutines", "process_start_time_seconds"} {
		if !strings.Contains(w.Body.String(), "\n"+name) {
			t.Errorf("/metrics lacks %s", name)
		}
	}
}

func TestOtherOriginsCannotCancel(t *testing.T) {
	f := newFixture(t)
	if w := f.do("POST", "/v1/jobs/j1/cancel", "Sec-Fetch-Site", "cross-site"); w.Code != 403 {
		t.Errorf("status %d, want 403", w.Code)
	}
	if f.jobs.state != "RUNNING" {
		t.Errorf("the job is %s", f.jobs.state)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := rest.New(rest.Config{}); err == nil || !strings.Contains(err.Error(), "Config.Jobs") {
		t.Errorf("an empty config: %v", err)
	}
}

func TestServerHasLimits(t *testing.T) {
	f := newFixture(t)
	reg := metrics.NewRegistry("", "", "")
	s, err := rest.New(rest.Config{Jobs: &f.jobs, Gatherer: reg, Ready: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("a limit is missing: %+v", s)
	}
}

// Calls that take a savepoint may take longer than others.
func TestSlowSavepointsAreAnswered(t *testing.T) {
	jobs := &fakeJobs{slow: 300 * time.Millisecond}
	c := rest.Config{Jobs: jobs, Gatherer: metrics.NewRegistry("", "", ""), Ready: func() error { return nil }}
	s, err := rest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.ReadTimeout, s.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server := httptest.NewUnstartedServer(nil)
	server.Config = s
	server.Start()
	defer server.Close()
	for _, call := range []string{"savepoints", "stop"} {
		r, err := server.Client().Post(server.URL+"/v1/jobs/j1/"+call, "application/json", strings.NewReader(`{"uri": "file:///s"}`))
		if err != nil {
			t.Errorf("%s: %v", call, err)
			continue
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", call, r.Status)
		}
	}
}
