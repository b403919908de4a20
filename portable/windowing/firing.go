package windowing

import (
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// FiredBy returns the watermark (ms) that, once it is passed, guarantees that a window with
// elements has fired: all that came before it was late is in a pane, or the window has
// expired. windowMax is the window's maximum timestamp. Who waits for the first pane of a
// window and sees none by then may take the window to be empty.
func (s *Strategy) FiredBy(windowMax int64) int64 {
	expiry := windowMax + s.AllowedLateness
	if expiry < windowMax {
		expiry = math.MaxInt64
	}
	if firesByEnd(s.Trigger) {
		return windowMax
	}
	return expiry
}

// firesByEnd tells whether a trigger has fired, if there were elements, when the watermark
// has passed the end of the window. Triggers that wait for processing time or for more
// elements may not have.
func firesByEnd(t *pipepb.Trigger) bool {
	all := func(ts []*pipepb.Trigger) bool {
		for _, t := range ts {
			if !firesByEnd(t) {
				return false
			}
		}
		return len(ts) > 0
	}
	switch t := t.GetTrigger().(type) {
	case *pipepb.Trigger_Default_, *pipepb.Trigger_AfterEndOfWindow_, *pipepb.Trigger_Always_:
		return true
	case *pipepb.Trigger_ElementCount_:
		return t.ElementCount.GetElementCount() <= 1
	case *pipepb.Trigger_Repeat_:
		return firesByEnd(t.Repeat.GetSubtrigger())
	case *pipepb.Trigger_AfterEach_:
		first := t.AfterEach.GetSubtriggers()
		return len(first) > 0 && firesByEnd(first[0])
	case *pipepb.Trigger_AfterAll_:
		return all(t.AfterAll.GetSubtriggers())
	case *pipepb.Trigger_AfterAny_:
		for _, t := range t.AfterAny.GetSubtriggers() {
			if firesByEnd(t) {
				return true
			}
		}
		return false
	case *pipepb.Trigger_OrFinally_:
		return firesByEnd(t.OrFinally.GetMain()) || firesByEnd(t.OrFinally.GetFinally())
	}
	return false
}
