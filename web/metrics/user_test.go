package metrics_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lintelrun/lintel/web/jobview"
	"github.com/lintelrun/lintel/web/metrics"
)

func user(name string, v jobview.Value) jobview.Metric {
	return jobview.Metric{
		URN: "beam:metric:user:some:v1", Step: "Count/Words", Committed: v,
		Labels: map[string]string{"PTRANSFORM": "t1", "NAMESPACE": "wc", "NAME": name},
	}
}

func scrapeUsers(limit int, jobs ...metrics.JobMetrics) []string {
	reg := prometheus.NewRegistry()
	metrics.RegisterUserMetrics(reg, limit, func() []metrics.JobMetrics { return jobs })
	return scrape(reg, "lintel_job_user_")
}

func TestUserMetrics(t *testing.T) {
	got := scrapeUsers(100, metrics.JobMetrics{Job: "j1", Metrics: []jobview.Metric{
		user("words", jobview.Int(7)),
		user("words", jobview.Int(8)), // the same series again
		user("ratio", jobview.Float(0.5)),
		user("last", jobview.Latest[int64]{Value: 3}),
		user("len", jobview.Distribution[int64]{Count: 2, Sum: 6, Min: 1, Max: 5}),
		user("none", jobview.Distribution[int64]{Min: 9, Max: -9}),
		user("set", jobview.Set{"a", "b"}),
		user("trie", jobview.Trie{{"a", "b"}}),
		user("top", jobview.Numbers[int64]{9, 8, 7}),
		user("hist", jobview.Histogram{Count: 4}),
		user("bad", jobview.Undecoded{Reason: "?"}),
		user("nothing", nil),
		user("b\xffd", jobview.Int(1)),
		user(strings.Repeat("x", 1000), jobview.Int(1)),
		{URN: "beam:metric:element_count:v1", Committed: jobview.Int(7)},
	}})
	labels := func(name string) string {
		return `{job="j1",name="` + name + `",namespace="wc",transform="Count/Words"}`
	}
	want := []string{
		"lintel_job_user_counter" + labels("b\uFFFDd") + " 1",
		"lintel_job_user_counter" + labels("ratio") + " 0.5",
		"lintel_job_user_counter" + labels("words") + " 7",
		"lintel_job_user_counter" + labels(strings.Repeat("x", 256)) + " 1",
		"lintel_job_user_distribution_count" + labels("len") + " 2",
		"lintel_job_user_distribution_count" + labels("none") + " 0",
		"lintel_job_user_distribution_max" + labels("len") + " 5",
		"lintel_job_user_distribution_min" + labels("len") + " 1",
		"lintel_job_user_distribution_sum" + labels("len") + " 6",
		"lintel_job_user_distribution_sum" + labels("none") + " 0",
		"lintel_job_user_gauge" + labels("last") + " 3",
		"lintel_job_user_histogram_count" + labels("hist") + " 4",
		"lintel_job_user_series_dropped 0",
		"lintel_job_user_size" + labels("set") + " 2",
		"lintel_job_user_size" + labels("top") + " 3",
		"lintel_job_user_size" + labels("trie") + " 1",
	}
	less := cmp.Transformer("set", func(list []string) map[string]bool {
		set := map[string]bool{}
		for _, s := range list {
			set[s] = true
		}
		return set
	})
	if diff := cmp.Diff(want, got, less); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestUserMetricsAreBounded(t *testing.T) {
	many := metrics.JobMetrics{Job: "j2"}
	for i := range 50 {
		many.Metrics = append(many.Metrics, user(strings.Repeat("n", i+1), jobview.Int(1)))
	}
	got := scrapeUsers(10, metrics.JobMetrics{Job: "j1", Metrics: []jobview.Metric{user("words", jobview.Int(7))}}, many)
	if len(got) != 11 || got[10] != "lintel_job_user_series_dropped 41" || !strings.Contains(strings.Join(got, "\n"), `job="j1"`) {
		t.Errorf("samples: %q", got)
	}
	if got := scrapeUsers(0, many); len(got) != 1 {
		t.Errorf("samples without any allowed: %q", got)
	}
}
