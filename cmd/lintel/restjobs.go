package main

import (
	"context"
	"fmt"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/web/jobview"
	"github.com/lintelrun/lintel/web/metrics"
	"github.com/lintelrun/lintel/web/rest"
)

// restJobs shows the job service of this process to the REST API.
type restJobs struct{ service *jobservice.Service }

var _ rest.Jobs = restJobs{}

func (r restJobs) List(context.Context) ([]jobview.Job, error) {
	var jobs []jobview.Job
	for _, s := range r.service.Jobs() {
		jobs = append(jobs, jobOf(s))
	}
	return jobs, nil
}

func (r restJobs) Describe(_ context.Context, id string) (jobview.Detail, error) {
	d, err := r.service.Describe(id)
	if err != nil {
		return jobview.Detail{}, notFound(id, err)
	}
	v := jobview.Detail{Job: jobOf(d.Summary), Pipeline: jobview.OfPipeline(d.Pipeline), Options: d.Options.AsMap(), Error: d.Failure}
	if n := len(d.States); n > 0 {
		v.Changed = d.States[n-1].Time
	}
	return v, nil
}

func (r restJobs) Cancel(ctx context.Context, id string) (string, error) {
	resp, err := r.service.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})
	if err != nil {
		return "", notFound(id, err)
	}
	return resp.GetState().String(), nil
}

func (r restJobs) Drain(ctx context.Context, id string) (string, error) {
	resp, err := r.service.Drain(ctx, &jobpb.DrainJobRequest{JobId: id})
	if err != nil {
		return "", explained(id, err)
	}
	return resp.GetState().String(), nil
}

func (r restJobs) Metrics(_ context.Context, id string) ([]jobview.Metric, error) {
	d, err := r.service.Describe(id)
	if err != nil {
		return nil, notFound(id, err)
	}
	return jobview.OfMetrics(&jobpb.MetricResults{Attempted: d.Attempted, Committed: d.Committed}, d.Pipeline), nil
}

func (r restJobs) Logs(ctx context.Context, id string, each func(jobview.LogEntry) error) error {
	const batch = 1000
	for after := int64(0); ctx.Err() == nil; {
		events, err := r.service.Messages(id, after, batch)
		if err != nil {
			return notFound(id, err)
		}
		for _, e := range events {
			if err := each(entryOf(e)); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(events) < batch {
			return nil
		}
	}
	return ctx.Err()
}

func (r restJobs) Checkpoints(_ context.Context, id string) ([]jobview.Checkpoint, error) {
	list, err := r.service.Checkpoints(id)
	if err != nil {
		return nil, notFound(id, err)
	}
	return jobview.OfCheckpoints(list), nil
}

func (r restJobs) Savepoint(ctx context.Context, id, uri string) (jobview.Savepoint, error) {
	made, err := r.service.Savepoint(ctx, id, uri)
	return jobview.Savepoint{ID: id, URI: made.URI, Bytes: made.Bytes}, explained(id, err)
}

func (r restJobs) Stop(ctx context.Context, id, uri string, drain bool) (jobview.Savepoint, error) {
	made, state, err := r.service.Stop(ctx, id, uri, drain)
	return jobview.Savepoint{ID: id, State: state.String(), URI: made.URI, Bytes: made.Bytes}, explained(id, err)
}

// byState counts jobs for /metrics.
func (r restJobs) byState() map[string]int {
	n := map[string]int{}
	for _, s := range r.service.Jobs() {
		n[s.State.String()]++
	}
	return n
}

// running returns the metrics of jobs that run, for /metrics, oldest jobs first.
func (r restJobs) running() []metrics.JobMetrics {
	var out []metrics.JobMetrics
	for _, s := range r.service.Jobs() {
		if s.Started.IsZero() || jobservice.Terminal(s.State) {
			continue
		}
		if ms, err := r.Metrics(context.Background(), s.ID); err == nil { // else it has just been forgotten
			out = append(out, metrics.JobMetrics{Job: s.ID, Metrics: ms})
		}
	}
	return out
}

func jobOf(s jobservice.Summary) jobview.Job {
	return jobview.Job{ID: s.ID, Name: s.Name, State: s.State.String(), Prepared: s.Prepared, Started: s.Started, Ended: s.Ended}
}

func entryOf(e jobservice.Event) jobview.LogEntry {
	v := jobview.LogEntry{Time: e.Time, Level: jobview.LevelInfo, Message: e.Text}
	switch {
	case e.State != jobpb.JobState_UNSPECIFIED:
		v.State = e.State.String()
	case e.Level >= slog.LevelError:
		v.Level = jobview.LevelError
	case e.Level >= slog.LevelWarn:
		v.Level = jobview.LevelWarn
	case e.Level < slog.LevelInfo:
		v.Level = jobview.LevelDebug
	}
	return v
}

// explained gives an error about what is done to a job the class that callers look for.
func explained(id string, err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.Unavailable:
		return fmt.Errorf("%w: %s", jobview.ErrState, status.Convert(err).Message())
	case codes.InvalidArgument:
		return fmt.Errorf("%w: %s", jobview.ErrInvalid, status.Convert(err).Message())
	}
	return notFound(id, err)
}

func notFound(id string, err error) error {
	if status.Code(err) == codes.NotFound {
		return fmt.Errorf("%w: %s", jobview.ErrNotFound, id)
	}
	return err
}
