package jobservice_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice"
)

// executor runs jobs that do what the test tells them.
type executor struct {
	startErr error
	// auto ends every run at once.
	auto bool
	// survives is what Survives says of all jobs.
	survives bool

	mu     sync.Mutex
	runs   map[string]*run
	forgot []string
	starts int
}

// run is a job under the test's control.
type run struct {
	ctx     context.Context
	job     jobservice.Job
	sink    jobservice.Sink
	started chan struct{} // closed once Start was called
	result  chan error    // what Wait returns; buffered
	// stubborn runs don't end when they are cancelled; set before the start.
	stubborn bool
	drained  atomic.Bool // Drain was called
	// takes, if not nil, is called for each savepoint; set before that.
	takes func(uri string) error
	// onStart, if not nil, is called before the executor hands the run over; set
	// before the start.
	onStart func(*run)
}

// run returns the run of a job, which may start a little later.
func (e *executor) run(id string) *run {
	r := e.get(id)
	<-r.started
	return r
}

func (e *executor) get(id string) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.runs[id]
	if !ok {
		r = &run{started: make(chan struct{}), result: make(chan error, 1)}
		e.runs[id] = r
	}
	return r
}

// forget drops the run of a job that has ended.
func (e *executor) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.runs, id)
}

func (e *executor) Start(ctx context.Context, job jobservice.Job, sink jobservice.Sink) (jobservice.Run, error) {
	r := e.get(job.ID)
	r.ctx, r.job, r.sink = ctx, job, sink
	if e.auto {
		r.end(nil)
	}
	e.mu.Lock()
	e.starts++
	e.mu.Unlock()
	close(r.started) // a second start of a job panics
	if r.onStart != nil {
		r.onStart(r)
	}
	if e.startErr != nil {
		return nil, e.startErr
	}
	return r, nil
}

func (e *executor) Survives(jobservice.Job) bool { return e.survives }

func (e *executor) Forget(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgot = append(e.forgot, id)
	return nil
}

func (e *executor) forgotten() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.forgot)
}

func (r *run) Wait() error {
	if r.stubborn {
		return <-r.result
	}
	select {
	case err := <-r.result:
		return err
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// end makes Wait return err; the first call counts.
func (r *run) end(err error) {
	select {
	case r.result <- err:
	default:
	}
}

func (e *executor) SavepointURI(id, uri string) (string, error) {
	if strings.HasPrefix(uri, "elsewhere:") {
		return "", fault.New(fault.Invalid, "%s is not below a folder for savepoints", uri)
	}
	return cmp.Or(uri, "savepoints:"+id), nil
}

// CheckUpdate refuses options that say so.
func (e *executor) CheckUpdate(running, next jobservice.Job) error {
	if running.Plan == nil || next.Plan == nil || running.ID == "" {
		return fmt.Errorf("update of %+v to %+v", running, next)
	}
	if why := next.Options.GetFields()["refuse"].GetStringValue(); why != "" {
		return fault.New(fault.Invalid, "%s", why)
	}
	return nil
}

func (r *run) Savepoint(_ context.Context, uri string) (jobservice.Savepoint, error) {
	if r.takes != nil {
		if err := r.takes(uri); err != nil {
			return jobservice.Savepoint{}, err
		}
	}
	return jobservice.Savepoint{URI: uri, Bytes: 42}, nil
}

func (r *run) Stop(ctx context.Context, uri string, drain bool) (jobservice.Savepoint, error) {
	r.drained.Store(drain)
	made, err := r.Savepoint(ctx, uri)
	switch {
	case drain:
		r.end(nil)
	case err == nil:
		r.end(fmt.Errorf("job: %w", jobservice.ErrStopped))
	}
	return made, err
}

func (r *run) Drain() { r.drained.Store(true) }

func (r *run) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	return []*pipepb.MonitoringInfo{{Urn: "attempted"}, {Urn: "committed"}}, []*pipepb.MonitoringInfo{{Urn: "committed"}}
}
