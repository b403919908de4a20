// Package tracingtest receives spans in tests as a collector does.
package tracingtest

import (
	"context"
	"net"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Receiver is an OTLP receiver on loopback.
type Receiver struct {
	collectorpb.UnimplementedTraceServiceServer
	// Endpoint is its host:port.
	Endpoint string

	mu    sync.Mutex
	spans []Span
}

// Span is a span that has ended.
type Span struct {
	*tracepb.Span
	// Parent is the name of the span's parent; "" for a root, "?" if it has not ended.
	Parent string
	// Attributes by their keys: strings, int64s, bools.
	Attributes map[string]any
}

// Failed tells whether the span ended in an error.
func (s Span) Failed() bool { return s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR }

// Start starts a receiver that ends with the test.
func Start(t testing.TB) *Receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Receiver{Endpoint: l.Addr().String()}
	g := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(g, r)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Errorf("OTLP receiver: %v", err)
		}
	})
	return r
}

// Export implements the collector's TraceService.
func (r *Receiver) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.spans = append(r.spans, Span{Span: s, Attributes: attributes(s.GetAttributes())})
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// Spans returns what has come so far, in the order of the ends.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[string]string{"": ""}
	for _, s := range r.spans {
		names[string(s.GetSpanId())] = s.GetName()
	}
	out := make([]Span, len(r.spans))
	for i, s := range r.spans {
		name, ok := names[string(s.GetParentSpanId())]
		if !ok {
			name = "?"
		}
		s.Parent = name
		out[i] = s
	}
	return out
}

func attributes(list []*commonpb.KeyValue) map[string]any {
	out := map[string]any{}
	for _, a := range list {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[a.GetKey()] = v.IntValue
		case *commonpb.AnyValue_BoolValue:
			out[a.GetKey()] = v.BoolValue
		}
	}
	return out
}
