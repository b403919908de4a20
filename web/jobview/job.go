// Package jobview turns what the Job API says into plain values for people and
// scripts: the REST API and the command line print these and nothing else, so
// both tell the same story. It is pure: no I/O and no goroutines.
package jobview

import (
	"errors"
	"slices"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// ErrNotFound is wrapped by errors about a job that the server doesn't know.
var ErrNotFound = errors.New("no such job")

// ErrState is wrapped by errors about what a job's state does not allow.
var ErrState = errors.New("the job is not in a state for this")

// ErrInvalid is wrapped by errors about a request that can't be done as it is.
var ErrInvalid = errors.New("the request is invalid")

// Job is one line of a list of jobs.
type Job struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is a name of the Job API's JobState.Enum, such as RUNNING.
	State string `json:"state"`
	// When it was prepared, run and ended: zero where it hasn't come to that, or
	// where the view comes from the Job API, which doesn't tell.
	Prepared time.Time `json:"prepared,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
}

// Detail is all that is known of one job.
type Detail struct {
	Job
	// Changed is when the job came into its state.
	Changed  time.Time `json:"changed,omitzero"`
	Pipeline Pipeline  `json:"pipeline"`
	// Options are the pipeline options as submitted, by their names on the wire.
	Options map[string]any `json:"options,omitempty"`
	// Error is the last error message of a job that failed.
	Error string `json:"error,omitempty"`
}

// Pipeline says in a few figures what a job runs.
type Pipeline struct {
	// Transforms counts leaves and composites.
	Transforms   int `json:"transforms"`
	PCollections int `json:"pcollections"`
	// Unbounded is true if a PCollection is.
	Unbounded    bool          `json:"unbounded"`
	Environments []Environment `json:"environments"`
	Requirements []string      `json:"requirements,omitempty"`
}

// Environment is one SDK environment of a pipeline.
type Environment struct {
	ID  string `json:"id"`
	URN string `json:"urn"`
}

// OfInfo views one entry of GetJobs.
func OfInfo(info *jobpb.JobInfo) Job {
	return Job{ID: info.GetJobId(), Name: info.GetJobName(), State: info.GetState().String()}
}

// OfPipeline summarises p.
func OfPipeline(p *pipepb.Pipeline) Pipeline {
	c := p.GetComponents()
	v := Pipeline{
		Transforms:   len(c.GetTransforms()),
		PCollections: len(c.GetPcollections()),
		Environments: []Environment{},
		Requirements: slices.Sorted(slices.Values(p.GetRequirements())),
	}
	for _, pc := range c.GetPcollections() {
		v.Unbounded = v.Unbounded || pc.GetIsBounded() == pipepb.IsBounded_UNBOUNDED
	}
	for id, e := range c.GetEnvironments() {
		v.Environments = append(v.Environments, Environment{ID: id, URN: e.GetUrn()})
	}
	slices.SortFunc(v.Environments, func(a, b Environment) int { return strings.Compare(a.ID, b.ID) })
	return v
}

// IsTerminal tells whether a job in that state never changes again.
func IsTerminal(state string) bool {
	switch state {
	case "DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED":
		return true
	}
	return false
}
