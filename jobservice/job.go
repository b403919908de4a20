package jobservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"weak"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/portable/plan"
)

// job is one prepared pipeline and, after Run, its one execution.
type job struct {
	id, name string
	options  *structpb.Struct
	token    string // staging and retrieval; empty for a job of an earlier process
	size     int    // bytes of pipeline and options
	prepared time.Time
	span     trace.Span // root of the job's trace; nil for a job of an earlier process
	records  Records    // nil if jobs are kept in memory only
	// recording is closed once the record of a job of this process is there, or won't be; nil for others.
	recording <-chan struct{}

	mu             sync.Mutex
	state          State
	states         []Event   // entered so far
	started, ended time.Time // zero until then
	failure        string
	ending         bool               // how the job ends is settled, though not shown yet
	cancel         context.CancelFunc // set while it runs
	run            Run                // set while it runs
	handed         chan struct{}      // closed once run is set, or won't be; nil then
	recorder       *recorder          // nil if there is no record, or it is complete
	checkpoints    []Checkpoint       // oldest first, once the record has them nil
	archived       bool               // the record has all there is to know
	checkpointing  bool               // it may have checkpoints to be removed
	survives       bool               // another process can go on with it
	suspended      bool               // and is to
	over           bool               // run has ended
	stopping       *stopping          // how it is being stopped with a savepoint, nil if it isn't
	// replaces is the id of the job whose place it takes, from the savepoint of which it begins; "" if there is none.
	replaces, restoreFrom string
	// The rest is nil once the record has it, which is after the job's end.
	pipeline *pipepb.Pipeline
	plan     *plan.Plan
	journal  *journal
	metrics  *jobpb.MetricResults // final ones

	reading  sync.Mutex            // held while the record's events are read
	restored weak.Pointer[journal] // of those events
}

// enter moves the job to a permitted state that isn't its last. It reports
// false, and does nothing, if the move isn't permitted. The caller holds mu.
func (j *job) enter(to State) bool {
	if j.ending || !permitted(j.state, to) {
		return false
	}
	j.state = to
	j.states = append(j.states, j.journal.add(Event{State: to})...)
	return true
}

// start takes a prepared job to STARTING. It returns false if the job has been
// started before, an error if it can't be started any more.
func (j *job) start(cancel context.CancelFunc) (bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.started.IsZero() {
		return false, nil
	}
	if !j.enter(jobpb.JobState_STARTING) {
		return false, fmt.Errorf("job %s was cancelled before it was run", j.id)
	}
	j.started, j.cancel, j.handed = j.states[len(j.states)-1].Time, cancel, make(chan struct{})
	if j.recorder != nil {
		j.recorder.begin <- true
	}
	return true, nil
}

// awaitRecord waits until the job has a record, and tells whether it has.
func (j *job) awaitRecord(ctx context.Context) bool {
	j.mu.Lock()
	r := j.recorder
	j.mu.Unlock()
	return r != nil && r.exists(ctx)
}

// requestCancel cancels the job in whatever state it is and returns the state after that.
func (j *job) requestCancel() State {
	j.mu.Lock()
	if j.enter(jobpb.JobState_CANCELLING) {
		j.cancel()
	}
	if j.ending || j.state != jobpb.JobState_STOPPED {
		defer j.mu.Unlock()
		return j.state
	}
	last := j.seal(Event{State: jobpb.JobState_CANCELLED})
	if j.recorder != nil {
		j.recorder.begin <- true
	}
	j.mu.Unlock()
	j.settle(last)
	return jobpb.JobState_CANCELLED
}

// requestDrain drains the job if it runs, and returns the state after that. One that
// is being drained or cancelled, or has ended, stays as it is; one that does not run
// yet can't be drained.
func (j *job) requestDrain() (State, error) {
	j.mu.Lock()
	entered := j.enter(jobpb.JobState_DRAINING)
	state, run := j.state, j.run
	j.mu.Unlock()
	switch {
	case entered && run != nil:
		run.Drain() // else execute does, once the executor has started it
	case state == jobpb.JobState_STOPPED || state == jobpb.JobState_STARTING:
		return state, fmt.Errorf("job %s is %v: only a running job can be drained", j.id, state)
	}
	return state, nil
}

// expire ends a job that was never run, so that nobody waits for it any more,
// and leaves its record as it is; false if it has been run.
func (j *job) expire(why string) bool {
	j.mu.Lock()
	if j.ending || j.state != jobpb.JobState_STOPPED {
		j.mu.Unlock()
		return false
	}
	if j.recorder != nil {
		j.recorder.begin <- false
		j.recorder = nil
	}
	last := j.seal(Event{Level: slog.LevelWarn, Text: why}, Event{State: jobpb.JobState_CANCELLED})
	j.mu.Unlock()
	j.settle(last)
	return true
}

// execute runs the job to its end; finish must follow.
func (j *job) execute(ctx context.Context, executor Executor, spec Job) (Run, error) {
	run, err := executor.Start(ctx, spec, sink{j})
	if err != nil {
		return nil, j.notReplaced(err)
	}
	j.mu.Lock()
	j.hand(run)
	draining := j.state == jobpb.JobState_DRAINING
	j.mu.Unlock()
	if draining {
		run.Drain()
	}
	err = run.Wait()
	j.awaitStop()
	return run, err
}

// hand makes the run known to who waits for it, nil once there is none. The caller holds mu.
func (j *job) hand(run Run) {
	j.run = run
	if j.handed != nil {
		close(j.handed)
		j.handed = nil
	}
}

// runs returns the run of a job that is RUNNING or DRAINING, nil for others. The executor may have to hand it over first.
func (j *job) runs(ctx context.Context) (Run, State) {
	for {
		j.mu.Lock()
		run, state, handed := j.run, j.state, j.handed
		j.mu.Unlock()
		if state != jobpb.JobState_RUNNING && state != jobpb.JobState_DRAINING {
			return nil, state
		}
		if handed == nil {
			return run, state
		}
		select {
		case <-handed:
		case <-ctx.Done():
			return nil, state
		}
	}
}

// finish records how the run ended. The run is nil if it never started.
func (j *job) finish(run Run, err error) {
	metrics := &jobpb.MetricResults{}
	if run != nil {
		metrics.Attempted, metrics.Committed = run.Metrics()
	}
	j.mu.Lock()
	j.hand(nil)
	j.cancel = nil
	j.metrics = metrics
	last := j.seal(j.outcome(err)...)
	j.mu.Unlock()
	j.settle(last)
}

// outcome returns the events that end a run. The caller holds mu.
func (j *job) outcome(err error) []Event {
	switch {
	case j.stopping != nil: // the savepoint is complete
		return j.stopping.outcome(j.state)
	case j.state == jobpb.JobState_CANCELLING && (err == nil || errors.Is(err, context.Canceled)):
		return []Event{{State: jobpb.JobState_CANCELLED}}
	case j.state == jobpb.JobState_CANCELLING:
		return []Event{{Level: slog.LevelWarn, Text: "while cancelling: " + err.Error()}, {State: jobpb.JobState_CANCELLED}}
	case err != nil:
		return failed(err.Error())
	case j.state == jobpb.JobState_DRAINING:
		return []Event{{State: jobpb.JobState_DRAINED}}
	case j.state == jobpb.JobState_STARTING:
		return []Event{{State: jobpb.JobState_RUNNING}, {State: jobpb.JobState_DONE}}
	default:
		return []Event{{State: jobpb.JobState_DONE}}
	}
}

func failed(reason string) []Event {
	return []Event{{Level: slog.LevelError, Text: reason, Failure: true}, {State: jobpb.JobState_FAILED}}
}

// seal fixes how the job ends; settle must follow. The caller holds mu.
func (j *job) seal(events ...Event) []Event {
	j.ending = true
	return j.journal.seal(events...)
}

// settle makes the end known: first to the record, then to everybody, so that
// nobody is told what a restart would take back.
func (j *job) settle(last []Event) {
	j.mu.Lock()
	ending := Ending{Events: append(slices.Clone(j.states), last...), Metrics: j.metrics}
	r := j.recorder
	j.mu.Unlock()
	recorded := r != nil && r.end(ending)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.recorder = nil
	j.adopt(ending.Events)
	j.endTrace()
	j.journal.publish(last)
	if recorded {
		j.pipeline, j.journal, j.metrics, j.checkpoints = nil, nil, nil, nil
		j.archived = true
	}
	j.plan = nil
	if j.stopping != nil {
		close(j.stopping.ended)
	}
}

// adopt takes over what events say of the job. The caller holds mu, or is alone.
func (j *job) adopt(events []Event) {
	j.states = nil
	for _, e := range events {
		if e.Failure {
			j.failure = e.Text
		}
		if e.State == jobpb.JobState_UNSPECIFIED {
			continue
		}
		j.states = append(j.states, e)
		j.state = e.State
		if e.State == jobpb.JobState_STARTING {
			j.started = e.Time
		}
		if Terminal(e.State) {
			j.ended = e.Time
		}
	}
}

func (j *job) summary() Summary {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Summary{ID: j.id, Name: j.name, State: j.state,
		Prepared: j.prepared, Started: j.started, Ended: j.ended, Failure: j.failure}
}

// history returns the states entered so far, oldest first.
func (j *job) history() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.states)
}

// current returns the state and when it was entered.
func (j *job) current() Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[len(j.states)-1]
}

// sink is the executor's view of a job.
type sink struct{ job *job }

func (s sink) Message(level slog.Level, text string) {
	s.add(Event{Level: level, Text: text})
}

func (s sink) HarnessMessage(level slog.Level, text string) {
	s.add(Event{Level: level, Text: text, Harness: true})
}

func (s sink) add(e Event) {
	s.job.mu.Lock()
	journal := s.job.journal
	s.job.mu.Unlock()
	if journal != nil { // else the job has ended
		journal.add(e)
	}
}

func (s sink) Running() {
	s.job.mu.Lock()
	defer s.job.mu.Unlock()
	s.job.enter(jobpb.JobState_RUNNING)
}
