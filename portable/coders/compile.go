package coders

import (
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// maxDepth bounds how deep coders, and the types of a schema, may be nested.
const maxDepth = 100

// arity holds the number of components of each coder whose layout we know.
var arity = map[string]int{
	urns.CoderBytes:               0,
	urns.CoderStringUTF8:          0,
	urns.CoderBool:                0,
	urns.CoderVarint:              0,
	urns.CoderDouble:              0,
	urns.CoderKV:                  2,
	urns.CoderIterable:            1,
	urns.CoderStateBackedIterable: 1,
	urns.CoderLengthPrefix:        1,
	urns.CoderWindowedValue:       2,
	urns.CoderParamWindowedValue:  2,
	urns.CoderGlobalWindow:        0,
	urns.CoderIntervalWindow:      0,
	urns.CoderCustomWindow:        1,
	urns.CoderTimer:               2,
	urns.CoderRow:                 0,
	urns.CoderShardedKey:          1,
	urns.CoderNullable:            1,
}

// Known tells whether the layout of coders with this URN is understood, given
// that those of their components are. A row may still be unsupported for a
// type in its schema: only Compile tells.
func Known(urn string) bool {
	_, ok := arity[urn]
	return ok
}

// Compile compiles the coder called id. A coder whose layout is not known is
// a fault.Unsupported that names its id and URN; a missing, cyclic or
// malformed one is a fault.Invalid. What is inside a length prefix is opaque
// and need not be known.
func Compile(id string, components map[string]*pipepb.Coder) (*Coder, error) {
	c := compiler{components: components, compiled: map[string]*Coder{}}
	return c.coder(id, maxDepth)
}

type compiler struct {
	components map[string]*pipepb.Coder
	compiled   map[string]*Coder // nil while under way
}

// coder compiles the coder called id, nested depth deep at most.
func (c *compiler) coder(id string, depth int) (*Coder, error) {
	if done, ok := c.compiled[id]; ok {
		if done == nil {
			return nil, fault.New(fault.Invalid, "coder %q contains itself", id)
		}
		return done, nil
	}
	p, ok := c.components[id]
	if !ok || p == nil {
		return nil, fault.New(fault.Invalid, "coder %q is missing from the components", id)
	}
	urn := p.GetSpec().GetUrn()
	want, known := arity[urn]
	switch {
	case !known:
		return nil, fault.New(fault.Unsupported, "coder %q: the layout of %q is not known; it must be length prefixed", id, urn)
	case len(p.GetComponentCoderIds()) != want:
		return nil, fault.New(fault.Invalid, "coder %q: %s has %d components, not %d", id, urn, len(p.GetComponentCoderIds()), want)
	case depth == 0:
		return nil, fault.New(fault.Invalid, "coder %q: coders are nested more than %d deep", id, maxDepth)
	}
	c.compiled[id] = nil
	made, err := c.make(id, p, depth)
	if err != nil {
		return nil, err
	}
	if made.min >= math.MaxInt32 {
		return nil, fault.New(fault.Invalid, "coder %q: its values take 2 GiB or more", id)
	}
	c.compiled[id] = made
	return made, nil
}

// make compiles p, the coder called id, whose URN and arity are known to be right.
func (c *compiler) make(id string, p *pipepb.Coder, depth int) (*Coder, error) {
	urn := p.GetSpec().GetUrn()
	if urn == urns.CoderLengthPrefix {
		inner := p.GetComponentCoderIds()[0]
		if c.components[inner] == nil {
			return nil, fault.New(fault.Invalid, "coder %q: its component %q is missing from the components", id, inner)
		}
		return named(urn, nil, *bytesLayout), nil
	}
	var parts []*Coder
	for _, component := range p.GetComponentCoderIds() {
		part, err := c.coder(component, depth-1)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	switch urn {
	case urns.CoderRow:
		layout, err := compileSchema(p.GetSpec().GetPayload(), depth)
		if err != nil {
			return nil, fault.New(fault.ClassOf(err), "coder %q (%s): %w", id, urn, err)
		}
		return named(urn, nil, *layout), nil
	case urns.CoderParamWindowedValue:
		constant, err := parseConstant(p.GetSpec().GetPayload(), parts[1])
		if err != nil {
			return nil, fault.New(fault.Invalid, "coder %q (%s): its payload: %w", id, urn, err)
		}
		made := named(urn, parts, *sequence(parts[0]))
		made.constant = constant
		return made, nil
	}
	return named(urn, parts, *standard(urn, parts)), nil
}

// named returns a layout as that of a coder with a URN and components.
func named(urn string, components []*Coder, layout Coder) *Coder {
	layout.urn, layout.components = urn, components
	return &layout
}

// standard returns the layout of a standard coder that has no payload.
func standard(urn string, parts []*Coder) *Coder {
	switch urn {
	case urns.CoderBytes, urns.CoderStringUTF8:
		return bytesLayout
	case urns.CoderBool:
		return boolLayout
	case urns.CoderVarint:
		return varintLayout
	case urns.CoderDouble:
		return fixed(8)
	case urns.CoderKV:
		return sequence(parts...)
	case urns.CoderIterable:
		return collection(opIterable, parts[0])
	case urns.CoderStateBackedIterable:
		return collection(opStateBacked, parts[0])
	case urns.CoderWindowedValue:
		return sequence(timestampLayout, collection(opCounted, parts[1]), paneLayout, parts[0])
	case urns.CoderGlobalWindow:
		return fixed(0)
	case urns.CoderIntervalWindow:
		return intervalLayout
	case urns.CoderCustomWindow:
		return sequence(timestampLayout, parts[0])
	case urns.CoderTimer:
		return sequence(parts[0], bytesLayout, collection(opCounted, parts[1]), timerTailLayout)
	case urns.CoderShardedKey:
		return sequence(bytesLayout, parts[0])
	case urns.CoderNullable:
		return nullable(parts[0])
	}
	panic("coders: no layout for " + urn) // arity lists what this function knows
}
