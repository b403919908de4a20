package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/runner/coordinator"
	"github.com/lintelrun/lintel/runner/rpc"
)

// executor lets the job service run its jobs on a coordinator.
type executor struct {
	*coordinator.Coordinator
	savepoints savepointFolders
}

// Start implements jobservice.Executor.
func (e executor) Start(ctx context.Context, job jobservice.Job, sink jobservice.Sink) (jobservice.Run, error) {
	job.Options = restoring(job.Options, job.RestoreFrom)
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
	return jobRun{run}, nil
}

// restoring returns options with which a job begins with a savepoint, if there is one.
func restoring(given *structpb.Struct, savepoint string) *structpb.Struct {
	if savepoint == "" {
		return given
	}
	fields := maps.Clone(given.GetFields())
	if fields == nil {
		fields = map[string]*structpb.Value{}
	}
	for name, value := range map[string]string{"restore_from": savepoint, "update": "false", "update_job": "", "update_savepoint": ""} {
		fields[options.Key(name)] = structpb.NewStringValue(value)
	}
	return &structpb.Struct{Fields: fields}
}

// jobRun is a job of the coordinator as the job service knows it.
type jobRun struct{ *coordinator.Job }

func (r jobRun) Wait() error {
	err := r.Job.Wait()
	if errors.Is(err, coordinator.ErrStopped) {
		return jobservice.ErrStopped
	}
	return err
}

func (r jobRun) Savepoint(ctx context.Context, uri string) (jobservice.Savepoint, error) {
	return savepointAt(uri)(r.Job.Savepoint(ctx, uri))
}

func (r jobRun) Stop(ctx context.Context, uri string, drain bool) (jobservice.Savepoint, error) {
	return savepointAt(uri)(r.Job.Stop(ctx, uri, drain))
}

func savepointAt(uri string) func(*protocol.Manifest, error) (jobservice.Savepoint, error) {
	return func(m *protocol.Manifest, err error) (jobservice.Savepoint, error) {
		if err != nil {
			return jobservice.Savepoint{}, err
		}
		total, _ := m.Bytes()
		return jobservice.Savepoint{URI: uri, Bytes: total}, nil
	}
}

// SavepointURI implements jobservice.Executor.
func (e executor) SavepointURI(job, uri string) (string, error) {
	return e.savepoints.place(job, uri, time.Now())
}

// CheckUpdate implements jobservice.Executor.
func (e executor) CheckUpdate(running, next jobservice.Job) error {
	o, err := options.Read(next.Options)
	if err != nil {
		return err
	}
	return coordinator.CheckUpdate(running.Plan, next.Plan, o)
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

// recorded is a checkpoint as it is after a restart too: times are those of the wall clock only.
func recorded(c coordinator.Checkpoint) jobservice.Checkpoint {
	r := jobservice.Checkpoint{
		Epoch: c.Epoch, Generation: c.Generation, Began: c.Began.Round(0), Ended: c.Ended.Round(0),
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
