package main

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/testkit"
)

const impulse = `{"components": {
  "transforms": {"i": {"uniqueName": "Impulse", "spec": {"urn": "beam:transform:impulse:v1"}, "outputs": {"out": "p"}}},
  "pcollections": {"p": {"uniqueName": "p", "coderId": "c", "isBounded": "BOUNDED", "windowingStrategyId": "w"}},
  "coders": {"c": {"spec": {"urn": "beam:coder:bytes:v1"}}, "g": {"spec": {"urn": "beam:coder:global_window:v1"}}},
  "windowingStrategies": {"w": {"windowFn": {"urn": "beam:window_fn:global_windows:v1"}, "mergeStatus": "NON_MERGING",
    "windowCoderId": "g", "trigger": {"default": {}}, "accumulationMode": "DISCARDING", "outputTime": "END_OF_WINDOW",
    "closingBehavior": "EMIT_IF_NONEMPTY", "onTimeBehavior": "FIRE_ALWAYS"}}
}, "rootTransformIds": ["i"]}`

func TestRESTShowsTheJobService(t *testing.T) {
	testkit.Leaks(t)
	s, err := startServer(serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stopWithin(patience)
	p := &pipepb.Pipeline{}
	if err := protojson.Unmarshal([]byte(impulse), p); err != nil {
		t.Fatal(err)
	}
	options, err := structpb.NewStruct(map[string]any{"beam:option:colour:v1": "green"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.service.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: p, PipelineOptions: options, JobName: "flash"})
	if err != nil {
		t.Fatal(err)
	}
	job := "http://" + s.httpAddress + "/v1/jobs/" + r.GetPreparationId()
	check := func(code int, body string, want ...string) {
		t.Helper()
		for _, w := range append(want, "{") {
			if code != 200 || !strings.Contains(body, w) {
				t.Errorf("%d %s, want 200 and %s", code, body, w)
			}
		}
	}
	code, body := get(t, job)
	check(code, body, `"name": "flash"`, `"state": "STOPPED"`, `"transforms": 1`, `"beam:option:colour:v1": "green"`)
	code, body = get(t, "http://"+s.httpAddress+"/v1/jobs")
	check(code, body, `"name": "flash"`)
	code, body = get(t, "http://"+s.httpAddress+"/metrics")
	check(code, body, `lintel_jobs{state="STOPPED"} 1`)
	code, body = get(t, job+"/metrics")
	check(code, body, `"metrics"`)

	resp, err := http.Post(job+"/cancel", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil {
		t.Fatal(err)
	}
	check(resp.StatusCode, string(b), `"state": "CANCELLED"`)
	code, body = get(t, job+"/logs")
	check(code, body, `"state": "STOPPED"`, `"state": "CANCELLED"`)

	for _, path := range []string{"", "/metrics", "/logs"} {
		if code, body := get(t, "http://"+s.httpAddress+"/v1/jobs/nobody"+path); code != 404 || !strings.Contains(body, "no such job: nobody") {
			t.Errorf("%s of an unknown job: %d %s", path, code, body)
		}
	}
}
