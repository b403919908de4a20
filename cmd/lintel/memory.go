package main

import (
	"cmp"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/lintelrun/lintel/runner/worker"
)

// programBytes is about what the program takes in memory beside what Go allocates:
// its code, and what the kernel holds for it.
const programBytes = 36 << 20

// usefulMemory is the least budget, in bytes, that all of a server keeps to: of a smaller one the
// program itself takes more than what may come on top, 30 %.
const usefulMemory = 64 << 20

// ballast is memory that is never touched, so that none stands behind it. Garbage is collected when as much again
// is in use as after the last time: of the 3 MB of a server at rest a job's first moments would be
// one collection after the other.
var ballast []byte

// limitMemory has the garbage collector keep all of the server to the budget of jobs, of
// which most of a server's memory is. GOMEMLIMIT overrides it.
func limitMemory(budget int64, log *slog.Logger) {
	if budget > 0 && budget < usefulMemory {
		log.Warn("the memory budget can't be kept to: the server itself takes more beside it than the 30 % allowed",
			"budget", asSize(budget), "least", asSize(usefulMemory))
	}
	ballast = make([]byte, smallPart(budget, 8<<20))
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit(cmp.Or(budget, worker.DefaultMemoryBytes)) + int64(len(ballast)))
	}
}

// heapLimit is what Go may allocate, in bytes, for the whole server to keep to a budget. Of a
// small budget the program's own part would leave too little; there it comes on top,
// with 25 % of the budget at most: the collector lets the heap be larger for moments.
func heapLimit(budget int64) int64 {
	const small = 3 * programBytes
	return max(budget-programBytes, min(budget/4*5-programBytes, small), programBytes)
}

// returnMemory returns what to call when no job runs any more: what the last ones took goes
// back to the system, so long later that a row of small jobs doesn't pay for it each. By
// itself Go collects garbage every other minute in an idle process, and returns it slowly.
func returnMemory(after time.Duration) (idle func()) {
	timer := time.AfterFunc(after, debug.FreeOSMemory)
	timer.Stop()
	return func() { timer.Reset(after) }
}

// queueBytes is how much output of a harness the Fn API holds: little of the budget, as
// there may be many harnesses.
func queueBytes(budget int64) int {
	return smallPart(budget, 32<<20)
}

// messageBytes is how much of a job's messages is kept. While they are written anew to the
// job's record they take three times that.
func messageBytes(budget int64) int {
	return smallPart(budget, 8<<20)
}

// smallPart is 1/32 of the budget, at least 1 MiB and at most so many bytes.
func smallPart(budget int64, most int64) int {
	return int(min(max(cmp.Or(budget, worker.DefaultMemoryBytes)/32, 1<<20), most))
}
