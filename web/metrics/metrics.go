// Package metrics holds what Lintel tells Prometheus about itself. Parts of the
// runner don't import it: the wiring in cmd hands its methods to them as callbacks.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the counters and gauges of one process. All methods are safe for
// concurrent use and cost a few atomic operations: fit for once a bundle, not for
// once an element.
type Metrics struct {
	jobs        *prometheus.GaugeVec
	transitions *prometheus.CounterVec
	bundles     *prometheus.CounterVec
	inFlight    prometheus.Gauge
	seconds     prometheus.Histogram
	elements    *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	harnesses   *prometheus.GaugeVec
	spilled     prometheus.Counter
}

// NewRegistry makes a registry with the Go runtime's and the process's own metrics
// and one that names the build.
func NewRegistry(version, revision, goVersion string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "lintel_build_info", Help: "Always 1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": goVersion}})
	build.Set(1)
	reg.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return reg
}

// New registers Lintel's metrics with reg, which must not have them yet.
func New(reg prometheus.Registerer) *Metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &Metrics{
		jobs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lintel_jobs", Help: "Jobs by the state they are in."}, []string{"state"}),
		transitions: counters("lintel_job_transitions_total", "Times that a job came into the state.", "state"),
		bundles:     counters("lintel_bundles_total", "Bundles that ended, by outcome: committed or failed.", "outcome"),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lintel_bundles_in_flight", Help: "Bundles that harnesses work on now."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lintel_bundle_duration_seconds", Help: "Time from sending a bundle to its commit or failure.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}),
		elements: counters("lintel_elements_total", "Elements of committed bundles, by direction: in to harnesses or out of them.", "direction"),
		bytes:    counters("lintel_bytes_total", "Encoded bytes of committed bundles, by direction: in to harnesses or out of them.", "direction"),
		harnesses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lintel_harnesses", Help: "Connected SDK harnesses, by environment URN."}, []string{"environment"}),
		spilled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lintel_spilled_bytes_total", Help: "Bytes written to disk for want of memory."}),
	}
	reg.MustRegister(m.jobs, m.transitions, m.bundles, m.inFlight, m.seconds, m.elements, m.bytes, m.harnesses, m.spilled)
	for _, outcome := range []string{"committed", "failed"} {
		m.bundles.WithLabelValues(outcome)
	}
	for _, direction := range []string{"in", "out"} {
		m.elements.WithLabelValues(direction)
		m.bytes.WithLabelValues(direction)
	}
	return m
}

// JobState counts a job that goes from one state to another, by names of the Job
// API's JobState. An empty from stands for a new job, an empty to for a forgotten one.
func (m *Metrics) JobState(from, to string) {
	if from == to {
		return
	}
	if from != "" {
		m.jobs.WithLabelValues(from).Dec()
	}
	if to != "" {
		m.jobs.WithLabelValues(to).Inc()
		m.transitions.WithLabelValues(to).Inc()
	}
}

// BundleStarted counts a bundle sent to a harness; BundleCommitted or BundleFailed follows.
func (m *Metrics) BundleStarted() { m.inFlight.Inc() }

// Flow is what a bundle carried, in elements and encoded bytes.
type Flow struct {
	ElementsIn, ElementsOut int64
	BytesIn, BytesOut       int64
}

// BundleCommitted counts a bundle whose result stands.
func (m *Metrics) BundleCommitted(took time.Duration, f Flow) {
	m.ended("committed", took)
	m.elements.WithLabelValues("in").Add(float64(f.ElementsIn))
	m.elements.WithLabelValues("out").Add(float64(f.ElementsOut))
	m.bytes.WithLabelValues("in").Add(float64(f.BytesIn))
	m.bytes.WithLabelValues("out").Add(float64(f.BytesOut))
}

// BundleFailed counts a bundle whose result is dropped.
func (m *Metrics) BundleFailed(took time.Duration) { m.ended("failed", took) }

func (m *Metrics) ended(outcome string, took time.Duration) {
	m.inFlight.Dec()
	m.bundles.WithLabelValues(outcome).Inc()
	m.seconds.Observe(took.Seconds())
}

// HarnessConnected and HarnessGone count the harnesses of an environment URN.
func (m *Metrics) HarnessConnected(environment string) {
	m.harnesses.WithLabelValues(environment).Inc()
}

// HarnessGone is the end of what HarnessConnected began.
func (m *Metrics) HarnessGone(environment string) { m.harnesses.WithLabelValues(environment).Dec() }

// Spilled counts bytes written to disk for want of memory.
func (m *Metrics) Spilled(bytes int64) { m.spilled.Add(float64(bytes)) }
