package timers

import "github.com/lintelrun/lintel/runner/frame"

// holds is a multiset of times that knows its smallest.
type holds struct {
	count map[int64]int // of each time in heap; 0 if it is to be forgotten
	heap  []int64
	live  int // times with a count above 0
}

var earlier = order[int64]{less: func(a, b int64) bool { return a < b }, moved: func(int64, int) {}}

// add adds a time, unless it holds nothing back.
func (h *holds) add(at int64) {
	if at >= frame.MaxTimestamp {
		return
	}
	n, there := h.count[at]
	if n == 0 {
		h.live++
	}
	h.count[at] = n + 1
	if !there {
		earlier.push(&h.heap, at)
	}
}

// remove removes a time that was added.
func (h *holds) remove(at int64) {
	if at >= frame.MaxTimestamp {
		return
	}
	h.count[at]--
	if h.count[at] > 0 {
		return
	}
	if h.live--; len(h.heap) > 2*h.live+64 {
		h.compact()
	}
}

// compact forgets the times that are not there any more.
func (h *holds) compact() {
	old := h.heap
	h.heap = make([]int64, 0, h.live)
	for _, at := range old {
		if h.count[at] == 0 {
			delete(h.count, at)
		} else {
			earlier.push(&h.heap, at)
		}
	}
}

// min returns the smallest time, MaxTimestamp if there is none.
func (h *holds) min() int64 {
	for len(h.heap) > 0 {
		at := h.heap[0]
		if h.count[at] > 0 {
			return at
		}
		delete(h.count, at)
		earlier.remove(&h.heap, 0)
	}
	return frame.MaxTimestamp
}
