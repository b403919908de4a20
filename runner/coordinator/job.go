package coordinator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/options"
	"github.com/lintelrun/lintel/runner/rpc"
)

// Job is one that was started: one run, or generation, after the other. Safe for concurrent use.
type Job struct {
	c          *Coordinator
	spec       Spec
	options    *options.Options
	deployment rpc.Deployment
	restarts   *restarts
	// checkpoints is nil for a job that takes none.
	checkpoints *jobCheckpoints

	mu       sync.Mutex
	current  *generation // the newest; nil before the first
	draining bool
	last     *savepoint // that the job ends with; nil for none
	over     bool       // no other is taken

	done chan struct{}
	err  error // set before done is closed
}

// jobCheckpoints is what all generations of a job have in common.
type jobCheckpoints struct {
	folder   checkpointing.Store
	schedule protocol.Schedule
	pipeline protocol.Pipeline
	plan     [32]byte
	// submission is the pipeline as submitted, of pipelineBytes, and then its options.
	submission    []byte
	pipelineBytes int64
	// atLeast is the newest epoch known to be complete. Of whoever leads the job.
	atLeast uint64
	trouble storeTrouble
}

// generation is one run of a job.
type generation struct {
	ctx    context.Context
	cancel context.CancelFunc
	exec   rpc.Execution
	loop   *loop // nil without checkpoints
}

// Wait returns when the job has ended and its harnesses are gone, as rpc.Execution has it: nil if it is done, ErrStopped
// if it was stopped, the error that failed it, or that of the context of Start.
func (j *Job) Wait() error {
	<-j.done
	return j.err
}

// Drain asks the job to come to an end without loss, over failures too. It returns at once.
func (j *Job) Drain() {
	j.mu.Lock()
	j.draining = true
	g := j.current
	j.mu.Unlock()
	if g != nil {
		g.exec.Drain()
	}
}

// Metrics go on over failures from what the checkpoint had; see rpc.Execution.
func (j *Job) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	j.mu.Lock()
	g := j.current
	j.mu.Unlock()
	if g == nil {
		return nil, nil
	}
	return g.exec.Metrics()
}

// prepare makes the job one with checkpoints.
func (j *Job) prepare() error {
	o, cfg := j.options.Checkpoints, j.c.cfg.Checkpoints
	folder, err := checkpointing.Folder(cfg.Store, j.spec.ID)
	if err != nil {
		return err
	}
	k := &jobCheckpoints{
		folder: folder, atLeast: j.spec.AtLeast, pipeline: Describe(j.spec.Plan), plan: sha256.Sum256([]byte(j.spec.Plan.Text())),
		schedule: protocol.Schedule{
			Interval: o.Interval, MinPause: o.MinPause, Timeout: o.Timeout, MaxFailures: o.MaxFailures, Concurrent: o.Concurrent,
		},
	}
	waits := j.spec.Plan.Waits()
	switch {
	case o.Interval > 0:
	case !o.Off && (waits || !j.spec.Plan.Bounded()):
		k.schedule.Interval = cfg.Interval
	case waits:
		return fault.New(fault.Invalid, "pipeline option checkpoint_interval is 0, but the job goes on after failures and has transforms that wait for its checkpoints: those that require stable input, or bundle finalisation")
	}
	if err := k.schedule.Validate(); err != nil {
		return err
	}
	marshal := proto.MarshalOptions{Deterministic: true}
	if k.submission, err = marshal.Marshal(j.spec.Pipeline); err != nil {
		return fmt.Errorf("pipeline: %w", err)
	}
	k.pipelineBytes = int64(len(k.submission))
	if k.submission, err = marshal.MarshalAppend(k.submission, j.spec.Options); err != nil {
		return fmt.Errorf("pipeline options: %w", err)
	}
	j.checkpoints = k
	return nil
}

// begin starts a generation, which has all of its state when it returns.
func (j *Job) begin(ctx context.Context) (*generation, error) {
	if j.checkpoints != nil {
		return j.recover(ctx)
	}
	g, err := j.deploy(ctx, j.deployment)
	if err != nil {
		return nil, err
	}
	j.install(g)
	return g, nil
}

// deploy starts the tasks of a generation.
func (j *Job) deploy(ctx context.Context, d rpc.Deployment) (*generation, error) {
	g := &generation{}
	g.ctx, g.cancel = context.WithCancel(ctx)
	var err error
	if g.exec, err = j.c.cfg.Worker.Deploy(g.ctx, d); err != nil {
		g.cancel()
		return nil, err
	}
	j.c.cfg.Logger.Info("job deployed", "job", d.JobID, "generation", d.Generation, "stages", len(d.Plan.Stages), "parallelism", d.Parallelism)
	return g, nil
}

// stop ends a generation that is not to be led.
func (g *generation) stop() {
	g.cancel()
	_ = g.exec.Wait() // it was cancelled
}

// install makes a generation the present one.
func (j *Job) install(g *generation) {
	j.mu.Lock()
	j.current = g
	draining := j.draining
	j.mu.Unlock()
	if draining {
		g.exec.Drain()
	}
}

// lead follows the job to its end.
func (j *Job) lead(ctx context.Context, g *generation) {
	defer close(j.done)
	for {
		err := g.run()
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrStopped) {
			if g, err = j.again(ctx, err); err == nil {
				continue
			}
		}
		j.takeLast(ctx, nil) // there is none any more if the job is done
		j.err = err
		return
	}
}

// run returns how the generation has ended, once nothing of it runs any more.
func (g *generation) run() error {
	defer g.cancel()
	if g.loop == nil {
		return g.exec.Wait()
	}
	failed := make(chan error, 1)
	go func() {
		err := g.loop.run(g.ctx)
		if err != nil {
			g.cancel()
		}
		failed <- err
	}()
	err := g.exec.Wait()
	if err == nil {
		g.loop.job.takeLast(g.ctx, g.loop)
	}
	g.cancel()
	failure := <-failed
	if failure == nil || err == nil && fault.ClassOf(failure) != fault.Fenced { // all is done, and still ours
		return err
	}
	return failure
}

// say adds to the job's log.
func (j *Job) say(level rpc.Severity, format string, args ...any) {
	j.spec.Log(rpc.Message{Severity: level, Source: "checkpoints", Text: fmt.Sprintf(format, args...)})
}

// again starts the job after a failure, as often as it may be. It returns the error that it fails with.
func (j *Job) again(ctx context.Context, why error) (*generation, error) {
	if j.checkpoints == nil {
		return nil, why
	}
	for {
		delay, ok := j.restarts.next(why, time.Now())
		if !ok {
			return nil, why
		}
		j.say(rpc.Warn, "the job failed, and goes on from its newest checkpoint in %v: %v", delay, why)
		j.c.cfg.Logger.Warn("job restarts", "job", j.spec.ID, "in", delay, "error", why)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		g, err := j.begin(ctx)
		if err == nil {
			return g, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		why = err
	}
}
