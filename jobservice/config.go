package jobservice

import (
	"errors"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
)

// Config bounds what the service keeps and accepts. Zero values mean the defaults.
type Config struct {
	// Logger receives the service's own news; discarded by default.
	Logger *slog.Logger
	// Options describes our pipeline options for DescribePipelineOptions; empty by default.
	Options []*jobpb.PipelineOptionDescriptor
	// Endpoint (host:port) is where clients reach the staging service. It is
	// used only where a call doesn't tell by which address it came (:authority).
	Endpoint string
	// MaxPipelineBytes is the largest pipeline with its options; 128 MiB by
	// default. The gRPC server must accept such messages: see ServerOptions.
	MaxPipelineBytes int
	// MaxJobs is how many jobs are remembered, running ones included; 1000 by
	// default. A new job takes the place of the one that ended longest ago,
	// then of the oldest that was never run.
	MaxJobs int
	// MaxHistoryBytes bounds the pipelines of all remembered jobs together;
	// 512 MiB by default. It makes room in the same order.
	MaxHistoryBytes int
	// MaxMessages is how many messages a job's log keeps; 10 000 by default.
	MaxMessages int
	// MaxMessageBytes bounds the messages of a job together; 8 MiB by default.
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
