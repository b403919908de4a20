package graph

import (
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// selectLeaves returns the ids of the transforms to run, in the pipeline's
// order. Known composites are leaves; others are expanded; those that have no
// parts and only hand their inputs on are nothing.
func (g *Graph) selectLeaves(roots []string) ([]string, error) {
	if len(roots) == 0 {
		roots = g.roots()
	}
	var leaves []string
	seen := map[string]bool{}
	stack := slices.Clone(roots)
	slices.Reverse(stack)
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		t := g.Components.Transforms[id]
		if t == nil {
			return nil, fault.New(fault.Invalid, "there is no transform %q", id)
		}
		if seen[id] {
			return nil, fault.New(fault.Invalid, "%s has two parents or is a part of itself", Name(id, t))
		}
		seen[id] = true
		switch {
		case g.isLeaf(t):
			leaves = append(leaves, id)
		case len(t.GetSubtransforms()) > 0:
			for _, sub := range slices.Backward(t.GetSubtransforms()) {
				stack = append(stack, sub)
			}
		case handsOn(t):
		default:
			return nil, fault.New(fault.Unsupported, "%s: neither its URN nor any subtransforms say how to run it", Name(id, t))
		}
	}
	return leaves, nil
}

// roots are the transforms without parents.
func (g *Graph) roots() []string {
	child := map[string]bool{}
	for _, t := range g.Components.Transforms {
		for _, sub := range t.GetSubtransforms() {
			child[sub] = true
		}
	}
	return slices.DeleteFunc(sortedKeys(g.Components.Transforms), func(id string) bool { return child[id] })
}

// handsOn tells whether all outputs of a transform are inputs too. SDKs send
// such transforms where a composite had nothing to do.
func handsOn(t *pipepb.PTransform) bool {
	in := map[string]bool{}
	for _, p := range t.GetInputs() {
		in[p] = true
	}
	for _, p := range t.GetOutputs() {
		if !in[p] {
			return false
		}
	}
	return true
}

// isLeaf tells whether a transform is run by itself, whatever its parts.
func (g *Graph) isLeaf(t *pipepb.PTransform) bool {
	expandable := len(t.GetSubtransforms()) > 0
	switch urn := t.GetSpec().GetUrn(); urn {
	case urns.TransformCombinePerKey:
		return !expandable || g.liftable(t) || g.convertible(t)
	case urns.TransformGroupIntoBatches:
		_, ok := g.batchSize(t)
		return ok
	case urns.TransformReshuffle, urns.TransformRedistributeByKey, urns.TransformRedistributeArbitrarily:
		return !expandable || g.sameWindows(only(t.GetInputs()), only(t.GetOutputs()))
	default:
		_, known := kinds[urn]
		return known
	}
}

var kinds = map[string]Kind{
	urns.TransformImpulse:                      Impulse,
	urns.TransformGroupByKey:                   GroupByKey,
	urns.TransformGroupIntoBatches:             GroupByKey,
	urns.TransformFlatten:                      Flatten,
	urns.TransformReshuffle:                    Redistribute,
	urns.TransformRedistributeByKey:            Redistribute,
	urns.TransformRedistributeArbitrarily:      Redistribute,
	urns.TransformCombinePerKey:                Combine,
	urns.TransformTestStream:                   TestStream,
	urns.TransformParDo:                        SDK,
	urns.TransformWindowInto:                   SDK,
	urns.TransformMapWindows:                   SDK,
	urns.TransformMergeWindows:                 SDK,
	urns.TransformToString:                     SDK,
	urns.TransformCombinePrecombine:            SDK,
	urns.TransformCombineMergeAccumulators:     SDK,
	urns.TransformCombineExtractOutputs:        SDK,
	urns.TransformCombineConvertToAccumulators: SDK,
	urns.TransformCombineGroupedValues:         SDK,
	urns.TransformSDFPairWithRestriction:       SDK,
	urns.TransformSDFSplitAndSize:              SDK,
	urns.TransformSDFTruncateSized:             SDK,
	urns.TransformSDFProcessSized:              SDK,
}

// only returns the one value of m, or "".
func only(m map[string]string) string {
	if len(m) != 1 {
		return ""
	}
	for _, v := range m {
		return v
	}
	return ""
}

// sameWindows tells whether the windows of two PCollections are encoded alike.
func (g *Graph) sameWindows(a, b string) bool {
	return g.PCollection(a) != nil && g.PCollection(b) != nil &&
		g.SameCoder(g.Strategy(a).GetWindowCoderId(), g.Strategy(b).GetWindowCoderId())
}
