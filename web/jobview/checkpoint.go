package jobview

import (
	"time"

	"github.com/lintelrun/lintel/jobservice"
)

// How a checkpoint has ended.
const (
	CheckpointComplete = "complete"
	CheckpointFailed   = "failed"
)

// Checkpoint is one of a job's that has ended.
type Checkpoint struct {
	// Epoch numbers the checkpoints of a job; 0 where it did not come to that.
	Epoch uint64 `json:"epoch,omitzero"`
	// Generation is the run of the job, from 1.
	Generation uint64 `json:"generation"`
	// State is complete or failed.
	State   string    `json:"state"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Seconds float64   `json:"seconds"`
	// Bytes of all its files, and of those that were written for it.
	Bytes    int64 `json:"bytes"`
	NewBytes int64 `json:"new_bytes"`
	// Savepoint is the URI of what was asked for, "" for a checkpoint.
	Savepoint string `json:"savepoint,omitzero"`
	// Error is why it failed.
	Error string `json:"error,omitzero"`
}

// Savepoint is one that is complete.
type Savepoint struct {
	// ID is the job's. State is the one that it has ended in, "" if it goes on.
	ID    string `json:"id"`
	State string `json:"state,omitzero"`
	// URI is where the savepoint is, and Bytes what it takes.
	URI   string `json:"savepoint"`
	Bytes int64  `json:"bytes"`
}

// OfCheckpoints views a job's list of checkpoints.
func OfCheckpoints(list []jobservice.Checkpoint) []Checkpoint {
	out := make([]Checkpoint, len(list))
	for i, c := range list {
		out[i] = Checkpoint{
			Epoch: c.Epoch, Generation: c.Generation, State: CheckpointComplete, Began: c.Began, Ended: c.Ended,
			Seconds: c.Ended.Sub(c.Began).Seconds(), Bytes: c.Bytes, NewBytes: c.NewBytes, Savepoint: c.Savepoint, Error: c.Failure,
		}
		if c.Failure != "" {
			out[i].State = CheckpointFailed
		}
	}
	return out
}
