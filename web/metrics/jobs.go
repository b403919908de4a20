package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterJobs registers the gauge of jobs by state. At every scrape count gives
// the figures, by names of the Job API's JobState; it must be safe for concurrent use.
func RegisterJobs(reg prometheus.Registerer, count func() map[string]int) {
	reg.MustRegister(jobs(count))
}

// RegisterHarnesses registers the gauge of started harnesses. At every scrape count
// gives the figure; it must be safe for concurrent use.
func RegisterHarnesses(reg prometheus.Registerer, count func() int) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lintel_harnesses", Help: "SDK harnesses that have been started and not stopped."},
		func() float64 { return float64(count()) }))
}

var jobsByState = prometheus.NewDesc("lintel_jobs", "Jobs that the server remembers, by the state they are in.", []string{"state"}, nil)

type jobs func() map[string]int

// Describe implements prometheus.Collector.
func (jobs) Describe(c chan<- *prometheus.Desc) { c <- jobsByState }

// Collect implements prometheus.Collector.
func (count jobs) Collect(c chan<- prometheus.Metric) {
	for state, n := range count() {
		c <- prometheus.MustNewConstMetric(jobsByState, prometheus.GaugeValue, float64(n), state)
	}
}

// RegisterCheckpointAges registers the gauge of how old the newest checkpoint of each running job is. At
// every scrape ages gives the figures, by job; it must be safe for concurrent use.
func RegisterCheckpointAges(reg prometheus.Registerer, ages func() map[string]time.Duration) {
	reg.MustRegister(checkpointAges(ages))
}

var checkpointAge = prometheus.NewDesc("lintel_checkpoint_age_seconds",
	"Age of the newest checkpoint of a running job that takes some; without one, how long the job has run.", []string{"job"}, nil)

type checkpointAges func() map[string]time.Duration

// Describe implements prometheus.Collector.
func (checkpointAges) Describe(c chan<- *prometheus.Desc) { c <- checkpointAge }

// Collect implements prometheus.Collector.
func (ages checkpointAges) Collect(c chan<- prometheus.Metric) {
	for job, age := range ages() {
		c <- prometheus.MustNewConstMetric(checkpointAge, prometheus.GaugeValue, age.Seconds(), job)
	}
}
