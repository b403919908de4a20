package trigger

// Merge returns the state of a window that others merge into. from are the states of those
// of them that have one and haven't finished. result is the one of from whose window is the
// same as the merged window, nil if there is none. They are not changed. at is of the merged window.
func (m *Machine) Merge(from []State, result State, at Moment) State {
	s := m.New()
	if s == nil || len(from) == 0 {
		return s
	}
	if result != nil {
		copy(s[:m.words], result[:m.words])
	}
	m.merge(s, 0, from, &at)
	return s
}

func (m *Machine) merge(s State, i int, from []State, at *Moment) {
	n := &m.nodes[i]
	switch n.kind {
	case afterCount:
		m.mergeCount(s, i, from)
	case afterDelay:
		if s.finished(i) {
			return
		}
		for _, f := range from {
			s[n.slot] = min(s[n.slot], f[n.slot])
		}
	case afterEnd:
		// Where it goes on in any window, or the end has moved on, something waits for it.
		s.setFinished(i, at.pastEnd() && allFinished(from, i))
	case earlyLate:
		m.mergeEarlyLate(s, i, from, at)
	case afterEach:
		for _, sub := range n.subs {
			m.merge(s, sub, from, at)
			if !s.finished(sub) {
				break // what follows begins anew
			}
		}
		s.setFinished(i, m.firstUnfinished(s, n) == 0)
	default:
		finished, all := false, true
		for _, sub := range n.subs {
			m.merge(s, sub, from, at)
			finished = finished || s.finished(sub)
			all = all && s.finished(sub)
		}
		switch n.kind {
		case afterAll:
			s.setFinished(i, all)
		case afterAny, orFinally:
			s.setFinished(i, finished)
		}
	}
}

// mergeCount adds counts up. Elements that fired in one window can't be waited for in another.
func (m *Machine) mergeCount(s State, i int, from []State) {
	slot := m.nodes[i].slot
	for _, f := range from {
		if f.finished(i) {
			s.setFinished(i, true)
			s[slot] = 0
			return
		}
		s[slot] += f[slot]
	}
}

// mergeEarlyLate goes on with early firings where any of the windows did, or the end has moved on.
func (m *Machine) mergeEarlyLate(s State, i int, from []State, at *Moment) {
	subs := m.nodes[i].subs
	early := subs[0]
	over := at.pastEnd() && allFinished(from, early)
	if !over {
		m.merge(s, early, from, at)
	}
	s.setFinished(early, over)
	switch {
	case len(subs) == 1:
	case over:
		m.merge(s, subs[1], from, at)
	default:
		s.setFinished(subs[1], false)
	}
}

func allFinished(from []State, i int) bool {
	for _, f := range from {
		if !f.finished(i) {
			return false
		}
	}
	return true
}
