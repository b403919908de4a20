package jobservice

import (
	"slices"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// State is a state of the Job API's life cycle (JobState.Enum in beam_job_api.proto).
type State = jobpb.JobState_Enum

// transitions lists where a job may go from each state. A state without
// successors is terminal. One that is stopped with a savepoint goes on meanwhile, and so it does if that
// fails: it is CANCELLED, DRAINED or, where another takes its place, UPDATED once it has been stopped.
var transitions = map[State][]State{
	jobpb.JobState_STOPPED:    {jobpb.JobState_STARTING, jobpb.JobState_CANCELLED},
	jobpb.JobState_STARTING:   {jobpb.JobState_RUNNING, jobpb.JobState_FAILED, jobpb.JobState_CANCELLING},
	jobpb.JobState_RUNNING:    {jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLING, jobpb.JobState_DRAINING, jobpb.JobState_CANCELLED, jobpb.JobState_UPDATED},
	jobpb.JobState_DRAINING:   {jobpb.JobState_DRAINED, jobpb.JobState_FAILED, jobpb.JobState_CANCELLING},
	jobpb.JobState_CANCELLING: {jobpb.JobState_CANCELLED},
	jobpb.JobState_DONE:       nil,
	jobpb.JobState_DRAINED:    nil,
	jobpb.JobState_FAILED:     nil,
	jobpb.JobState_CANCELLED:  nil,
	jobpb.JobState_UPDATED:    nil,
}

// Terminal tells whether a job in state s has ended for good.
func Terminal(s State) bool {
	next, known := transitions[s]
	return known && len(next) == 0
}

func permitted(from, to State) bool { return slices.Contains(transitions[from], to) }
