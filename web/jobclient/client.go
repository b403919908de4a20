// Package jobclient reads and steers jobs over Beam's Job API and answers in the
// plain values of jobview. Its errors wrap jobview.ErrNotFound or ErrUnreachable
// where that is what happened; all others are the server's own.
package jobclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/web/jobcontrol"
	"github.com/lintelrun/lintel/web/jobview"
)

// ErrUnreachable is wrapped by errors of calls that no server answered.
var ErrUnreachable = errors.New("server unreachable")

// maxMessage is the largest answer taken, in bytes: pipelines may be large.
const maxMessage = 1 << 30

// Client talks to one Job API endpoint. It is safe for concurrent use.
type Client struct {
	endpoint string
	conn     *grpc.ClientConn
	jobs     jobpb.JobServiceClient
	control  jobcontrol.Client
}

// New makes a client of the endpoint "host:port" without connecting; calls fail
// with ErrUnreachable if nobody answers there.
func New(endpoint string) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	return &Client{endpoint: endpoint, conn: conn, jobs: jobpb.NewJobServiceClient(conn), control: jobcontrol.NewClient(conn)}, nil
}

// Close ends the connection and all calls.
func (c *Client) Close() error { return c.conn.Close() }

// List returns all jobs that the server remembers, in its order.
func (c *Client) List(ctx context.Context) ([]jobview.Job, error) {
	r, err := c.jobs.GetJobs(ctx, &jobpb.GetJobsRequest{})
	if err != nil {
		return nil, c.failed("", err)
	}
	jobs := make([]jobview.Job, len(r.GetJobInfo()))
	for i, info := range r.GetJobInfo() {
		jobs[i] = jobview.OfInfo(info)
	}
	return jobs, nil
}

// Describe returns all about one job. For a failed job it reads the job's messages too.
func (c *Client) Describe(ctx context.Context, id string) (jobview.Detail, error) {
	var d jobview.Detail
	state, err := c.jobs.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		return d, c.failed(id, err)
	}
	list, err := c.jobs.GetJobs(ctx, &jobpb.GetJobsRequest{})
	if err != nil {
		return d, c.failed(id, err)
	}
	pipeline, err := c.Pipeline(ctx, id)
	if err != nil {
		return d, err
	}
	d.ID = id
	for _, info := range list.GetJobInfo() {
		if info.GetJobId() == id {
			d.Job, d.Options = jobview.OfInfo(info), info.GetPipelineOptions().AsMap()
		}
	}
	d.State = state.GetState().String()
	if ts := state.GetTimestamp(); ts.IsValid() {
		d.Changed = ts.AsTime()
	}
	d.Pipeline = jobview.OfPipeline(pipeline)
	if d.State == "FAILED" {
		d.Error, err = c.lastError(ctx, id)
	}
	return d, err
}

// Pipeline returns the pipeline of a job as it was submitted.
func (c *Client) Pipeline(ctx context.Context, id string) (*pipepb.Pipeline, error) {
	r, err := c.jobs.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
	if err != nil {
		return nil, c.failed(id, err)
	}
	return r.GetPipeline(), nil
}

// lastError needs a job that has ended, as only then its messages do.
func (c *Client) lastError(ctx context.Context, id string) (text string, err error) {
	err = c.Logs(ctx, id, Follow, func(e jobview.LogEntry) error {
		if e.State == "" && e.Level == jobview.LevelError {
			text = e.Message
		}
		return nil
	})
	return text, err
}

// Cancel asks the job to end and returns the state that this leads to.
func (c *Client) Cancel(ctx context.Context, id string) (state string, err error) {
	r, err := c.jobs.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})
	if err != nil {
		return "", c.failed(id, err)
	}
	return r.GetState().String(), nil
}

// Drain asks the job to come to an end without loss and returns the state that this
// leads to.
func (c *Client) Drain(ctx context.Context, id string) (state string, err error) {
	r, err := c.jobs.Drain(ctx, &jobpb.DrainJobRequest{JobId: id})
	if err != nil {
		return "", c.failed(id, err)
	}
	return r.GetState().String(), nil
}

// Savepoint has a savepoint taken of a job, which goes on, and returns when it is complete. Without a URI the
// server chooses where. Where ctx ends before, it is taken to its end all the same.
func (c *Client) Savepoint(ctx context.Context, id, uri string) (jobview.Savepoint, error) {
	made, err := c.control.Savepoint(ctx, jobcontrol.SavepointRequest{ID: id, URI: uri})
	return made, c.uncontrolled(id, err)
}

// Stop ends a job with a savepoint, which is as that of Savepoint, and returns when it has ended; with drain the
// job is drained before.
func (c *Client) Stop(ctx context.Context, id, uri string, drain bool) (jobview.Savepoint, error) {
	made, err := c.control.Stop(ctx, jobcontrol.StopRequest{SavepointRequest: jobcontrol.SavepointRequest{ID: id, URI: uri}, Drain: drain})
	return made, c.uncontrolled(id, err)
}

// Checkpoints returns the newest checkpoints of a job, oldest first.
func (c *Client) Checkpoints(ctx context.Context, id string) ([]jobview.Checkpoint, error) {
	list, err := c.control.Checkpoints(ctx, jobcontrol.CheckpointsRequest{ID: id})
	return list, c.uncontrolled(id, err)
}

// uncontrolled is failed for calls that other job servers don't have.
func (c *Client) uncontrolled(id string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return err
	case codes.Unimplemented:
		return fmt.Errorf("what answers at %s knows no savepoints: %s", c.endpoint, status.Convert(err).Message())
	}
	return c.failed(id, err)
}

// Metrics returns the job's figures so far, named by the job's pipeline.
func (c *Client) Metrics(ctx context.Context, id string) ([]jobview.Metric, error) {
	r, err := c.jobs.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	if err != nil {
		return nil, c.failed(id, err)
	}
	pipeline, err := c.jobs.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
	if err != nil {
		return nil, c.failed(id, err)
	}
	return jobview.OfMetrics(r.GetMetrics(), pipeline.GetPipeline()), nil
}

// Until says how far Logs reads.
type Until int

const (
	// Now reads what the job has said so far. The Job API doesn't mark where that
	// ends: it is where the stream falls silent for a moment, or after a few
	// seconds for a job that never does.
	Now Until = iota
	// Follow reads on until the job has ended.
	Follow
)

const (
	silence = 250 * time.Millisecond
	nowMost = 10 * time.Second
)

// Logs gives what the job said to each, oldest first, from the job's beginning on.
// An error of each ends it and is returned.
func (c *Client) Logs(ctx context.Context, id string, until Until, each func(jobview.LogEntry) error) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	heard := func() {}
	if until == Now {
		// This call waits for the connection, which isn't part of the silence.
		if _, err := c.jobs.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id}); err != nil {
			return c.failed(id, err)
		}
		quiet := time.AfterFunc(silence, stop)
		defer quiet.Stop()
		defer time.AfterFunc(nowMost, stop).Stop()
		heard = func() { quiet.Reset(silence) }
	}
	reading = metadata.AppendToOutgoingContext(reading, jobservice.HarnessLogs, "yes")
	stream, err := c.jobs.GetMessageStream(reading, &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		return c.failed(id, err)
	}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && reading.Err() != nil && ctx.Err() == nil:
			return nil
		case err != nil:
			return c.failed(id, err)
		}
		heard()
		if err := each(jobview.OfMessage(r)); err != nil {
			return err
		}
	}
}

// failed gives an error of gRPC the class that callers look for, and says where.
func (c *Client) failed(id string, err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		return fmt.Errorf("%w: %s", jobview.ErrNotFound, cmp.Or(id, s.Message()))
	case codes.Unavailable:
		return fmt.Errorf("%w: no answer at %s: %s", ErrUnreachable, c.endpoint, s.Message())
	case codes.Unimplemented:
		return fmt.Errorf("what answers at %s is no Beam job server: %s", c.endpoint, s.Message())
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", c.endpoint, context.DeadlineExceeded)
	}
	return fmt.Errorf("%s: %s (%s)", c.endpoint, s.Message(), s.Code())
}
