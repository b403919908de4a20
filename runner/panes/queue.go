package panes

import "container/heap"

// queue is a heap of units by a time.
type queue struct {
	units []*unit
	order order
}

// order is the time that a queue orders by.
type order interface {
	at(u *unit) int64
	place(u *unit) *int
}

type byWake struct{}

func (byWake) at(u *unit) int64   { return u.wake }
func (byWake) place(u *unit) *int { return &u.event }

type byClock struct{}

func (byClock) at(u *unit) int64   { return u.clock }
func (byClock) place(u *unit) *int { return &u.timer }

func (q *queue) push(u *unit) { heap.Push((*units)(q), u) }
func (q *queue) fix(u *unit)  { heap.Fix((*units)(q), *q.order.place(u)) }

// remove takes u, which is in the queue, out.
func (q *queue) remove(u *unit) {
	heap.Remove((*units)(q), *q.order.place(u))
	*q.order.place(u) = -1
}

// min returns the least time, none if the queue is empty.
func (q *queue) min() int64 {
	if len(q.units) == 0 {
		return none
	}
	return q.order.at(q.units[0])
}

func (q *queue) first() *unit { return q.units[0] }

// units is a queue as container/heap wants it.
type units queue

func (q *units) Len() int { return len(q.units) }

func (q *units) Less(i, j int) bool {
	a, b := q.order.at(q.units[i]), q.order.at(q.units[j])
	return a < b || a == b && q.units[i].serial < q.units[j].serial
}

func (q *units) Swap(i, j int) {
	q.units[i], q.units[j] = q.units[j], q.units[i]
	*q.order.place(q.units[i]), *q.order.place(q.units[j]) = i, j
}

func (q *units) Push(x any) {
	u := x.(*unit)
	*q.order.place(u) = len(q.units)
	q.units = append(q.units, u)
}

func (q *units) Pop() any {
	last := len(q.units) - 1
	u := q.units[last]
	q.units[last] = nil
	q.units = q.units[:last]
	return u
}

// multiset is a multiset of times that knows the least. none is never in it.
type multiset struct {
	counts map[int64]int
	heap   times // of all in counts, and of some that were
}

func newMultiset() multiset { return multiset{counts: make(map[int64]int)} }

func (m *multiset) add(t int64) {
	if t == none {
		return
	}
	if m.counts[t]++; m.counts[t] == 1 {
		heap.Push(&m.heap, t)
	}
}

func (m *multiset) remove(t int64) {
	if t == none {
		return
	}
	if m.counts[t]--; m.counts[t] == 0 {
		delete(m.counts, t)
	}
	if len(m.heap) > 2*len(m.counts)+64 {
		m.heap = m.heap[:0]
		for t := range m.counts {
			m.heap = append(m.heap, t)
		}
		heap.Init(&m.heap)
	}
}

// min returns the least, none if it is empty.
func (m *multiset) min() int64 {
	for len(m.heap) > 0 {
		if m.counts[m.heap[0]] > 0 {
			return m.heap[0]
		}
		heap.Pop(&m.heap)
	}
	return none
}

// exactHolds is up to how many different times are kept as they are.
const exactHolds = 1 << 16

// kept is as what a hold counts while its unit is not in memory: a little earlier once there
// are many different ones, or units that are not in memory would take much of it after all.
func (m *multiset) kept(t int64) int64 {
	if t == none || len(m.counts) < exactHolds {
		return t
	}
	return t &^ 1023
}

type times []int64

func (t times) Len() int           { return len(t) }
func (t times) Less(i, j int) bool { return t[i] < t[j] }
func (t times) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *times) Push(x any)        { *t = append(*t, x.(int64)) }

func (t *times) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	*t = (*t)[:last]
	return x
}
