package jobview

import "time"

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
