// Package trigger has the state machines of triggers (beam_runner_api.proto, Trigger): when
// the panes of a key and window fire. They behave as those of Beam's Java runners do
// (org.apache.beam.runners.core.triggers). Time is an argument; the state is the caller's.
package trigger

import (
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
)

// Machine is a compiled trigger. It is immutable and safe for concurrent use.
type Machine struct {
	nodes   []node // in preorder: the root is the first
	words   int    // of finished bits, which a State begins with
	slots   int    // of counts and targets, which follow
	merging bool
	lag     int64 // ms
}

type kind uint8

const (
	afterAll kind = iota
	afterAny
	afterEach
	afterCount
	afterDelay // of processing time
	afterEnd   // of the window, without early or late firings
	earlyLate  // after the end of the window, with early or late firings
	always
	atEnd // the default trigger
	never
	orFinally
	repeat
)

type node struct {
	kind  kind
	subs  []int // indices of subtriggers; of an earlyLate early, then late, if it has one
	after int   // the first index after the subtree
	slot  int   // of an afterCount or afterDelay
	count int64 // of an afterCount
	delay []step
}

// step moves the time at which an afterDelay fires (TimestampTransform): by a delay, or
// else to the next multiple of period after offset. All in ms.
type step struct{ delay, period, offset int64 }

// Moment is when a machine is asked something. All times are in ms.
type Moment struct {
	// End is the maximum timestamp of the window.
	End int64
	// Watermark is the input watermark.
	Watermark int64
	// Now is processing time.
	Now int64
}

func (m *Moment) pastEnd() bool { return m.Watermark > m.End }

// Compile compiles a trigger. merging tells whether windows merge; lag is how far, in ms,
// synchronized processing time, that of the slowest task upstream, is behind processing time.
// A trigger that is malformed is a fault.Invalid.
func Compile(t *pipepb.Trigger, merging bool, lag int64) (*Machine, error) {
	m := &Machine{merging: merging, lag: lag}
	if _, err := m.add(t); err != nil {
		return nil, err
	}
	if m.Stateless() {
		return m, nil
	}
	m.words = (len(m.nodes) + 63) / 64
	for i := range m.nodes {
		if n := &m.nodes[i]; n.kind == afterCount || n.kind == afterDelay {
			n.slot = m.words + m.slots
			m.slots++
		}
	}
	return m, nil
}

// Stateless tells whether states of the trigger are always nil, and it never finishes.
func (m *Machine) Stateless() bool {
	switch m.nodes[0].kind {
	case atEnd, always, never:
		return true
	}
	return false
}

// add compiles t with what is below and returns its index.
func (m *Machine) add(t *pipepb.Trigger) (int, error) {
	at := len(m.nodes)
	m.nodes = append(m.nodes, node{})
	var n node
	var subs []*pipepb.Trigger
	var err error
	composite := false
	switch v := t.GetTrigger().(type) {
	case *pipepb.Trigger_AfterAll_:
		n.kind, subs, composite = afterAll, v.AfterAll.GetSubtriggers(), true
	case *pipepb.Trigger_AfterAny_:
		n.kind, subs, composite = afterAny, v.AfterAny.GetSubtriggers(), true
	case *pipepb.Trigger_AfterEach_:
		n.kind, subs, composite = afterEach, v.AfterEach.GetSubtriggers(), true
	case *pipepb.Trigger_AfterEndOfWindow_:
		n.kind, subs = endOfWindow(v.AfterEndOfWindow)
	case *pipepb.Trigger_AfterProcessingTime_:
		n.kind = afterDelay
		n.delay, err = steps(v.AfterProcessingTime.GetTimestampTransforms())
	case *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		n.kind, n.delay = afterDelay, []step{{delay: m.lag}}
	case *pipepb.Trigger_Always_:
		n.kind = always
	case *pipepb.Trigger_Default_:
		n.kind = atEnd
	case *pipepb.Trigger_ElementCount_:
		n.kind, n.count = afterCount, int64(v.ElementCount.GetElementCount())
	case *pipepb.Trigger_Never_:
		n.kind = never
	case *pipepb.Trigger_OrFinally_:
		n.kind, subs, composite = orFinally, []*pipepb.Trigger{v.OrFinally.GetMain(), v.OrFinally.GetFinally()}, true
	case *pipepb.Trigger_Repeat_:
		n.kind, subs, composite = repeat, []*pipepb.Trigger{v.Repeat.GetSubtrigger()}, true
	default:
		return 0, fault.New(fault.Invalid, "trigger: a trigger of no known kind (%T)", v)
	}
	if composite && len(subs) == 0 {
		err = fault.New(fault.Invalid, "trigger: %T has no subtriggers", t.GetTrigger())
	}
	for _, sub := range subs {
		if err != nil {
			break
		}
		var i int
		i, err = m.add(sub)
		n.subs = append(n.subs, i)
	}
	n.after = len(m.nodes)
	m.nodes[at] = n
	return at, err
}

// endOfWindow returns the kind and the subtriggers of an AfterEndOfWindow. Where there are
// late firings only, the early ones are never.
func endOfWindow(t *pipepb.Trigger_AfterEndOfWindow) (kind, []*pipepb.Trigger) {
	early, late := t.GetEarlyFirings(), t.GetLateFirings()
	switch {
	case early == nil && late == nil:
		return afterEnd, nil
	case late == nil:
		return earlyLate, []*pipepb.Trigger{early}
	case early == nil:
		early = &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}
	}
	return earlyLate, []*pipepb.Trigger{early, late}
}

func steps(transforms []*pipepb.TimestampTransform) ([]step, error) {
	var out []step
	for _, t := range transforms {
		switch v := t.GetTimestampTransform().(type) {
		case *pipepb.TimestampTransform_Delay_:
			out = append(out, step{delay: v.Delay.GetDelayMillis()})
		case *pipepb.TimestampTransform_AlignTo_:
			s := step{period: v.AlignTo.GetPeriod(), offset: v.AlignTo.GetOffset()}
			if s.period <= 0 {
				return nil, fault.New(fault.Invalid, "trigger: processing time aligned to a period of %d ms; it must be positive", s.period)
			}
			out = append(out, s)
		default:
			return nil, fault.New(fault.Invalid, "trigger: a timestamp transform of no known kind (%T)", v)
		}
	}
	return out, nil
}

// target returns when a delay that begins at now has passed: later than now, whatever it is,
// so that a delay of nothing still takes what comes at the same time into one pane.
func (n *node) target(now int64) int64 {
	began := now
	for _, s := range n.delay {
		if s.period == 0 {
			now = plus(now, s.delay)
			continue
		}
		past := (now%s.period - s.offset%s.period) % s.period
		if past < 0 {
			past += s.period
		}
		if past > 0 {
			now = plus(now, s.period-past)
		}
	}
	return min(max(now, began+1), noTarget-1)
}

// plus adds without overflow.
func plus(a, b int64) int64 {
	switch sum := a + b; {
	case b > 0 && sum < a:
		return math.MaxInt64
	case b < 0 && sum > a:
		return math.MinInt64
	default:
		return sum
	}
}
