package jobservice

import (
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"
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

// Ending is what a record says at last.
type Ending struct {
	// Events are all changes of state, with the reason of a failure and whatever
	// else came with the end.
	Events  []Event
	Metrics *jobpb.MetricResults
}
