package worker

import (
	"testing"

	"github.com/lintelrun/lintel/runner/exchange"
)

// What is sent by one task and not yet received by another is under way, though both say that they are at rest.
func TestStillnessSeesWhatIsUnderWay(t *testing.T) {
	s := newStillness(3)
	told := func(all ...traffic) traffic {
		t.Helper()
		round, answered := s.ask()
		for i, a := range all {
			select {
			case <-answered:
				if !s.tasks[i].ended {
					t.Fatalf("round %d is over before task %d has told", round, i)
				}
			default:
			}
			s.tell(i, round, a)
		}
		<-answered
		return s.sum()
	}
	if got := told(traffic{2, 0}, traffic{0, 1}, traffic{0, 0}); got.sent == got.received {
		t.Errorf("a message is lost: %+v", got)
	}
	if got := told(traffic{2, 0}, traffic{0, 1}, traffic{0, 1}); got.sent != got.received {
		t.Errorf("all has come: %+v", got)
	}
	round, answered := s.ask()
	s.tell(0, round-1, traffic{9, 9}) // late
	s.tell(0, round, traffic{3, 0})
	s.tell(0, round, traffic{3, 0})
	if got := s.busy(); len(got) != 2 || got[0] != 1 {
		t.Errorf("busy are %v", got)
	}
	s.taskEnded(1, traffic{1, 1})
	s.taskEnded(2, traffic{0, 1})
	<-answered
	s.dropped(&exchange.Message{Kind: exchange.Watermark}) // what the first sent the second
	s.dropped(&exchange.Message{Kind: exchange.Barrier})
	s.dropped(&exchange.Message{Kind: exchange.Data})
	if got := told(traffic{3, 0}); got != (traffic{4, 4}) {
		t.Errorf("after the end of two: %+v", got)
	}
}
