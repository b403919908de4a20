package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lintelrun/lintel/web/metrics"
)

// scrape returns the samples whose names begin with prefix, comments left out.
func scrape(reg prometheus.Gatherer, prefix string) (samples []string) {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, prefix) && !strings.Contains(line, "_seconds_bucket") {
			samples = append(samples, strings.TrimSpace(line))
		}
	}
	return samples
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg)
	metrics.RegisterJobs(reg, func() map[string]int { return map[string]int{"RUNNING": 2, "FAILED": 1} })
	metrics.RegisterHarnesses(reg, func() int { return 4 })
	metrics.RegisterCheckpointAges(reg, func() map[string]time.Duration { return map[string]time.Duration{"a": 1500 * time.Millisecond} })
	m.BundleDone(true, 5, 50, 70, time.Second)
	m.BundleDone(false, 5, 50, 70, time.Second)
	m.Spilled(1000)

	want := []string{
		`lintel_bundle_duration_seconds_sum 2`,
		`lintel_bundle_duration_seconds_count 2`,
		`lintel_bundles_total{outcome="committed"} 1`,
		`lintel_bundles_total{outcome="failed"} 1`,
		`lintel_bytes_total{direction="in"} 50`,
		`lintel_bytes_total{direction="out"} 70`,
		`lintel_checkpoint_age_seconds{job="a"} 1.5`,
		`lintel_elements_total 5`,
		`lintel_harnesses 4`,
		`lintel_jobs{state="FAILED"} 1`,
		`lintel_jobs{state="RUNNING"} 2`,
		`lintel_spilled_bytes_total 1000`,
	}
	if d := cmp.Diff(want, scrape(reg, "lintel_")); d != "" {
		t.Errorf("samples (-want +got):\n%s", d)
	}
}

func TestRegistryNamesTheBuild(t *testing.T) {
	got := scrape(metrics.NewRegistry("v1", "abc", "go1.26"), "lintel_")
	want := []string{`lintel_build_info{goversion="go1.26",revision="abc",version="v1"} 1`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("samples (-want +got):\n%s", d)
	}
}
