package worker

import "github.com/lintelrun/lintel/portable/plan"

// How the memory budget is divided. Jobs that run at once have equal shares of each part: of
// what is asked for as it is needed at once, of other things when they are made. What these parts leave is for what can't be given
// a limit in bytes: the input and output of calls under way, and garbage.
const (
	// tablesShare of the budget is for groups and side inputs that are being made or read.
	tablesShare = 3.0 / 8
	// stagingShare is for output that is not committed, waits for credit or is parked.
	stagingShare = 1.0 / 8
	// inboxShare is for what tasks have received and not yet committed.
	inboxShare = 1.0 / 8
	// timersShare is for timers; those beyond it are in the state backend.
	timersShare = 1.0 / 16
	// outboxShare is how much output one task may have waiting for credit.
	outboxShare = 1.0 / 128
)

// Limits of the shares of one task, in bytes.
const (
	minTable, minInbox, minOutbox = 2 << 20, 256 << 10, 512 << 10
	maxInbox, maxOutbox           = 16 << 20, 4 << 20
)

// alone returns a part of the budget, in bytes, for jobs that run alone.
func (e *execution) alone(part float64) int64 { return int64(float64(e.cfg.MemoryBytes) * part) }

// share returns the job's share of a part of the budget: as much as any other that runs now.
func (e *execution) share(part float64) int64 { return e.alone(part) / max(e.jobs.Load(), 1) }

// tableBytes is the memory of one grouping task, and of one side input twice: while it is built
// it takes as much again. All of them have tables together.
func (e *execution) tableBytes(tables int64) int64 {
	n := 0
	for _, s := range e.d.Plan.Stages {
		switch s.Kind {
		case plan.GroupByKey:
			n += e.parallelism(s)
		case plan.SideInput:
			n += 2
		}
	}
	return max(tables/int64(max(n, 1)), minTable)
}

// inboxBytes is the capacity of each of n inboxes.
func (e *execution) inboxBytes(n int) int {
	return int(min(max(e.share(inboxShare)/int64(max(n, 1)), minInbox), maxInbox))
}

// outboxBytes is how much output may wait for credit before a task starts no more work.
func (e *execution) outboxBytes() int {
	return int(min(max(e.share(outboxShare), minOutbox), maxOutbox))
}
