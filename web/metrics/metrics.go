// Package metrics holds what Lintel tells Prometheus about itself. Parts of the
// runner don't import it: the wiring in cmd hands its methods to them as callbacks.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the counters of one process. All methods are safe for concurrent use
// and cost a few atomic operations: fit for once a bundle, not for once an element.
type Metrics struct {
	bundles  *prometheus.CounterVec
	seconds  prometheus.Histogram
	elements prometheus.Counter
	bytes    *prometheus.CounterVec
	spilled  prometheus.Counter
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
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v) // shows 0 from the first scrape on
		}
		return c
	}
	m := &Metrics{
		bundles: counters("lintel_bundles_total", "Bundles that ended, by outcome; a failed one may be tried again.", "outcome", "committed", "failed"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lintel_bundle_duration_seconds", Help: "Time from sending a bundle to its outcome.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}),
		elements: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lintel_elements_total", Help: "Input elements of committed bundles."}),
		bytes: counters("lintel_bytes_total", "Encoded bytes of committed bundles, in to harnesses and out of them.", "direction", "in", "out"),
		spilled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lintel_spilled_bytes_total", Help: "Bytes written to disk for want of memory."}),
	}
	reg.MustRegister(m.bundles, m.seconds, m.elements, m.bytes, m.spilled)
	return m
}

// BundleDone counts an attempt of a bundle: its input elements, its bytes in and
// out, and how long it took. Of one that isn't ok only the failure and the time count.
func (m *Metrics) BundleDone(ok bool, elements, inputBytes, outputBytes int, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if !ok {
		m.bundles.WithLabelValues("failed").Inc()
		return
	}
	m.bundles.WithLabelValues("committed").Inc()
	m.elements.Add(float64(elements))
	m.bytes.WithLabelValues("in").Add(float64(inputBytes))
	m.bytes.WithLabelValues("out").Add(float64(outputBytes))
}

// Spilled counts bytes written to disk for want of memory.
func (m *Metrics) Spilled(bytes int64) { m.spilled.Add(float64(bytes)) }
