package main

import (
	"context"
	"log/slog"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/rpc"
)

// executor lets the job service run its jobs on a coordinator.
type executor struct{ *coordinator.Coordinator }

// Start implements jobservice.Executor.
func (e executor) Start(ctx context.Context, job jobservice.Job, sink jobservice.Sink) (jobservice.Run, error) {
	run, err := e.Coordinator.Start(ctx, coordinator.Spec{
		ID:             job.ID,
		Plan:           job.Plan,
		Environments:   job.Pipeline.GetComponents().GetEnvironments(),
		Options:        job.Options,
		RetrievalToken: job.RetrievalToken,
		Log: func(m rpc.Message) {
			add := sink.Message
			if m.Harness {
				add = sink.HarnessMessage
			}
			add(levels[m.Severity], m.Source+": "+m.Text)
		},
	})
	if err != nil {
		return nil, err
	}
	sink.Running()
	return run, nil
}

var levels = map[rpc.Severity]slog.Level{
	rpc.Debug: slog.LevelDebug,
	rpc.Info:  slog.LevelInfo,
	rpc.Warn:  slog.LevelWarn,
	rpc.Error: slog.LevelError,
}
