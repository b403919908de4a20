package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"

	"github.com/lintelrun/lintel/internal/tracing"
)

// traceConfig says where spans go.
type traceConfig struct {
	endpoint string // of an OTLP collector; "" for nowhere
	bundles  int    // of how many bundles one has a span, 0: the worker's default
}

// addTraceFlags adds the flags of lintel dev for a traceConfig.
func addTraceFlags(cmd *cobra.Command) *traceConfig {
	c := &traceConfig{}
	fs := cmd.Flags()
	fs.StringVar(&c.endpoint, "otlp-endpoint", "", "OpenTelemetry collector (gRPC) that gets the spans of jobs: host:port on this machine, or https://host:port")
	fs.IntVar(&c.bundles, "trace-bundles", 100, "of how many bundles of a stage one has a span; those that fail have one always")
	return c
}

func (c *traceConfig) check() error {
	if c.bundles < 1 {
		return fmt.Errorf("--trace-bundles %d: want 1 or more", c.bundles)
	}
	if c.endpoint == "" {
		return nil
	}
	return tracing.Config{Endpoint: c.endpoint}.Validate()
}

// startTracing connects to the collector, if there is one.
func (s *server) startTracing(c serverConfig) (err error) {
	if c.tracing.endpoint == "" {
		return nil
	}
	s.tracing, err = tracing.New(tracing.Config{Endpoint: c.tracing.endpoint, Version: readBuild().Version, Logger: c.log})
	return err
}

// tracer returns what makes spans, or nil.
func (s *server) tracer() trace.Tracer {
	if s.tracing == nil {
		return nil
	}
	return s.tracing.Tracer()
}
