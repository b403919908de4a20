// Package fusion decides which transforms run together in one stage.
package fusion

import (
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

// Fuse puts each SDK transform into a stage: that of its
// producer, or else that of a sibling which reads the same PCollection. Stages
// are returned in the order of their first transforms. The graph of stages and
// runner transforms has no cycle; in particular no stage depends on itself by a
// side input, transitively. A Flatten of what one stage makes becomes a transform
// of that stage's SDK. With separate, each transform has its own stage.
func Fuse(g *graph.Graph, separate bool) []*Stage {
	f := &fuser{g: g, of: map[*graph.Transform]*Stage{}, reading: map[string][]*Stage{}}
	for _, t := range g.Transforms {
		switch {
		case t.Kind == graph.SDK:
			f.place(t, separate)
		case t.Kind == graph.Flatten && !separate:
			f.absorb(t)
		}
	}
	return f.stages
}

type fuser struct {
	g       *graph.Graph
	stages  []*Stage
	of      map[*graph.Transform]*Stage
	reading map[string][]*Stage // by the PCollection they read from the runner
}

func (f *fuser) place(t *graph.Transform, separate bool) {
	in := t.Main[0].PCollection
	if !separate && !t.Root() {
		for _, s := range f.candidates(in) {
			if s.Environment == t.Environment && !f.sidesNeed(t, s) {
				s.Transforms = append(s.Transforms, t)
				f.of[t] = s
				return
			}
		}
	}
	s := &Stage{Environment: t.Environment, Input: in, Transforms: []*graph.Transform{t}}
	f.stages = append(f.stages, s)
	f.of[t] = s
	if !t.Root() {
		f.reading[in] = append(f.reading[in], s)
	}
}

// absorb makes a Flatten part of the stage that all its inputs come out of, if
// there is one. SDKs disagree on a PCollection that comes twice.
func (f *fuser) absorb(t *graph.Transform) {
	var s *Stage
	seen := map[string]bool{}
	for _, in := range t.Main {
		of := f.of[f.g.Producer(in.PCollection)]
		if of == nil || s != nil && of != s || seen[in.PCollection] {
			return
		}
		s = of
		seen[in.PCollection] = true
	}
	if s == nil {
		return
	}
	t.Kind = graph.SDK
	t.Environment = s.Environment
	s.Transforms = append(s.Transforms, t)
	f.of[t] = s
}

// candidates are the stages that a reader of a PCollection can be put into.
func (f *fuser) candidates(in string) []*Stage {
	if s := f.of[f.g.Producer(in)]; s != nil {
		return append([]*Stage{s}, f.reading[in]...)
	}
	return f.reading[in]
}

// sidesNeed tells whether t's side inputs depend on stage s. Joined to s, t
// would wait for itself.
func (f *fuser) sidesNeed(t *graph.Transform, s *Stage) bool {
	if len(t.Sides) == 0 {
		return false
	}
	seen := map[any]bool{}
	var next []string
	for _, side := range t.Sides {
		next = append(next, side.PCollection)
	}
	visit := func(t *graph.Transform) {
		if seen[t] {
			return
		}
		seen[t] = true
		for _, in := range t.Main {
			next = append(next, in.PCollection)
		}
		for _, in := range t.Sides {
			next = append(next, in.PCollection)
		}
	}
	for len(next) > 0 {
		p := f.g.Producer(next[len(next)-1])
		next = next[:len(next)-1]
		switch of := f.of[p]; {
		case of == nil:
			visit(p)
		case of == s:
			return true
		case !seen[of]:
			seen[of] = true // all of a stage waits for what any of it needs
			for _, member := range of.Transforms {
				visit(member)
			}
		}
	}
	return false
}
