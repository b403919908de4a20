package worker

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/grouping"
)

// largeGroups holds what the groups of one GroupByKey stage have left behind for the
// bundles that read them, and for those that try again.
type largeGroups struct {
	tasks []atomic.Pointer[grouping.Values]
	// spools are those of the tasks where groups leave in panes; then there is nothing in tasks.
	spools []*spool
	// readers are the tasks of the stages that read the groups and have not ended.
	readers atomic.Int64
}

// newLargeGroups returns one for each stage, by index.
func (e *execution) newLargeGroups() []largeGroups {
	all := make([]largeGroups, len(e.d.Plan.Stages))
	for i, s := range e.d.Plan.Stages {
		if s.Kind != plan.GroupByKey {
			continue
		}
		all[i].tasks = make([]atomic.Pointer[grouping.Values], e.parallelism(s))
		if s.Group.Panes && s.Group.StateBacked {
			all[i].spools = e.newSpools(s)
		}
		for _, out := range s.Out {
			all[i].readers.Add(int64(e.parallelism(out.To)))
		}
	}
	return all
}

// largePrefix is what the tokens of a task's large groups begin with.
func largePrefix(stage, task int) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(stage)), uint64(task))
}

// readLarge returns a page of the values behind a token.
func (e *execution) readLarge(token, continuation []byte) (data, next []byte, err error) {
	l, task, ok := e.largeOf(token)
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "%.64x is no token of a state-backed iterable", token)
	}
	if l.spools != nil {
		return l.spools[task].read(token, continuation)
	}
	v := l.tasks[task].Load()
	if v == nil {
		return nil, nil, fault.New(fault.Invalid, "the values of a group are read before there are any")
	}
	return v.Read(token, continuation, pageBytes)
}

// largeOf returns where a token comes from.
func (e *execution) largeOf(token []byte) (l *largeGroups, task uint64, ok bool) {
	stage, n := binary.Uvarint(token)
	task, m := binary.Uvarint(token[max(n, 0):])
	if n <= 0 || m <= 0 || stage >= uint64(len(e.large)) || task >= uint64(len(e.large[stage].tasks)) {
		return nil, 0, false
	}
	return &e.large[stage], task, true
}

// releaseLarge notes that a task has ended well. The groups that nobody else will read are freed.
func (e *execution) releaseLarge(s *plan.Stage) {
	for _, in := range s.In {
		if l := &e.large[in.From.Index]; in.From.Kind == plan.GroupByKey && l.readers.Add(-1) == 0 {
			e.closeLarge(l)
		}
	}
}

func (e *execution) closeLarge(l *largeGroups) {
	for _, s := range l.spools {
		s.close()
	}
	for i := range l.tasks {
		if v := l.tasks[i].Load(); v != nil {
			if err := v.Close(); err != nil {
				e.log.Warn("values of large groups not closed", "error", err)
			}
		}
	}
}
