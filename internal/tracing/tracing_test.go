package tracing_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/internal/tracing"
	"github.com/lintelrun/lintel/internal/tracing/tracingtest"
)

func TestSpansArrive(t *testing.T) {
	testkit.Leaks(t)
	r := tracingtest.Start(t)
	p, err := tracing.New(tracing.Config{Endpoint: r.Endpoint, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, root := p.Tracer().Start(t.Context(), "root")
	_, child := p.Tracer().Start(ctx, "child")
	child.RecordError(errors.New("bad"))
	child.SetStatus(codes.Error, "bad")
	child.End()
	root.End()
	if err := p.Shutdown(); err != nil {
		t.Fatal(err)
	}
	spans := r.Spans()
	if len(spans) != 2 || spans[0].Name != "child" || spans[0].Parent != "root" || !spans[0].Failed() || spans[1].Parent != "" {
		t.Errorf("received %v", spans)
	}
}

// A collector that isn't there, or takes connections and says nothing, holds nobody up.
func TestCollectorThatDoesNotAnswer(t *testing.T) {
	testkit.Leaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for what, at := range map[string]string{"silent": l.Addr().String(), "absent": gone.Addr().String()} {
		var log bytes.Buffer
		begin := time.Now()
		p, err := tracing.New(tracing.Config{Endpoint: at, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 10_000 { // more than the queue holds
			_, span := p.Tracer().Start(t.Context(), "span")
			span.End()
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%s: spans took %v", what, took)
		}
		if err := p.Shutdown(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: all took %v", what, took)
		}
		if n := strings.Count(log.String(), "spans not sent"); n != 1 {
			t.Errorf("%s: %d warnings, want one: %s", what, n, log.String())
		}
	}
}

func TestEndpoints(t *testing.T) {
	for endpoint, want := range map[string]string{
		"127.0.0.1:4317":         "",
		"localhost":              "",
		"[::1]:4317":             "",
		"https://collector:4317": "",
		"https://collector/":     "",
		"http://collector:4317":  "",
		"collector:4317":         "https://collector:4317",
		"10.0.0.1:4317":          "not on this machine",
		"grpc://collector:4317":  "https://",
		"":                       "host:port",
		"https://":               "host:port",
		"https://a/b":            "host:port",
	} {
		err := tracing.Config{Endpoint: endpoint}.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("endpoint %q: %v, want %q", endpoint, err, want)
		}
	}
}
