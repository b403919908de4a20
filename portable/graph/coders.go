package graph

import (
	"encoding/binary"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

const (
	maxCoderDepth = 200
	// maxCoderSize bounds a coder written out as a tree, since coders may share components.
	maxCoderSize = 10_000
)

// coderIndex numbers coders so that two of equal structure have equal numbers,
// whatever their ids.
type coderIndex struct {
	coders map[string]*pipepb.Coder
	shape  map[string]int // by id
	size   map[string]int // by id, as a tree
	depth  map[string]int // by id
	shapes map[string]int // by URN, payload and component shapes
}

// indexCoders also checks that all components exist, and that nesting is finite and bounded.
func indexCoders(coders map[string]*pipepb.Coder) (*coderIndex, error) {
	x := &coderIndex{coders, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}}
	for _, id := range sortedKeys(coders) {
		if err := x.visit(id, 0); err != nil {
			return nil, err
		}
	}
	return x, nil
}

const visiting = -1

func (x *coderIndex) visit(id string, depth int) error {
	if shape, ok := x.shape[id]; ok {
		if shape == visiting {
			return fault.New(fault.Invalid, "coder %q is a component of itself", id)
		}
		return nil
	}
	c, ok := x.coders[id]
	if !ok || c == nil {
		return fault.New(fault.Invalid, "there is no coder %q, which another has as a component", id)
	}
	if depth > maxCoderDepth {
		return fault.New(fault.Invalid, "coder %q is nested more than %d deep", id, maxCoderDepth)
	}
	x.shape[id] = visiting
	size := 1
	for _, comp := range c.GetComponentCoderIds() {
		if err := x.visit(comp, depth+1); err != nil {
			return err
		}
		if x.depth[id] = max(x.depth[id], x.depth[comp]+1); x.depth[id] > maxCoderDepth {
			return fault.New(fault.Invalid, "coder %q is nested more than %d deep", id, maxCoderDepth)
		}
		if size += x.size[comp]; size > maxCoderSize {
			return fault.New(fault.Invalid, "coder %q has more than %d components", id, maxCoderSize)
		}
	}
	x.shape[id], x.size[id] = x.shapeOf(c), size
	return nil
}

// shapeOf returns the number of c's structure.
func (x *coderIndex) shapeOf(c *pipepb.Coder) int {
	var key []byte
	appendString := func(s []byte) { key = append(binary.AppendUvarint(key, uint64(len(s))), s...) }
	appendString([]byte(c.GetSpec().GetUrn()))
	appendString(c.GetSpec().GetPayload())
	for _, comp := range c.GetComponentCoderIds() {
		key = binary.AppendUvarint(key, uint64(x.shape[comp]))
	}
	shape, ok := x.shapes[string(key)]
	if !ok {
		shape = len(x.shapes)
		x.shapes[string(key)] = shape
	}
	return shape
}

// SameCoder tells whether two coders of the graph have the same structure.
func (g *Graph) SameCoder(a, b string) bool { return g.coders.shape[a] == g.coders.shape[b] }

// AddCoder adds a coder that planning needs and returns its id: want, another if
// that is taken, or that of an equal one which was added before.
func (g *Graph) AddCoder(want string, c *pipepb.Coder) string {
	shape := g.coders.shapeOf(c)
	if made, ok := g.made[shape]; ok {
		return made
	}
	size := 1
	for _, comp := range c.GetComponentCoderIds() {
		size += g.coders.size[comp]
	}
	id := freeID(g.Components.Coders, want)
	g.coders.shape[id], g.coders.size[id] = shape, size
	g.made[shape] = id
	g.Components.Coders[id] = c
	return id
}

func (g *Graph) addCoder(want, urn string, components ...string) string {
	return g.AddCoder(want, &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components})
}

// kv returns the components of a KV coder.
func (g *Graph) kv(coder string) (key, value string, ok bool) {
	c := g.Components.Coders[coder]
	comps := c.GetComponentCoderIds()
	if c.GetSpec().GetUrn() != urns.CoderKV || len(comps) != 2 {
		return "", "", false
	}
	return comps[0], comps[1], true
}

// grouped returns the key and value coders of a KV<K, iterable<V>> coder.
func (g *Graph) grouped(coder string) (key, value string, ok bool) {
	key, values, ok := g.kv(coder)
	if !ok {
		return "", "", false
	}
	c := g.Components.Coders[values]
	comps := c.GetComponentCoderIds()
	switch c.GetSpec().GetUrn() {
	case urns.CoderIterable, urns.CoderStateBackedIterable:
		if len(comps) == 1 {
			return key, comps[0], true
		}
	}
	return "", "", false
}

// checkPCollections checks what PCollections refer to.
func (g *Graph) checkPCollections() error {
	c := g.Components
	for _, id := range sortedKeys(c.WindowingStrategies) {
		if _, ok := c.Coders[c.WindowingStrategies[id].GetWindowCoderId()]; !ok {
			return fault.New(fault.Invalid, "windowing strategy %q: there is no window coder %q", id, c.WindowingStrategies[id].GetWindowCoderId())
		}
	}
	for _, id := range sortedKeys(c.Pcollections) {
		p := c.Pcollections[id]
		if _, ok := c.Coders[p.GetCoderId()]; !ok {
			return fault.New(fault.Invalid, "PCollection %q: there is no coder %q", id, p.GetCoderId())
		}
		if _, ok := c.WindowingStrategies[p.GetWindowingStrategyId()]; !ok {
			return fault.New(fault.Invalid, "PCollection %q: there is no windowing strategy %q", id, p.GetWindowingStrategyId())
		}
	}
	return nil
}
