package graph

import (
	"container/heap"
	"iter"
	"maps"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
)

func sortedKeys[V any](m map[string]V) []string {
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}

// index finds the producers of all PCollections and checks that inputs have one.
func (g *Graph) index() error {
	g.producers = make(map[string]*Transform, len(g.Transforms))
	g.sources = map[string][]Source{}
	for _, t := range g.Transforms {
		for out := range t.Outputs() {
			if other, taken := g.producers[out]; taken {
				return fault.New(fault.Invalid, "PCollection %q is an output of both %v and %v", out, other, t)
			}
			g.producers[out] = t
		}
	}
	for _, t := range g.Transforms {
		for in := range t.Inputs() {
			if g.producers[in] == nil {
				return fault.New(fault.Invalid, "%v reads PCollection %q, which nothing produces", t, in)
			}
		}
	}
	return nil
}

// Inputs yields the PCollections that t reads, side inputs included.
func (t *Transform) Inputs() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, in := range t.Main {
			if !yield(in.PCollection) {
				return
			}
		}
		for _, in := range t.Sides {
			if !yield(in.PCollection) {
				return
			}
		}
	}
}

// sort brings the transforms into topological order, otherwise keeping the
// order that they are in.
func (g *Graph) sort() error {
	position := make(map[*Transform]int, len(g.Transforms))
	for i, t := range g.Transforms {
		position[t] = i
	}
	order, stuck := TopologicalOrder(len(g.Transforms), func(i int) iter.Seq[int] {
		return func(yield func(int) bool) {
			for in := range g.Transforms[i].Inputs() {
				if !yield(position[g.producers[in]]) {
					return
				}
			}
		}
	})
	if stuck >= 0 {
		return fault.New(fault.Invalid, "the pipeline has a cycle: %v waits for its own output", g.Transforms[stuck])
	}
	sorted := make([]*Transform, len(order))
	for i, from := range order {
		sorted[i] = g.Transforms[from]
	}
	g.Transforms = sorted
	return nil
}

// TopologicalOrder orders the numbers below n so that each comes after those it
// needs, and the smallest first otherwise. If they form a cycle, stuck is a
// number that needs one; else it is -1.
func TopologicalOrder(n int, needs func(int) iter.Seq[int]) (order []int, stuck int) {
	missing := make([]int, n)
	neededBy := make([][]int, n)
	ready := &intHeap{}
	for i := range n {
		for need := range needs(i) {
			neededBy[need] = append(neededBy[need], i)
			missing[i]++
		}
		if missing[i] == 0 {
			heap.Push(ready, i)
		}
	}
	for ready.Len() > 0 {
		i := heap.Pop(ready).(int)
		order = append(order, i)
		for _, r := range neededBy[i] {
			if missing[r]--; missing[r] == 0 {
				heap.Push(ready, r)
			}
		}
	}
	for i := range n {
		if missing[i] > 0 {
			return nil, i
		}
	}
	return order, -1
}

type intHeap []int

func (h intHeap) Len() int           { return len(h) }
func (h intHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h intHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *intHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
