package main

import (
	"context"
	"log/slog"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/rpc"
)

// executor lets the job service run its jobs on a coordinator.
type executor struct{ *coordinator.Coordinator }

// Start implements jobservice.Executor.
func (e executor) Start(ctx context.Context, job jobservice.Job, sink jobservice.Sink) (jobservice.Run, error) {
	run, err := e.Coordinator.Start(ctx, coordinator.Spec{
		ID:             job.ID,
		Name:           job.Name,
		Plan:           job.Plan,
		Pipeline:       job.Pipeline,
		Options:        job.Options,
		Submitted:      job.Submitted,
		RetrievalToken: job.RetrievalToken,
		Resumed:        job.Resumed,
		AtLeast:        job.AtLeast,
		Checkpoint:     func(c coordinator.Checkpoint) { sink.Checkpoint(recorded(c)) },
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

// Survives implements jobservice.Executor; Forget is the coordinator's.
func (e executor) Survives(job jobservice.Job) bool {
	o, err := options.Read(job.Options)
	if err != nil {
		return false // Start says what is wrong
	}
	takes, err := e.Takes(o, job.Plan.Bounded())
	return takes && err == nil
}

func recorded(c coordinator.Checkpoint) jobservice.Checkpoint {
	r := jobservice.Checkpoint{
		Epoch: c.Epoch, Generation: c.Generation, Began: c.Began, Ended: c.Ended,
		Bytes: c.Bytes, NewBytes: c.NewBytes, Savepoint: c.Savepoint,
	}
	if c.Err != nil {
		r.Failure = c.Err.Error()
	}
	return r
}

var levels = map[rpc.Severity]slog.Level{
	rpc.Debug: slog.LevelDebug,
	rpc.Info:  slog.LevelInfo,
	rpc.Warn:  slog.LevelWarn,
	rpc.Error: slog.LevelError,
}
