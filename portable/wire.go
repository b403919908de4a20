package portable

import (
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/portable/windowing"
)

// wireCoders decides how elements are encoded between harnesses and the runner:
// as the pipeline says, except that what one of the parties doesn't know is
// length prefixed. PCollections whose elements or keys are compared or merged
// (by Flatten, redistribution, GroupByKey) get their prefixes in the same places.
type wireCoders struct {
	g *graph.Graph
	// parent is a union-find forest over PCollections.
	parent map[string]string
	// environments are those that touch a class of PCollections, by its root.
	environments map[string][]string
	known        map[string]map[string]bool // coder URNs by environment
	// windowers are the environments that see windows of custom functions.
	windowers []string
	rewritten map[rewriting]string
	windows   map[elementInWindows]string // windowed coders
	windowed  map[string]*coders.Windowed // by coder id
}

type rewriting struct{ coder, environments string }

type elementInWindows struct{ element, strategy string }

// modelCoders are known by environments that don't tell which coders they know.
var modelCoders = []string{
	urns.CoderStringUTF8, urns.CoderBool, urns.CoderVarint, urns.CoderDouble, urns.CoderTimer,
}

// structuralCoders are known by all environments: without them there is no Fn
// API, and without bytes no Impulse.
var structuralCoders = []string{
	urns.CoderBytes, urns.CoderKV, urns.CoderIterable, urns.CoderLengthPrefix, urns.CoderWindowedValue,
	urns.CoderGlobalWindow, urns.CoderIntervalWindow,
}

// newWireCoders reads the environments' capabilities.
func newWireCoders(g *graph.Graph) *wireCoders {
	w := &wireCoders{
		g:            g,
		parent:       map[string]string{},
		environments: map[string][]string{},
		known:        map[string]map[string]bool{},
		rewritten:    map[rewriting]string{},
		windows:      map[elementInWindows]string{},
		windowed:     map[string]*coders.Windowed{},
	}
	for id, env := range g.Components.Environments {
		known := map[string]bool{}
		for _, urn := range env.GetCapabilities() {
			if strings.HasPrefix(urn, "beam:coder:") {
				known[urn] = true
			}
		}
		if len(known) == 0 {
			for _, urn := range modelCoders {
				known[urn] = true
			}
		}
		for _, urn := range structuralCoders {
			known[urn] = true
		}
		w.known[id] = known
	}
	w.windowers = w.findWindowers()
	return w
}

// findWindowers finds the environments that see windows which aren't of the model.
func (w *wireCoders) findWindowers() []string {
	found := map[string]bool{}
	see := func(pcollection, environment string) {
		ws := w.g.Strategy(pcollection)
		if !modelWindow(w.g.Components.Coders[ws.GetWindowCoderId()].GetSpec().GetUrn()) {
			found[environment] = true
			found[w.g.Environment(ws.GetEnvironmentId())] = true
		}
	}
	for _, t := range w.g.Transforms {
		if t.Environment == "" {
			continue
		}
		for in := range t.Inputs() {
			see(in, t.Environment)
		}
		for out := range t.Outputs() {
			see(out, t.Environment)
		}
	}
	delete(found, "")
	return slices.Sorted(maps.Keys(found))
}

// modelWindow tells whether all SDKs know windows encoded so, and the runner their ends.
func modelWindow(coder string) bool {
	return coder == urns.CoderGlobalWindow || coder == urns.CoderIntervalWindow
}

// tie finds which PCollections must be encoded alike, and who touches them.
func (w *wireCoders) tie() {
	for _, t := range w.g.Transforms {
		switch t.Kind {
		case graph.Flatten, graph.Redistribute, graph.GroupByKey:
			for out := range t.Outputs() {
				for _, in := range t.Main {
					w.parent[w.root(in.PCollection)] = w.root(out)
				}
			}
		}
	}
	for _, t := range w.g.Transforms {
		if t.Kind != graph.SDK {
			continue
		}
		for in := range t.Inputs() {
			w.touch(in, t.Environment)
		}
		for out := range t.Outputs() {
			w.touch(out, t.Environment)
		}
	}
	for _, envs := range w.environments {
		slices.Sort(envs)
	}
}

func (w *wireCoders) root(pcollection string) string {
	for {
		up, ok := w.parent[pcollection]
		if !ok || up == pcollection {
			return pcollection
		}
		if next, ok := w.parent[up]; ok {
			w.parent[pcollection] = next // halve the path
		}
		pcollection = up
	}
}

func (w *wireCoders) touch(pcollection, environment string) {
	root := w.root(pcollection)
	if !slices.Contains(w.environments[root], environment) {
		w.environments[root] = append(w.environments[root], environment)
	}
}

// element returns the id of the coder of a PCollection's elements on the wire.
func (w *wireCoders) element(pcollection string) string {
	return w.rewrite(w.g.Encoding(pcollection), w.environments[w.root(pcollection)])
}

// windowedID returns the id of the windowed coder of a PCollection on the wire.
func (w *wireCoders) windowedID(pcollection string) string {
	return w.windowedBy(w.element(pcollection), pcollection)
}

// windowedBy returns the id of a windowed coder of elements so encoded in the windows of a PCollection.
func (w *wireCoders) windowedBy(element, pcollection string) string {
	key := elementInWindows{element, w.g.PCollection(pcollection).GetWindowingStrategyId()}
	id, ok := w.windows[key]
	if !ok {
		window := w.window(w.g.Strategy(pcollection).GetWindowCoderId())
		id = w.add("windowed:"+element, urns.CoderWindowedValue, nil, element, window)
		w.windows[key] = id
	}
	return id
}

// backedID returns the id of a windowed coder of groups, KV<K, iterable<V>>, whose iterables are
// state-backed, or false where the environment that reads them does not know those.
func (w *wireCoders) backedID(pcollection, environment string) (string, bool) {
	all := w.g.Components.Coders
	id := w.element(pcollection)
	kv := all[id].GetComponentCoderIds()
	if all[id].GetSpec().GetUrn() != urns.CoderKV || len(kv) != 2 || all[kv[1]].GetSpec().GetUrn() != urns.CoderIterable ||
		!w.known[environment][urns.CoderStateBackedIterable] {
		return "", false
	}
	values := w.add("backed:"+kv[1], urns.CoderStateBackedIterable, nil, all[kv[1]].GetComponentCoderIds()...)
	return w.windowedBy(w.add("backed:"+id, urns.CoderKV, nil, kv[0], values), pcollection), true
}

// compile returns the layout of a PCollection on the wire.
func (w *wireCoders) compile(pcollection string) (*coders.Windowed, error) {
	return w.compileAs(pcollection, w.windowedID(pcollection))
}

// compileAs returns the layout of a PCollection encoded by the windowed coder called id.
func (w *wireCoders) compileAs(pcollection, id string) (*coders.Windowed, error) {
	if layout, ok := w.windowed[id]; ok {
		return layout, nil
	}
	layout, err := coders.CompileWindowed(id, w.g.Components.Coders)
	if err != nil {
		return nil, fault.New(fault.ClassOf(err), "PCollection %q: %w", pcollection, err)
	}
	w.windowed[id] = layout
	return layout, nil
}

// rewrite returns the id of a coder like the one called id in which all that
// we or one of the environments doesn't know is length prefixed.
func (w *wireCoders) rewrite(id string, environments []string) string {
	key := rewriting{id, strings.Join(environments, "\x00")}
	if to, ok := w.rewritten[key]; ok {
		return to
	}
	to := w.rewriteNew(id, environments)
	w.rewritten[key] = to
	return to
}

func (w *wireCoders) rewriteNew(id string, environments []string) string {
	c := w.g.Components.Coders[id]
	urn := c.GetSpec().GetUrn()
	if urn == urns.CoderLengthPrefix {
		return id
	}
	if !w.allKnow(urn, environments) {
		return w.prefixed(id)
	}
	components, changed := make([]string, len(c.GetComponentCoderIds())), false
	for i, comp := range c.GetComponentCoderIds() {
		components[i] = w.rewrite(comp, environments)
		changed = changed || components[i] != comp
	}
	to := id
	if changed {
		to = w.add("wire:"+id, urn, c.GetSpec().GetPayload(), components...)
	}
	if len(c.GetSpec().GetPayload()) > 0 {
		// A schema, for example, may hold types whose layout isn't known.
		if _, err := coders.Compile(to, w.g.Components.Coders); fault.ClassOf(err) == fault.Unsupported {
			return w.prefixed(id)
		}
	}
	return to
}

func (w *wireCoders) allKnow(urn string, environments []string) bool {
	if !coders.Known(urn) {
		return false
	}
	for _, env := range environments {
		if !w.known[env][urn] {
			return false
		}
	}
	return true
}

// window returns the id of a window coder on the wire, for all environments that see
// windows of custom functions alike, as windows cross from PCollection to PCollection.
// Other windows than the model's are wrapped so that their maximum timestamp can be seen,
// if those environments know custom_window.
func (w *wireCoders) window(id string) string {
	urn := w.g.Components.Coders[id].GetSpec().GetUrn()
	if modelWindow(urn) {
		return id
	}
	to := w.rewrite(id, w.windowers)
	if w.g.Components.Coders[to].GetSpec().GetUrn() != urns.CoderCustomWindow && w.allKnow(urns.CoderCustomWindow, w.windowers) {
		return w.add("custom:"+id, urns.CoderCustomWindow, nil, to)
	}
	return to
}

// strategy returns a windowing strategy with its window coder as on the wire.
func (w *wireCoders) strategy(id string) *pipepb.WindowingStrategy {
	ws := w.g.Components.WindowingStrategies[id]
	to := w.window(ws.GetWindowCoderId())
	if to == ws.GetWindowCoderId() {
		return ws
	}
	ws = proto.Clone(ws).(*pipepb.WindowingStrategy)
	ws.WindowCoderId = to
	return ws
}

// windowing compiles the windowing strategy of a PCollection.
func (w *wireCoders) windowing(pcollection string) (*windowing.Strategy, error) {
	id := w.g.PCollection(pcollection).GetWindowingStrategyId()
	s, err := windowing.FromProto(w.strategy(id), w.g.Components.Coders)
	if err != nil {
		return nil, fault.New(fault.ClassOf(err), "windowing strategy %q of PCollection %q: %w", id, pcollection, err)
	}
	return s, nil
}

// endingWindows is windowing where the runner must know when windows end.
func (w *wireCoders) endingWindows(pcollection string) (*windowing.Strategy, error) {
	s, err := w.windowing(pcollection)
	if err != nil || s.KnowsEnds() {
		return s, err
	}
	var lacking []string
	for _, env := range w.windowers {
		if !w.known[env][urns.CoderCustomWindow] {
			lacking = append(lacking, env)
		}
	}
	return nil, fault.New(fault.Unsupported, "PCollection %q: when its windows, encoded by coder %q, end can't be known: environments %q do not know %s",
		pcollection, w.g.Strategy(pcollection).GetWindowCoderId(), lacking, urns.CoderCustomWindow)
}

// keyValue returns the components of a KV coder.
func (w *wireCoders) keyValue(id string) (key, value string, ok bool) {
	c := w.g.Components.Coders[id]
	if c.GetSpec().GetUrn() != urns.CoderKV || len(c.GetComponentCoderIds()) != 2 {
		return "", "", false
	}
	return c.ComponentCoderIds[0], c.ComponentCoderIds[1], true
}

func (w *wireCoders) prefixed(id string) string {
	return w.add("prefixed:"+id, urns.CoderLengthPrefix, nil, id)
}

func (w *wireCoders) add(want, urn string, payload []byte, components ...string) string {
	return w.g.AddCoder(want, &pipepb.Coder{
		Spec:              &pipepb.FunctionSpec{Urn: urn, Payload: payload},
		ComponentCoderIds: components,
	})
}
