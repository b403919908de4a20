// Package fusion decides which transforms run together in one stage.
package fusion

import (
	"iter"

	"github.com/lintelrun/lintel/portable/graph"
)

// Stage is a set of transforms of one environment that read one PCollection
// from the runner, directly or through each other.
type Stage struct {
	Environment string
	// Input is the PCollection that the stage's roots read.
	Input string
	// Transforms in topological order.
	Transforms []*graph.Transform
}

// Options of fusing. The zero value is what most jobs are fused with.
type Options struct {
	// Separate gives each transform its own stage.
	Separate bool
	// Together puts the readers of an Impulse into one stage too. They then run one after the
	// other, which costs nothing only where there is one task for each stage.
	Together bool
}

// Fuse puts each SDK transform into a stage: that of its producer, or else that of a
// sibling which reads the same PCollection, unless that is an Impulse's. Stages are
// returned in the order of their first transforms. The graph of stages and runner
// transforms has no cycle; in particular no stage depends on itself by a side input,
// transitively. A Flatten of what one stage makes becomes a transform of that stage's SDK.
func Fuse(g *graph.Graph, opts Options) []*Stage {
	f := &fuser{
		g:       g,
		opts:    opts,
		nodes:   make(map[*graph.Transform]*node, len(g.Transforms)),
		reading: map[string][]*node{},
		steps:   maxSteps,
	}
	for _, t := range g.Transforms {
		switch {
		case t.Kind == graph.SDK:
			f.place(t)
		case t.Kind == graph.Flatten && !opts.Separate && f.absorb(t):
		default:
			n := &node{}
			f.nodes[t] = n
			f.reads(n, t)
		}
	}
	return f.stages
}

// maxSteps bounds the search for what side inputs depend on, over all of a pipeline. It is a
// second's work, and enough for thousands of side inputs that depend on each other; what has
// side inputs and comes later gets stages of its own, which is never wrong.
const maxSteps = 20_000_000

type fuser struct {
	g       *graph.Graph
	opts    Options
	stages  []*Stage
	nodes   map[*graph.Transform]*node
	reading map[string][]*node // stages, by the PCollection they read from the runner
	steps   int                // that are left
	search  int                // number of the last one
	next    []*node            // of a search
}

// node is a stage or a transform of the runner.
type node struct {
	stage *Stage // nil for the runner's
	reads []*node
	seen  int // in which search it was met last
}

// reads notes what n waits for because of t.
func (f *fuser) reads(n *node, t *graph.Transform) {
	for in := range t.Inputs() {
		from := f.nodes[f.g.Producer(in)]
		if from != n && (len(n.reads) == 0 || n.reads[len(n.reads)-1] != from) {
			n.reads = append(n.reads, from)
		}
	}
}

func (f *fuser) place(t *graph.Transform) {
	in := t.Main[0].PCollection
	if !f.opts.Separate && !t.Root() && f.searchSides(t) {
		for n := range f.candidates(in) {
			if n.stage.Environment == t.Environment && (len(t.Sides) == 0 || n.seen != f.search) {
				f.join(t, n)
				return
			}
		}
	}
	n := &node{stage: &Stage{Environment: t.Environment, Input: in}}
	f.stages = append(f.stages, n.stage)
	f.join(t, n)
	if !t.Root() {
		f.reading[in] = append(f.reading[in], n)
	}
}

func (f *fuser) join(t *graph.Transform, n *node) {
	n.stage.Transforms = append(n.stage.Transforms, t)
	f.nodes[t] = n
	f.reads(n, t)
}

// absorb makes a Flatten part of the stage that all its inputs come out of, if
// there is one. SDKs disagree on a PCollection that comes twice.
func (f *fuser) absorb(t *graph.Transform) bool {
	var n *node
	seen := map[string]bool{}
	for _, in := range t.Main {
		of := f.nodes[f.g.Producer(in.PCollection)]
		if of.stage == nil || n != nil && of != n || seen[in.PCollection] {
			return false
		}
		n = of
		seen[in.PCollection] = true
	}
	if n == nil {
		return false
	}
	t.Kind = graph.SDK
	t.Environment = n.stage.Environment
	f.join(t, n)
	return true
}

// candidates are the stages that a reader of a PCollection can be put into: the producer's,
// then those that read it too.
func (f *fuser) candidates(in string) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if n := f.nodes[f.g.Producer(in)]; n.stage != nil && !yield(n) {
			return
		}
		if f.g.Producer(in).Kind == graph.Impulse && !f.opts.Together {
			return // reading one element together saves nothing, and apart they run side by side
		}
		for _, n := range f.reading[in] {
			if f.steps--; f.steps < 0 || !yield(n) {
				return
			}
		}
	}
}

// searchSides marks all that t's side inputs depend on, as seen in this search: joined to one
// of those stages, t would wait for itself. It returns false if that takes too long.
func (f *fuser) searchSides(t *graph.Transform) bool {
	f.search++
	f.next = f.next[:0]
	for _, side := range t.Sides {
		f.visit(f.nodes[f.g.Producer(side.PCollection)])
	}
	for len(f.next) > 0 {
		n := f.next[len(f.next)-1]
		f.next = f.next[:len(f.next)-1]
		if f.steps -= len(n.reads); f.steps < 0 {
			return false
		}
		for _, from := range n.reads {
			f.visit(from)
		}
	}
	return true
}

func (f *fuser) visit(n *node) {
	if n.seen != f.search {
		n.seen = f.search
		f.next = append(f.next, n)
	}
}
