package jobservice

import (
	"slices"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice/artifact"
)

// Records keep what is known of jobs where it outlives the process. Ids are those
// of Job.ID, fit for file names. Methods for different jobs may be called
// concurrently; for one job, only the readers (Pipeline, Events, Metrics) are.
// Bytes that can't be trusted give errors of class fault.Corruption. An error of
// any method never fails a job: the service goes on without that record.
//
// An implementation passes recordstest.Run.
type Records interface {
	// Load calls fn with every record, in any order, reading no more of it than fn
	// gets. A record that can't be understood is left alone and told by fn's err,
	// with its ID. Records whose Create has not returned, and those that Remove
	// has not removed in full, are gone.
	Load(fn func(r Record, err error)) error
	// Create makes the record of a new job, durable before it returns; the error is
	// fs.ErrExist if there is one of that ID. r.Events are ignored.
	Create(r Record, p *pipepb.Pipeline) (RecordWriter, error)
	// Resume opens the record of a job that has not ended, and returns the events
	// that it has.
	Resume(id string) (RecordWriter, []Event, error)
	// Keep notes what a job that survives the process goes on with, durable before it returns. Kept returns
	// it; the error is fs.ErrNotExist for other jobs.
	Keep(id string, k Kept) error
	Kept(id string) (Kept, error)
	// AddCheckpoint adds to a job's list of checkpoints, durable before it returns, and may drop all but
	// the newest KeptCheckpoints complete and as many failed ones. One goroutine at a time calls it
	// for a job.
	AddCheckpoint(id string, c Checkpoint) error
	// Checkpoints returns the list, oldest first; with an error of class fault.Corruption what
	// can be read of it.
	Checkpoints(id string) ([]Checkpoint, error)
	// Remove drops a record, in whatever condition.
	Remove(id string) error

	// Pipeline returns the pipeline as given to Create.
	Pipeline(id string) (*pipepb.Pipeline, error)
	// Events returns all events that the record has, by Seq. With an error of class
	// fault.Corruption it returns those that can be read.
	Events(id string) ([]Event, error)
	// Metrics returns those of the job's Ending, or empty ones.
	Metrics(id string) (*jobpb.MetricResults, error)
}

// Record is what a list of jobs needs to know of one.
type Record struct {
	ID, Name string
	Prepared time.Time
	Options  *structpb.Struct
	// Bytes is the size of the pipeline and its options.
	Bytes int
	// Ended tells that the job's Ending is there; Events are those of it.
	Ended  bool
	Events []Event
}

// RecordWriter adds to the record of one job that has not ended. After an error
// the same call may be tried again. Methods are called by one goroutine at a time.
type RecordWriter interface {
	// Append adds events to the log, in the order of Seq. They outlive the process
	// once it has returned, but not always a crash of the machine.
	Append(events []Event) error
	// Replace puts events in place of the whole log, all or nothing.
	Replace(events []Event) error
	// End completes the record, durable before it returns.
	End(e Ending) error
	// Close frees what the writer holds. Nothing may follow.
	Close() error
}

// Kept is what a job that survives goes on with, beside its pipeline and checkpoints.
type Kept struct {
	artifact.Staged
	// Replaces is the job whose place it takes, once that is UPDATED, and RestoreFrom that job's savepoint;
	// "" if there is none.
	Replaces, RestoreFrom string
}

// KeptCheckpoints is how many checkpoints a job's list has: so many complete and failed ones each.
const KeptCheckpoints = 100

// Checkpoint is one that is complete or came to nothing.
type Checkpoint struct {
	// Epoch numbers the job's checkpoints; 0 where it did not come to that. Generation is the
	// run of the job.
	Epoch, Generation uint64
	Began, Ended      time.Time
	// Bytes of all its files, and of those that were written for it.
	Bytes, NewBytes int64
	// Savepoint is the URI of what was asked for, "" for a checkpoint.
	Savepoint string
	// Failure is why it came to nothing, "" if it is complete.
	Failure string
}

// TrimCheckpoints drops the oldest of a list of which more are complete, or failed, than are kept.
func TrimCheckpoints(list []Checkpoint) []Checkpoint {
	left := map[bool]int{true: KeptCheckpoints, false: KeptCheckpoints}
	kept := make([]Checkpoint, 0, len(list))
	for _, c := range slices.Backward(list) {
		if left[c.Failure == ""] > 0 {
			kept = append(kept, c)
		}
		left[c.Failure == ""]--
	}
	slices.Reverse(kept)
	return kept
}

// newestComplete returns the epoch of the newest complete checkpoint, 0 if there is none.
func newestComplete(list []Checkpoint) (newest uint64) {
	for _, c := range list {
		if c.Failure == "" {
			newest = max(newest, c.Epoch)
		}
	}
	return newest
}

// Ending is what a record says at last.
type Ending struct {
	// Events are all changes of state, with the reason of a failure and whatever
	// else came with the end.
	Events  []Event
	Metrics *jobpb.MetricResults
}
