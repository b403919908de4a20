package portable

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/fusion"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/windowing"
)

// node is a stage in the making.
type node struct {
	stage *plan.Stage
	fused *fusion.Stage // of executable stages
	input string        // the main input PCollection; "" for an Impulse
	sides []*node       // side inputs of executable stages, each once
	// source is the id of the windowed coder of the main input.
	source string
	// backed is true where it is of groups that may be state-backed iterables.
	backed bool
	live   bool    // of a side input: its contents change
	sinks  []*sink // of executable stages, in the order of the edges
	order  int
}

// sink is where a PCollection leaves a stage in an encoding.
type sink struct{ id, pcollection, coder string }

type side struct {
	pcollection string
	multimap    bool
}

type assembler struct {
	g     *graph.Graph
	wire  *wireCoders
	plan  *plan.Plan
	nodes []*node
	// producer has the stage that each PCollection comes out of; none for those
	// of Flattens and redistributions.
	producer map[string]*node
	sides    map[side]*node
	joined   int // edges beyond the first of a stage
	calls    map[callKey]*plan.Call
	mergers  map[string]*graph.Transform // that merge accumulators, by the groups of them
	ids      endpointIDs
	allPanes bool // Options.Checkpoints
}

// assemble makes the plan out of fused stages: it adds the runner's stages,
// joins all by edges and writes the descriptors.
func assemble(ctx context.Context, g *graph.Graph, wire *wireCoders, fused []*fusion.Stage, components *pipepb.Components, opts Options) (*plan.Plan, error) {
	a := &assembler{
		g:        g,
		wire:     wire,
		allPanes: opts.Checkpoints,
		plan: &plan.Plan{
			Environments: map[string]*pipepb.Environment{},
			Components:   components,
			Origins:      map[string]string{},
			Wired:        map[string][]string{},
		},
		producer: map[string]*node{},
		sides:    map[side]*node{},
		calls:    map[callKey]*plan.Call{},
		mergers:  map[string]*graph.Transform{},
		ids:      newEndpointIDs(g),
	}
	a.addNodes(fused)
	a.addWired()
	a.findMergers()
	if err := a.order(); err != nil {
		return nil, err
	}
	for _, n := range a.nodes {
		if err := interrupted(ctx); err != nil {
			return nil, err
		}
		if err := a.connect(n); err != nil {
			return nil, err
		}
	}
	for _, n := range a.nodes {
		if err := interrupted(ctx); err != nil {
			return nil, err
		}
		if err := a.specify(n); err != nil {
			return nil, err
		}
	}
	for _, n := range a.nodes {
		n.stage.Bounded = a.bounded(n)
	}
	return a.plan, nil
}

// bounded tells whether all that comes before n is bounded, side inputs included.
func (a *assembler) bounded(n *node) bool {
	if n.stage.Kind == plan.TestStream || n.input != "" && !a.g.Bounded(n.input) {
		return false
	}
	return !slices.ContainsFunc(n.stage.In, func(in *plan.Edge) bool { return !in.From.Bounded })
}

func (a *assembler) addNodes(fused []*fusion.Stage) {
	first := map[*graph.Transform]*fusion.Stage{}
	for _, f := range fused {
		first[f.Transforms[0]] = f
	}
	for _, t := range a.g.Transforms {
		if t.ID != t.Origin {
			a.plan.Origins[t.ID] = t.Origin
		}
		switch t.Kind {
		case graph.Impulse:
			a.add(&node{stage: &plan.Stage{Kind: plan.Impulse, Parallelism: 1}}, t)
		case graph.TestStream:
			test := &plan.TestStreamSpec{
				Outputs: t.Tags(), Delimited: a.g.Delimited(t), Events: t.Test.GetEvents(),
			}
			if at := t.Test.GetEndpoint(); at.GetUrl() != "" { // Go sends one of nothing
				test.Endpoint, test.Events = at, nil
			}
			a.add(&node{stage: &plan.Stage{Kind: plan.TestStream, Parallelism: 1, Test: test}}, t)
		case graph.GroupByKey:
			a.add(&node{stage: &plan.Stage{Kind: plan.GroupByKey}, input: t.Main[0].PCollection}, t)
		case graph.SDK:
			if f := first[t]; f != nil {
				n := a.add(&node{stage: &plan.Stage{Kind: plan.Executable}, fused: f, input: f.Input}, f.Transforms...)
				a.addSides(n)
			}
		}
	}
}

// addWired notes what PCollections are made up of that no stage makes.
func (a *assembler) addWired() {
	for _, t := range a.g.Transforms {
		if t.Kind != graph.Flatten && t.Kind != graph.Redistribute {
			continue
		}
		for out := range t.Outputs() {
			sources := []string{}
			for _, s := range a.g.Sources(out) {
				sources = append(sources, s.PCollection)
			}
			a.plan.Wired[out] = sources
		}
	}
	for id, of := range a.g.Stands {
		if a.g.Producer(id) == nil {
			a.plan.Wired[id] = []string{of}
		}
	}
}

func (a *assembler) add(n *node, transforms ...*graph.Transform) *node {
	n.order = len(a.nodes)
	a.nodes = append(a.nodes, n)
	var names []string
	for _, t := range transforms {
		n.stage.Transforms = append(n.stage.Transforms, t.Origin)
		names = append(names, a.g.Components.Transforms[t.Origin].GetUniqueName())
		for out := range t.Outputs() {
			a.producer[out] = n
			if n.fused == nil && t.Kind != graph.TestStream {
				n.stage.Output = out
			}
		}
	}
	n.stage.Transforms = distinct(n.stage.Transforms)
	n.stage.Name = strings.Join(distinct(names), ", ")
	return n
}

// addSides adds the stages that materialise n's side inputs.
func (a *assembler) addSides(n *node) {
	for _, t := range n.fused.Transforms {
		for _, in := range t.Sides {
			key := side{in.PCollection, in.Multimap}
			from, ok := a.sides[key]
			if !ok {
				from = a.add(&node{stage: &plan.Stage{Kind: plan.SideInput, Parallelism: 1}, input: in.PCollection})
				from.stage.Name = "side input " + a.g.PCollection(in.PCollection).GetUniqueName()
				from.stage.Side = &plan.SideSpec{Multimap: in.Multimap}
				from.live = in.Live
				a.sides[key] = from
			}
			if !slices.Contains(n.sides, from) {
				n.sides = append(n.sides, from)
			}
		}
	}
}

// order sorts the nodes topologically and numbers the stages.
func (a *assembler) order() error {
	order, stuck := graph.TopologicalOrder(len(a.nodes), func(i int) iter.Seq[int] {
		return func(yield func(int) bool) {
			for _, s := range a.g.Sources(a.nodes[i].input) {
				if !yield(a.producer[s.PCollection].order) {
					return
				}
			}
			for _, s := range a.nodes[i].sides {
				if !yield(s.order) {
					return
				}
			}
		}
	})
	if stuck >= 0 {
		return fault.New(fault.Internal, "fusion made a cycle through stage %q", a.nodes[stuck].stage.Name)
	}
	sorted := make([]*node, len(order))
	for i, from := range order {
		n := a.nodes[from]
		sorted[i] = n
		n.order = i
		n.stage.Index = i
		n.stage.ID = fmt.Sprintf("s%d", i)
		a.plan.Stages = append(a.plan.Stages, n.stage)
	}
	a.nodes = sorted
	return nil
}

// maxJoined bounds the edges that end in the same stage as another, over the whole plan.
const maxJoined = 100_000

// connect adds the edges that end at n, main inputs first.
func (a *assembler) connect(n *node) error {
	if n.input == "" {
		return nil
	}
	a.chooseSource(n)
	sources := a.g.Sources(n.input)
	if a.joined += max(len(sources)-1, 0); a.joined > maxJoined {
		return fault.New(fault.Unsupported, "stage %q: the Flattens that stages read come to more than %d edges", n.stage.Name, maxJoined)
	}
	for _, s := range sources {
		layout, err := a.wire.compileAs(n.input, n.source)
		if err != nil {
			return err
		}
		from := a.producer[s.PCollection]
		e := &plan.Edge{Kind: plan.Forward, From: from.stage, To: n.stage, PCollection: s.PCollection, Coder: layout}
		switch {
		case n.stage.Kind == plan.GroupByKey || n.fused != nil && n.fused.Transforms[0].Stateful():
			e.Kind = plan.Keyed
		case s.Rebalance && n.stage.Kind == plan.Executable:
			e.Kind = plan.Rebalance
		}
		if from.fused != nil {
			e.Sink = a.sink(from, s.PCollection, n.source)
		}
		a.addEdge(e)
	}
	for _, s := range n.sides {
		layout, err := a.wire.compile(s.input)
		if err != nil {
			return err
		}
		a.addEdge(&plan.Edge{Kind: plan.Broadcast, From: s.stage, To: n.stage, PCollection: s.input, Coder: layout})
	}
	return nil
}

// chooseSource decides how n's main input is encoded: groups straight from GroupByKeys as
// state-backed iterables, if the harness knows them.
func (a *assembler) chooseSource(n *node) {
	sources := a.g.Sources(n.input)
	n.backed = n.stage.Kind == plan.Executable && len(sources) > 0
	for _, s := range sources {
		n.backed = n.backed && a.producer[s.PCollection].stage.Kind == plan.GroupByKey
	}
	if n.backed {
		n.source, n.backed = a.wire.backedID(n.input, n.fused.Environment)
	}
	if !n.backed {
		n.source = a.wire.windowedID(n.input)
	}
}

// sink returns the id of n's sink for a PCollection in an encoding. Readers may
// want different ones: those of a Flatten have that of its output.
func (a *assembler) sink(n *node, pcollection, coder string) string {
	id := a.ids.sinkPrefix + pcollection
	for _, s := range n.sinks {
		if s.pcollection == pcollection && s.coder == coder {
			return s.id
		}
	}
	for slices.ContainsFunc(n.sinks, func(s *sink) bool { return s.id == id }) {
		id += "@" + coder
	}
	n.sinks = append(n.sinks, &sink{id, pcollection, coder})
	return id
}

func (a *assembler) addEdge(e *plan.Edge) {
	e.Index = len(a.plan.Edges)
	a.plan.Edges = append(a.plan.Edges, e)
	e.From.Out = append(e.From.Out, e)
	e.To.In = append(e.To.In, e)
}

// specify says what n does, once its edges are there.
func (a *assembler) specify(n *node) error {
	switch n.stage.Kind {
	case plan.GroupByKey:
		layout, err := a.wire.compile(n.input)
		if err != nil {
			return err
		}
		ws, err := a.grouping(n.input)
		if err != nil {
			return fault.New(fault.ClassOf(err), "%v: %w", a.g.Producer(n.stage.Output), err)
		}
		merge, err := a.merging(n.input, ws)
		if err != nil {
			return err
		}
		n.stage.Group = &plan.GroupSpec{
			Input: layout, Windowing: ws, Merge: merge,
			Panes: a.g.Panes(n.input), Bounded: a.g.Bounded(n.input),
			Name: a.g.Producer(n.stage.Output).Proto.GetUniqueName(),
		}
		if size := a.g.Producer(n.stage.Output).BatchSize; size > 0 {
			a.batch(n.stage.Group, size)
			return nil
		}
		n.stage.Group.StateBacked = len(n.stage.Out) > 0
		for _, e := range n.stage.Out {
			n.stage.Group.StateBacked = n.stage.Group.StateBacked && a.nodes[e.To.Index].backed
		}
		if n.stage.Group.Panes {
			n.stage.Group.Combine, err = a.combining(n)
			return err
		}
	case plan.SideInput:
		return a.specifySide(n)
	case plan.Executable:
		return a.specifyExecutable(n)
	}
	return nil
}

// grouping returns the strategy that a PCollection is grouped by. What fires once has no other pane that
// is empty, even if it is in a job where the watermark is a while between the end of a window and its expiry.
func (a *assembler) grouping(pcollection string) (*windowing.Strategy, error) {
	ws, err := a.wire.endingWindows(pcollection)
	if err != nil || !ws.EmptyFinal || !a.g.Bounded(pcollection) || !ws.FiresOnceOnBoundedInput() {
		return ws, err
	}
	once := *ws
	once.EmptyFinal = false
	return &once, nil
}

// batch makes s one of GroupIntoBatches, which knows no triggers. Batches have the time of
// the latest element of their key, as if they had been made when it came.
func (a *assembler) batch(s *plan.GroupSpec, size uint64) {
	windowed := *s.Windowing
	windowed.Combiner = windowing.Latest
	s.Windowing, s.BatchSize, s.Panes = &windowed, size, a.allPanes
}

func (a *assembler) specifyExecutable(n *node) error {
	spec := &plan.ExecutableSpec{
		Environment: n.fused.Environment,
		Source:      a.ids.source,
		Splittable:  n.fused.Transforms[0].Splittable,
		Unbounded:   a.unbounded(n.fused.Transforms[0]),
		StableInput: n.fused.Transforms[0].StableInput(),
	}
	for _, s := range n.sinks {
		spec.Sinks = append(spec.Sinks, s.id)
	}
	slices.Sort(spec.Sinks)
	for _, t := range n.fused.Transforms {
		spec.Transforms = append(spec.Transforms, t.ID)
		spec.FewBundles = spec.FewBundles || t.FewBundles
		spec.Finalizes = spec.Finalizes || t.ParDo.GetRequestsFinalization()
		for _, in := range t.Sides {
			mapping, err := a.mapping(t, in)
			if err != nil {
				return err
			}
			spec.SideInputs = append(spec.SideInputs, plan.SideInputRef{
				Transform: t.ID,
				Name:      in.Local,
				Stage:     a.sides[side{in.PCollection, in.Multimap}].stage,
				Mapping:   mapping,
			})
		}
	}
	var err error
	if root := n.fused.Transforms[0]; root.Stateful() {
		if spec.Stateful, err = a.stateful(n, root); err != nil {
			return err
		}
	}
	env := n.fused.Environment
	a.plan.Environments[env] = a.g.Components.Environments[env]
	if spec.Descriptor, err = a.describe(n, spec); err != nil {
		return err
	}
	a.addDraining(n, spec)
	if err := a.addEmpty(n, spec); err != nil {
		return err
	}
	n.stage.Exec = spec
	return nil
}

// distinct returns s without repetitions, in order.
func distinct(s []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(s, func(x string) bool {
		again := seen[x]
		seen[x] = true
		return again
	})
}
