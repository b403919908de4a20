package trigger

import "math"

// State is the state of a trigger in one key and window: a bit for each trigger that has
// finished, then counts and targets. It is made by New, Decode and Merge, and belongs to
// whoever calls them.
type State []int64

// noTarget is the target of a delay that has not begun.
const noTarget = math.MaxInt64

// New returns the state of a window that has seen nothing. It is nil if the trigger is Stateless.
func (m *Machine) New() State {
	if m.words+m.slots == 0 {
		return nil
	}
	s := make(State, m.words+m.slots)
	m.clear(s, 0)
	return s
}

// Finished tells whether the trigger will never fire again, so that all that still comes for
// the window is dropped.
func (m *Machine) Finished(s State) bool { return s != nil && s.finished(0) }

// OnElement tells it of an element in the window. The trigger must not have finished.
func (m *Machine) OnElement(s State, at Moment) { m.onElement(s, 0, &at) }

// ShouldFire tells whether a pane is to fire, which OnFire then has to be told.
func (m *Machine) ShouldFire(s State, at Moment) bool { return m.shouldFire(s, 0, &at) }

// OnFire tells it that a pane fires, because ShouldFire said so.
func (m *Machine) OnFire(s State, at Moment) { m.onFire(s, 0, &at) }

// Clear forgets what the current pane has seen. What has finished remains so.
func (m *Machine) Clear(s State) { m.clear(s, 0) }

// WakeUp returns the least processing time in ms after now that a delay waits for: then
// ShouldFire is to be asked again. It returns math.MaxInt64 if there is none.
func (m *Machine) WakeUp(s State, now int64) int64 {
	least := int64(noTarget)
	if len(s) == m.words {
		return least
	}
	for i := range m.nodes {
		if n := &m.nodes[i]; n.kind == afterDelay && s[n.slot] > now {
			least = min(least, s[n.slot])
		}
	}
	return least
}

func (s State) finished(i int) bool { return uint64(s[i/64])>>(i%64)&1 != 0 }

func (s State) setFinished(i int, to bool) {
	if bit := int64(1) << (i % 64); to {
		s[i/64] |= bit
	} else {
		s[i/64] &^= bit
	}
}

// firstUnfinished returns the first subtrigger that hasn't finished, 0 if all have.
func (m *Machine) firstUnfinished(s State, n *node) int {
	for _, sub := range n.subs {
		if !s.finished(sub) {
			return sub
		}
	}
	return 0
}

func (m *Machine) onElement(s State, i int, at *Moment) {
	n := &m.nodes[i]
	switch n.kind {
	case afterCount:
		s[n.slot]++
	case afterDelay:
		if s[n.slot] == noTarget {
			s[n.slot] = n.target(at.Now)
		}
	case afterEach, earlyLate:
		if !m.merging {
			if sub := m.firstUnfinished(s, n); sub != 0 {
				m.onElement(s, sub, at)
			}
			return
		}
		// Any of them may come to life again when windows merge.
		for _, sub := range n.subs {
			m.onElement(s, sub, at)
		}
	default:
		for _, sub := range n.subs {
			if n.kind != afterAll || !s.finished(sub) {
				m.onElement(s, sub, at)
			}
		}
	}
}

func (m *Machine) shouldFire(s State, i int, at *Moment) bool {
	n := &m.nodes[i]
	switch n.kind {
	case afterAll:
		for _, sub := range n.subs {
			if !s.finished(sub) && !m.shouldFire(s, sub, at) {
				return false
			}
		}
		return true
	case afterAny:
		for _, sub := range n.subs {
			if s.finished(sub) || m.shouldFire(s, sub, at) {
				return true
			}
		}
	case afterEach:
		sub := m.firstUnfinished(s, n)
		return sub != 0 && m.shouldFire(s, sub, at)
	case afterCount:
		return s[n.slot] >= n.count
	case afterDelay:
		return s[n.slot] != noTarget && at.Now >= s[n.slot]
	case afterEnd, atEnd:
		return at.pastEnd()
	case earlyLate:
		if early := n.subs[0]; !s.finished(early) {
			return at.pastEnd() || m.shouldFire(s, early, at)
		}
		return len(n.subs) > 1 && m.shouldFire(s, n.subs[1], at)
	case always:
		return true
	case orFinally:
		return m.shouldFire(s, n.subs[0], at) || m.shouldFire(s, n.subs[1], at)
	case repeat:
		return m.shouldFire(s, n.subs[0], at)
	}
	return false
}

func (m *Machine) onFire(s State, i int, at *Moment) {
	n := &m.nodes[i]
	switch n.kind {
	case afterAll:
		for _, sub := range n.subs {
			m.onFire(s, sub, at)
		}
		s.setFinished(i, true)
	case afterAny:
		for _, sub := range n.subs {
			if m.shouldFire(s, sub, at) {
				m.onFire(s, sub, at)
			} else {
				m.clear(s, sub) // the pane that it waited for is gone
			}
		}
		s.setFinished(i, true)
	case afterEach:
		if sub := m.firstUnfinished(s, n); sub != 0 {
			m.onFire(s, sub, at)
		}
		if m.merging {
			m.clear(s, i)
		}
		s.setFinished(i, m.firstUnfinished(s, n) == 0)
	case afterCount, afterDelay:
		m.clear(s, i)
		s.setFinished(i, true)
	case afterEnd:
		s.setFinished(i, true)
	case earlyLate:
		m.onFireEarlyLate(s, i, at)
	case orFinally:
		until := n.subs[1]
		if m.shouldFire(s, until, at) {
			m.onFire(s, until, at)
			m.clear(s, n.subs[0])
		} else {
			m.onFire(s, n.subs[0], at) // until goes on: it sees all panes
		}
		s.setFinished(i, s.finished(n.subs[0]) || s.finished(until))
	case repeat:
		m.onFire(s, n.subs[0], at)
		if s.finished(n.subs[0]) {
			m.reset(s, n.subs[0])
		}
	}
}

// onFireEarlyLate fires early panes, repeatedly, then the one on time, which finishes the
// early trigger, then late panes, repeatedly.
func (m *Machine) onFireEarlyLate(s State, i int, at *Moment) {
	n := &m.nodes[i]
	early := n.subs[0]
	switch {
	case s.finished(early) && len(n.subs) == 1:
		s.setFinished(i, true)
	case s.finished(early):
		m.onFireAgain(s, n.subs[1], at)
	case !at.pastEnd():
		m.onFireAgain(s, early, at)
	default:
		if m.shouldFire(s, early, at) {
			m.onFire(s, early, at)
		}
		s.setFinished(early, true)
		m.clear(s, early)
		if len(n.subs) == 1 {
			s.setFinished(i, true)
		} else {
			m.clear(s, n.subs[1]) // it ran beside the early one
		}
	}
}

// onFireAgain fires a trigger that repeats without saying so. Java's runners leave what is
// below it finished, so that an AfterAll fires at every element from then on.
func (m *Machine) onFireAgain(s State, i int, at *Moment) {
	m.onFire(s, i, at)
	if s.finished(i) {
		m.reset(s, i)
	} else {
		m.clear(s, i)
	}
}

// clear forgets counts and targets of i and what is below.
func (m *Machine) clear(s State, i int) {
	for j := i; j < m.nodes[i].after; j++ {
		switch n := &m.nodes[j]; n.kind {
		case afterCount:
			s[n.slot] = 0
		case afterDelay:
			s[n.slot] = noTarget
		}
	}
}

// reset makes i and what is below as new.
func (m *Machine) reset(s State, i int) {
	for j := i; j < m.nodes[i].after; j++ {
		s.setFinished(j, false)
	}
	m.clear(s, i)
}
