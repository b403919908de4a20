package worker

import (
	"sync"

	"github.com/lintelrun/lintel/runner/exchange"
)

// stillness finds out when nothing is under way between tasks that hold back. Each is asked what it has sent and
// received once it is at rest, in rounds: if all have received in one round what all have sent by the next, nothing
// was on its way in between, nor was anybody awakened by it (Mattern, Algorithms for distributed termination
// detection). So it costs nothing until somebody asks. Safe for concurrent use.
type stillness struct {
	mu    sync.Mutex
	tasks []resting
	// lost is what was sent to tasks that had ended.
	lost int
	// round numbers the times that tasks were asked, and answered is closed when all have told, missing being those
	// that have not.
	round    uint64
	answered chan struct{}
	missing  int
}

// resting is what a task has said last.
type resting struct {
	traffic
	round uint64
	ended bool
}

// traffic counts frames and watermarks between tasks.
type traffic struct{ sent, received int }

func newStillness(tasks int) stillness { return stillness{tasks: make([]resting, tasks)} }

// ask begins a round.
func (s *stillness) ask() (round uint64, answered <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.round++
	s.answered, s.missing = make(chan struct{}), 0
	for i := range s.tasks {
		if !s.tasks[i].ended {
			s.missing++
		}
	}
	if s.missing == 0 {
		close(s.answered)
	}
	return s.round, s.answered
}

// tell notes what a task at rest has sent and received.
func (s *stillness) tell(task int, round uint64, t traffic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if round == s.round {
		s.told(&s.tasks[task], t)
	}
}

// taskEnded notes what a task has sent and received in all.
func (s *stillness) taskEnded(task int, t traffic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told(&s.tasks[task], t)
	s.tasks[task].ended = true
}

func (s *stillness) told(r *resting, t traffic) {
	r.traffic = t
	if r.round == s.round || r.ended {
		return
	}
	r.round = s.round
	if s.missing--; s.missing == 0 {
		close(s.answered)
	}
}

// dropped notes a message to a task that has ended.
func (s *stillness) dropped(m *exchange.Message) {
	if m.Travels() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lost++
	}
}

// sum adds up what all have said.
func (s *stillness) sum() traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := traffic{received: s.lost}
	for i := range s.tasks {
		all.sent += s.tasks[i].sent
		all.received += s.tasks[i].received
	}
	return all
}

// busy are the places of tasks that have not told.
func (s *stillness) busy() (places []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.tasks {
		if r := &s.tasks[i]; !r.ended && r.round != s.round {
			places = append(places, i)
		}
	}
	return places
}
