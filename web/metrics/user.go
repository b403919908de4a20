package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lintelrun/lintel/web/jobview"
)

// JobMetrics are the metrics of one job.
type JobMetrics struct {
	Job     string // its id
	Metrics []jobview.Metric
}

// maxLabel bounds the bytes of a label that a pipeline gives its value.
const maxLabel = 256

// RegisterUserMetrics registers what the code of running jobs counts: at most limit
// series, those of the first jobs that read returns. At every scrape read gives the
// metrics; it must be safe for concurrent use.
func RegisterUserMetrics(reg prometheus.Registerer, limit int, read func() []JobMetrics) {
	reg.MustRegister(&userMetrics{limit, read})
}

type userMetrics struct {
	limit int
	read  func() []JobMetrics
}

func userDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("lintel_job_user_"+name, help+" of a running job's own code.", []string{"job", "transform", "namespace", "name"}, nil)
}

var (
	userCounter   = userDesc("counter", "Counters, which may go down too,")
	userGauge     = userDesc("gauge", "Gauges")
	userCount     = userDesc("distribution_count", "Number of values in distributions")
	userSum       = userDesc("distribution_sum", "Sum of values in distributions")
	userMin       = userDesc("distribution_min", "Least value in distributions")
	userMax       = userDesc("distribution_max", "Largest value in distributions")
	userSize      = userDesc("size", "Number of members of sets, paths of tries, and values of top and bottom lists")
	userHistogram = userDesc("histogram_count", "Number of values in histograms")
	userDropped   = prometheus.NewDesc("lintel_job_user_series_dropped", "Series of running jobs' own metrics that are past the limit, and left out.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*userMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{userCounter, userGauge, userCount, userSum, userMin, userMax, userSize, userHistogram, userDropped} {
		c <- d
	}
}

// sample is one series.
type sample struct {
	desc  *prometheus.Desc
	value float64
}

// Collect implements prometheus.Collector.
func (u *userMetrics) Collect(c chan<- prometheus.Metric) {
	type series struct {
		desc                            *prometheus.Desc
		job, transform, namespace, name string
	}
	seen := map[series]bool{} // a series that comes twice would spoil the whole scrape
	dropped := 0
	for _, j := range u.read() {
		for _, m := range j.Metrics {
			if !m.User() {
				continue
			}
			for _, s := range samples(m.Best()) {
				id := series{s.desc, j.Job, label(m.Step), label(m.Labels["NAMESPACE"]), label(m.Labels["NAME"])}
				switch {
				case seen[id]:
				case len(seen) == u.limit:
					dropped++
				default:
					seen[id] = true
					c <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, s.value, id.job, id.transform, id.namespace, id.name)
				}
			}
		}
	}
	c <- prometheus.MustNewConstMetric(userDropped, prometheus.GaugeValue, float64(dropped))
}

// samples returns what is shown of a value.
func samples(v jobview.Value) []sample {
	switch v := v.(type) {
	case jobview.Int:
		return []sample{{userCounter, float64(v)}}
	case jobview.Float:
		return []sample{{userCounter, float64(v)}}
	case jobview.Latest[int64]:
		return []sample{{userGauge, float64(v.Value)}}
	case jobview.Latest[jobview.Float]:
		return []sample{{userGauge, float64(v.Value)}}
	case jobview.Distribution[int64]:
		return distribution(v.Count, float64(v.Sum), float64(v.Min), float64(v.Max))
	case jobview.Distribution[jobview.Float]:
		return distribution(v.Count, float64(v.Sum), float64(v.Min), float64(v.Max))
	case jobview.Set:
		return []sample{{userSize, float64(len(v))}}
	case jobview.Trie:
		return []sample{{userSize, float64(len(v))}}
	case jobview.Numbers[int64]:
		return []sample{{userSize, float64(len(v))}}
	case jobview.Numbers[jobview.Float]:
		return []sample{{userSize, float64(len(v))}}
	case jobview.Histogram:
		return []sample{{userHistogram, float64(v.Count)}}
	}
	return nil // nothing reported, or what can't be read
}

func distribution(count int64, sum, low, high float64) []sample {
	if count == 0 {
		return []sample{{userCount, 0}, {userSum, 0}}
	}
	return []sample{{userCount, float64(count)}, {userSum, sum}, {userMin, low}, {userMax, high}}
}

// label makes text fit for a label.
func label(text string) string {
	if len(text) > maxLabel {
		text = text[:maxLabel]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
