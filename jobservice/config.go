package jobservice

import (
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/portable/options"
)

// Config bounds what the service keeps and accepts. Zero values mean the defaults.
type Config struct {
	// Logger receives the service's own news; discarded by default.
	Logger *slog.Logger
	// Tracer makes the spans of submissions, and the root span of each job, which the
	// context of Executor.Start has. By default there are none.
	Tracer trace.Tracer
	// Options is what DescribePipelineOptions answers; empty by default.
	Options []options.Descriptor
	// Records keep jobs over a restart. Without them, the default, jobs are kept
	// in memory and end with the process. They are this service's alone.
	Records Records
	// Endpoint (host:port) is where clients reach the staging service. It is
	// used only where a call doesn't tell by which address it came (:authority).
	Endpoint string
	// PlanTimeout bounds the planning of one pipeline at Prepare, waiting for its
	// turn included, as there are no more plans made at once than there are CPUs;
	// 30 s by default.
	PlanTimeout time.Duration
	// JobRetention is how long a job is remembered after its end; 7 days by default.
	// Its artifacts go with its end.
	JobRetention time.Duration
	// PreparedRetention is how long a prepared job may wait to be run, once
	// its artifacts are staged; 1 h by default. Then it goes, and they do.
	PreparedRetention time.Duration
	// MaxPipelineBytes is the largest pipeline with its options; 128 MiB by
	// default. The gRPC server must accept such messages: see ServerOptions.
	MaxPipelineBytes int
	// MaxJobs is how many jobs are remembered, running ones included; 1000 by
	// default. A new job takes the place of the one that ended longest ago,
	// then of the oldest that was never run.
	MaxJobs int
	// MaxHistoryBytes bounds the pipelines of all remembered jobs together;
	// 512 MiB by default. It makes room in the same order. With Records, those of
	// ended jobs take disk, not memory.
	MaxHistoryBytes int
	// MaxMessages is how many messages a job's log keeps; 10 000 by default.
	MaxMessages int
	// MaxMessageBytes bounds the messages of a job together; 8 MiB by default.
	// A record takes three times as much at most.
	MaxMessageBytes int
	// MaxTextBytes bounds one message, whose middle is then left out; 256 KiB
	// by default. Clients accept gRPC messages of 4 MiB.
	MaxTextBytes int
}

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	for _, limit := range []int{c.MaxPipelineBytes, c.MaxJobs, c.MaxHistoryBytes, c.MaxMessages, c.MaxMessageBytes, c.MaxTextBytes} {
		if limit < 0 {
			return errors.New("jobservice: limits in Config must not be negative")
		}
	}
	for _, d := range []time.Duration{c.PlanTimeout, c.JobRetention, c.PreparedRetention} {
		if d < 0 {
			return errors.New("jobservice: durations in Config must not be negative")
		}
	}
	if c.MaxTextBytes > 3<<20 {
		return errors.New("jobservice: Config.MaxTextBytes must be at most 3 MiB")
	}
	return nil
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		limit *int
		value int
	}{
		{&c.MaxPipelineBytes, 128 << 20},
		{&c.MaxJobs, 1000},
		{&c.MaxHistoryBytes, 512 << 20},
		{&c.MaxMessages, 10_000},
		{&c.MaxMessageBytes, 8 << 20},
		{&c.MaxTextBytes, 256 << 10},
	} {
		if *d.limit == 0 {
			*d.limit = d.value
		}
	}
	for _, d := range []struct {
		duration *time.Duration
		value    time.Duration
	}{
		{&c.PlanTimeout, 30 * time.Second},
		{&c.JobRetention, 7 * 24 * time.Hour},
		{&c.PreparedRetention, time.Hour},
	} {
		if *d.duration == 0 {
			*d.duration = d.value
		}
	}
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ServerOptions returns what a gRPC server for this service needs: messages of
// the size of the largest pipeline.
func (c Config) ServerOptions() []grpc.ServerOption {
	const envelope = 1 << 20
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(c.withDefaults().MaxPipelineBytes + envelope)}
}
