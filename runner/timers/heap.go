package timers

// order is that of a heap, which is a slice with the least item first.
type order[T any] struct {
	less  func(a, b T) bool
	moved func(item T, at int) // tells an item where it is, -1 if it was removed
}

func (o *order[T]) push(h *[]T, item T) {
	*h = append(*h, item)
	o.up(*h, len(*h)-1)
}

// fix puts item i in its place after a change.
func (o *order[T]) fix(h []T, i int) {
	if !o.down(h, i) {
		o.up(h, i)
	}
}

func (o *order[T]) remove(h *[]T, i int) T {
	s := *h
	item, last := s[i], len(s)-1
	s[i] = s[last]
	var none T
	s[last] = none
	if *h = s[:last]; i < last {
		o.fix(*h, i)
	}
	o.moved(item, -1)
	return item
}

func (o *order[T]) up(h []T, i int) {
	item := h[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !o.less(item, h[parent]) {
			break
		}
		h[i] = h[parent]
		o.moved(h[i], i)
		i = parent
	}
	h[i] = item
	o.moved(item, i)
}

// down tells whether item i has moved.
func (o *order[T]) down(h []T, i int) bool {
	item, from := h[i], i
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && o.less(h[child+1], h[child]) {
			child++
		}
		if !o.less(h[child], item) {
			break
		}
		h[i] = h[child]
		o.moved(h[i], i)
		i = child
	}
	h[i] = item
	o.moved(item, i)
	return i > from
}
