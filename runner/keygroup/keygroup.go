// Package keygroup maps keys to key groups and key groups to tasks.
//
// All of it is part of the state format: a checkpoint stores state by key group,
// and a job restored from it, at any parallelism, must find every key again.
// Changing a result of this package needs a new state format version.
package keygroup

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// DefaultMax is the number of key groups of a job unless it sets another
// (maximum parallelism). It stays the same for the life of a job's state.
const DefaultMax = 1024

// Hash returns the hash of a key's bytes, encoded as they travel on keyed edges
// (nested context): XXH64 with seed 0.
func Hash(key []byte) uint64 { return xxhash.Sum64(key) }

// Of returns the key group, in [0, max), of a key with that hash; max is at
// least 1. It is the high word of hash * max, so that keys ordered by hash are
// also ordered by key group, whatever max is, and the low bits of the hashes
// within one group stay evenly spread.
func Of(hash uint64, max int) int {
	group, _ := bits.Mul64(hash, uint64(max))
	return int(group)
}

// Range returns the key groups [from, to) that a task owns, of tasks in all and
// max groups. The ranges of all tasks are contiguous, disjoint and complete, and
// their sizes differ by at most one. It is empty for some tasks where tasks > max.
func Range(task, tasks, max int) (from, to int) {
	return ceilDiv(task*max, tasks), ceilDiv((task+1)*max, tasks)
}

// Task returns the task that owns the key group: the inverse of Range.
func Task(group, tasks, max int) int { return group * tasks / max }

func ceilDiv(a, b int) int { return (a + b - 1) / b }
