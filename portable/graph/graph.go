// Package graph is the view of a pipeline that planning works on: its leaf
// transforms in topological order, and small rewrites of them.
package graph

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Kind says who runs a transform.
type Kind int

const (
	// SDK transforms run in a harness of their environment.
	SDK Kind = iota
	// Impulse is a stage of the runner's own.
	Impulse
	// GroupByKey is one, too.
	GroupByKey
	// Flatten is no stage: it turns into edges.
	Flatten
	// Redistribute turns into edges, too.
	Redistribute
	// Combine is a combine_per_key; LiftCombines replaces all of them.
	Combine
	// TestStream makes elements and watermarks by a script.
	TestStream
)

// Input is one main input of a transform.
type Input struct {
	// Local is the transform's own name of the input.
	Local, PCollection string
}

// SideInput is one side input of a transform.
type SideInput struct {
	Local, PCollection string
	// Multimap is true for look-ups by key, false for iteration.
	Multimap bool
	// Live is true where the contents of a window may change while they are read: where
	// the input is unbounded, or its trigger may fire more than once.
	Live bool
}

// Transform is one leaf.
type Transform struct {
	// ID is unique in the graph; it is the pipeline's unless planning made the transform.
	ID string
	// Origin is the pipeline's id of the transform that this one is (a part of).
	Origin string
	Kind   Kind
	// Proto has the transform's spec and names. Shared: not to be changed.
	Proto *pipepb.PTransform
	// Environment is the id of an SDK transform's environment.
	Environment string
	// Main are the main inputs, sorted by local name: one, but none for an
	// Impulse and any number for a Flatten, where one may come twice.
	Main []Input
	// Sides are the side inputs, sorted by local name.
	Sides []SideInput
	// ParDo is the payload of ParDos and of the parts of splittable ones, else nil.
	ParDo *pipepb.ParDoPayload
	// Test is the payload of a TestStream, else nil.
	Test *pipepb.TestStreamPayload
	// BatchSize is how many values an element has at most that a GroupByKey makes, 0 if any number.
	BatchSize uint64
	// FewBundles is true where each bundle writes a file, however small it is.
	FewBundles bool
	// Splittable is true for the process part of a splittable DoFn, which must
	// read its input from the runner.
	Splittable bool
}

// Stateful tells whether the transform keeps state or sets timers by key, or wants the
// elements of a key in order.
func (t *Transform) Stateful() bool {
	return len(t.ParDo.GetStateSpecs()) > 0 || len(t.ParDo.GetTimerFamilySpecs()) > 0 || t.ParDo.GetOnWindowExpirationTimerFamilySpec() != "" ||
		t.ParDo.GetRequiresTimeSortedInput()
}

// StableInput tells whether the transform wants the same input again when it is tried again. Of the parts of a
// splittable DoFn it is the one that processes elements: what the others make may be made again.
func (t *Transform) StableInput() bool {
	return t.ParDo.GetRequiresStableInput() && (t.Splittable || t.ParDo.GetRestrictionCoderId() == "")
}

// Root tells whether the transform must read its input from the runner. So it is where it
// wants the same input again when it is tried again, and with live side inputs: which
// elements may be processed depends on their windows, and those that wait must not keep
// what else reads the same input.
func (t *Transform) Root() bool {
	return t.Splittable || t.Stateful() || t.StableInput() || slices.ContainsFunc(t.Sides, func(s SideInput) bool { return s.Live })
}

// URN of the transform.
func (t *Transform) URN() string { return t.Proto.GetSpec().GetUrn() }

// Graph holds the leaves of a pipeline.
type Graph struct {
	// Components are the pipeline's plus what planning added. The maps are the
	// graph's own; messages in them are shared with the pipeline and never changed.
	Components *pipepb.Components
	// Transforms in topological order: producers first.
	Transforms []*Transform
	// Stands has, for PCollections within composites that planning has replaced, the
	// one that stands for it now.
	Stands map[string]string

	allPanes         bool            // as New was told
	fileWriters      map[string]bool // parts of transforms that write as many files as we like, by id
	coders           *coderIndex
	made             map[int]string    // coders made by planning, by shape
	environmentAlias map[string]string // by the pipeline's ids
	producers        map[string]*Transform
	sources          map[string][]Source
	encoding         map[string]string // coders of PCollections that travel in others than their own
}

// New selects the leaves of p and checks that they form a well made graph. With allPanes all groups
// are to leave in panes, and all side inputs to be such as change. It
// returns a fault.Invalid for what is broken, and a fault.Unsupported for
// transforms that nobody here can run.
func New(p *pipepb.Pipeline, allPanes bool) (*Graph, error) {
	c := p.GetComponents()
	g := &Graph{allPanes: allPanes, made: map[int]string{}, Stands: map[string]string{}, Components: &pipepb.Components{
		Transforms:          clone(c.GetTransforms()),
		Pcollections:        clone(c.GetPcollections()),
		WindowingStrategies: maps.Clone(c.GetWindowingStrategies()),
		Coders:              clone(c.GetCoders()),
		Environments:        maps.Clone(c.GetEnvironments()),
	}}
	var err error
	if g.coders, err = indexCoders(g.Components.Coders); err != nil {
		return nil, err
	}
	if err := g.checkPCollections(); err != nil {
		return nil, err
	}
	g.mergeEnvironments()
	g.spreadUnbounded()
	g.fileWriters = map[string]bool{}
	g.findFileWriters()
	leaves, err := g.selectLeaves(p.GetRootTransformIds())
	if err != nil {
		return nil, err
	}
	for _, id := range leaves {
		t, err := g.parse(id)
		if err != nil {
			return nil, err
		}
		g.Transforms = append(g.Transforms, t)
	}
	if err := g.index(); err != nil {
		return nil, err
	}
	return g, g.sort()
}

// clone is maps.Clone, but never nil, so that planning can add.
func clone[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

// Producer returns the leaf that produces a PCollection.
func (g *Graph) Producer(pcollection string) *Transform { return g.producers[pcollection] }

// PCollection returns a PCollection that is known to exist.
func (g *Graph) PCollection(id string) *pipepb.PCollection { return g.Components.Pcollections[id] }

// Strategy returns the windowing strategy of a PCollection.
func (g *Graph) Strategy(pcollection string) *pipepb.WindowingStrategy {
	return g.Components.WindowingStrategies[g.PCollection(pcollection).GetWindowingStrategyId()]
}

// Name is how messages name a transform.
func Name(id string, t *pipepb.PTransform) string {
	return fmt.Sprintf("transform %q (id %q, URN %q)", t.GetUniqueName(), id, t.GetSpec().GetUrn())
}

// Outputs yields the PCollections that t produces, by the order of their local names.
func (t *Transform) Outputs() iter.Seq[string] {
	return func(yield func(string) bool) {
		outputs := t.Proto.GetOutputs()
		if len(outputs) == 1 { // most have one, and it needs no order
			yield(only(outputs))
			return
		}
		for _, local := range sortedKeys(outputs) {
			if !yield(outputs[local]) {
				return
			}
		}
	}
}

// String names the transform as messages do.
func (t *Transform) String() string { return Name(t.ID, t.Proto) }

// freeID returns an id that m lacks: want, or want with a number.
func freeID[V any](m map[string]V, want string) string {
	id := want
	for i := 2; ; i++ {
		if _, taken := m[id]; !taken {
			return id
		}
		id = fmt.Sprintf("%s_%d", want, i)
	}
}

// addTransform registers a transform made by planning under a free id.
func (g *Graph) addTransform(id string, t *Transform) *Transform {
	t.ID = freeID(g.Components.Transforms, id)
	g.Components.Transforms[t.ID] = t.Proto
	return t
}

func (g *Graph) addPCollection(id string, like *pipepb.PCollection, coder string) string {
	id = freeID(g.Components.Pcollections, id)
	g.Components.Pcollections[id] = &pipepb.PCollection{
		UniqueName:          id,
		CoderId:             coder,
		IsBounded:           like.GetIsBounded(),
		WindowingStrategyId: like.GetWindowingStrategyId(),
	}
	return id
}

// rewrite replaces each transform by what f returns for it, in order, which must
// be well ordered among itself and take and give the same PCollections.
func (g *Graph) rewrite(f func(*Transform) ([]*Transform, error)) error {
	out := make([]*Transform, 0, len(g.Transforms))
	changed := false
	for _, t := range g.Transforms {
		ts, err := f(t)
		if err != nil {
			return err
		}
		changed = changed || len(ts) != 1 || ts[0] != t
		out = append(out, ts...)
	}
	if !changed {
		return nil
	}
	g.Transforms = out
	return g.index()
}
