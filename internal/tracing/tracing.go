// Package tracing sends spans to an OpenTelemetry collector, by OTLP over gRPC.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	defaultPort = "4317" // OTLP's
	// exportTimeout bounds one batch with all its retries. Spans that come while a
	// batch can't be sent wait in a queue of 2048, and are dropped past that.
	exportTimeout = 10 * time.Second
	// flushTime is how long Shutdown tries to send what is left.
	flushTime = time.Second
)

// Config says where spans go. Headers, certificates and the sampler may be set by the
// environment variables that the OpenTelemetry specification names (OTEL_…).
type Config struct {
	// Endpoint is host:port of a collector. What is on loopback is spoken to in plain
	// text; others need https://host:port, or http://host:port to do without TLS.
	Endpoint string
	// Version of this build, an attribute of all spans.
	Version string
	// Logger is told when spans can't be sent; discarded by default.
	Logger *slog.Logger
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	_, err := target(c.Endpoint)
	return err
}

// target returns the URL of an endpoint: https:// for TLS, http:// for plain text.
func target(endpoint string) (string, error) {
	scheme, rest, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, rest = "", endpoint
	}
	rest = strings.TrimSuffix(rest, "/")
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		host, port = strings.Trim(rest, "[]"), defaultPort
	}
	switch {
	case host == "" || strings.ContainsAny(host, "/@ "):
		return "", fmt.Errorf("OTLP endpoint %q: want host:port or https://host:port", endpoint)
	case scheme == "" && !loopback(host):
		return "", fmt.Errorf("OTLP endpoint %q is not on this machine: say https://%s, or http://%s to send spans unencrypted", endpoint, rest, rest)
	case scheme != "" && scheme != "http" && scheme != "https":
		return "", fmt.Errorf("OTLP endpoint %q: want host:port, https:// or http://", endpoint)
	}
	return cmp.Or(scheme, "http") + "://" + net.JoinHostPort(host, port), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Provider makes spans and sends them in the background. A collector that can't be
// reached, or is slow, costs spans and one warning, and holds nobody up.
type Provider struct {
	sdk   *sdktrace.TracerProvider
	abort context.CancelFunc
}

// New returns a provider, without waiting for the collector. The caller must call Shutdown.
func New(cfg Config) (*Provider, error) {
	at, err := target(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sender, err := otlptracegrpc.New(context.Background(), // connects later
		otlptracegrpc.WithEndpointURL(at),
		otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: 200 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout,
		}))
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint %q: %w", cfg.Endpoint, err)
	}
	about, err := resource.Merge(resource.NewSchemaless(
		attribute.String("service.name", "lintel"), attribute.String("service.version", cfg.Version)), resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	aborted, abort := context.WithCancel(context.Background())
	return &Provider{
		abort: abort,
		sdk: sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(
			&exporter{SpanExporter: sender, endpoint: cfg.Endpoint, log: cfg.Logger, aborted: aborted},
			sdktrace.WithExportTimeout(exportTimeout),
		)),
	}, nil
}

// Tracer makes spans. It is safe for concurrent use.
func (p *Provider) Tracer() trace.Tracer { return p.sdk.Tracer("github.com/lintelrun/lintel") }

// Shutdown sends what is left, for a second at most, and gives up what can't be sent.
// Spans that end later are lost.
func (p *Provider) Shutdown() error {
	abort := time.AfterFunc(flushTime, p.abort)
	defer abort.Stop()
	defer p.abort()
	ctx, cancel := context.WithTimeout(context.Background(), 2*flushTime) // it ends soon after abort
	defer cancel()
	return p.sdk.Shutdown(ctx)
}

// exporter keeps errors from the SDK, which would write them to standard error.
type exporter struct {
	sdktrace.SpanExporter
	endpoint string
	log      *slog.Logger
	aborted  context.Context // done once there is no more time
	failing  bool
}

// ExportSpans implements sdktrace.SpanExporter: calls follow each other.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.aborted, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil && !e.failing {
		e.log.Warn("spans not sent; jobs go on without", "endpoint", e.endpoint, "spans", len(spans), "error", err)
	}
	e.failing = err != nil
	return nil
}
