package jobservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/portable/plan"
)

// job is one prepared pipeline and, after Run, its one execution.
type job struct {
	id, name string
	pipeline *pipepb.Pipeline
	options  *structpb.Struct
	plan     *plan.Plan
	token    string // staging and retrieval
	size     int    // bytes of pipeline and options
	prepared time.Time
	journal  *journal

	mu                   sync.Mutex
	state                State
	started, ended       time.Time // zero until then
	failure              string
	cancel               context.CancelFunc // set while it runs
	run                  Run                // set while it runs
	attempted, committed []*pipepb.MonitoringInfo
}

// enter moves the job to a permitted state, with the events that explain it
// before. It reports false, and does nothing, if the move isn't permitted.
// The caller holds mu.
func (j *job) enter(to State, why ...Event) bool {
	if !permitted(j.state, to) {
		return false
	}
	j.state = to
	j.journal.add(Terminal(to), append(why, Event{State: to})...)
	if Terminal(to) {
		j.ended = j.journal.now()
	}
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
	j.started, j.cancel = j.journal.now(), cancel
	return true, nil
}

// requestCancel cancels the job in whatever state it is and returns the state after that.
func (j *job) requestCancel() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.enter(jobpb.JobState_CANCELLING) {
		j.cancel()
	} else {
		j.enter(jobpb.JobState_CANCELLED) // permitted if it never ran
	}
	return j.state
}

// expire ends a job that was never run, so that nobody waits for it any more;
// false if it has been run.
func (j *job) expire() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state == jobpb.JobState_STOPPED && j.enter(jobpb.JobState_CANCELLED)
}

// execute runs the job to its end; finish must follow.
func (j *job) execute(ctx context.Context, executor Executor, spec Job) (Run, error) {
	run, err := executor.Start(ctx, spec, sink{j})
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.run = run
	j.mu.Unlock()
	return run, run.Wait()
}

// finish records how the run ended. The run is nil if it never started.
func (j *job) finish(run Run, err error) {
	var attempted, committed []*pipepb.MonitoringInfo
	if run != nil {
		attempted, committed = run.Metrics()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.run, j.cancel = nil, nil
	j.attempted, j.committed = attempted, committed
	switch {
	case j.state == jobpb.JobState_CANCELLING:
		var why []Event
		if err != nil && !errors.Is(err, context.Canceled) {
			why = append(why, Event{Level: slog.LevelWarn, Text: "while cancelling: " + err.Error()})
		}
		j.enter(jobpb.JobState_CANCELLED, why...)
	case err == nil:
		j.enter(jobpb.JobState_RUNNING) // refused if it runs already
		j.enter(jobpb.JobState_DONE)
	default:
		j.failure = clipText(err.Error(), j.journal.maxText)
		j.enter(jobpb.JobState_FAILED, Event{Level: slog.LevelError, Text: err.Error(), Failure: true})
	}
}

// metrics returns those of the running job or the final ones.
func (j *job) metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	j.mu.Lock()
	run := j.run
	attempted, committed = j.attempted, j.committed
	j.mu.Unlock()
	if run != nil {
		return run.Metrics()
	}
	return attempted, committed
}

// current returns the state and when it was entered.
func (j *job) current() Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	states, _, _ := j.journal.since(0, len(transitions)+1, true)
	return states[len(states)-1]
}

// sink is the executor's view of a job.
type sink struct{ job *job }

func (s sink) Message(level slog.Level, text string) {
	s.job.journal.add(false, Event{Level: level, Text: text})
}

func (s sink) HarnessMessage(level slog.Level, text string) {
	s.job.journal.add(false, Event{Level: level, Text: text, Harness: true})
}

func (s sink) Running() {
	s.job.mu.Lock()
	defer s.job.mu.Unlock()
	s.job.enter(jobpb.JobState_RUNNING)
}
