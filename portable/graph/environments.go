package graph

import (
	"math/big"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/urns"
)

// mergeEnvironments finds environments that are equal but for their numeric
// resource hints, and makes one of them, so that their transforms can fuse.
// The first id in sorted order stays; it asks for the most that any asked for.
func (g *Graph) mergeEnvironments() {
	g.environmentAlias = map[string]string{}
	first := map[string]string{}
	for _, id := range sortedKeys(g.Components.Environments) {
		env := g.Components.Environments[id]
		key, err := environmentKey(env)
		if err != nil { // invalid UTF-8 in a string: leave it alone
			g.environmentAlias[id] = id
			continue
		}
		into, ok := first[key]
		if !ok {
			first[key], into = id, id
		}
		g.environmentAlias[id] = into
		if into != id {
			g.Components.Environments[into] = mergeHints(g.Components.Environments[into], env)
		}
	}
}

// environmentKey is equal for environments that may be merged.
func environmentKey(env *pipepb.Environment) (string, error) {
	e := proto.Clone(env).(*pipepb.Environment)
	e.DisplayData = nil
	slices.Sort(e.Capabilities)
	for hint := range e.ResourceHints {
		if _, ok := numericHints[hint]; ok {
			delete(e.ResourceHints, hint)
		}
	}
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	return string(key), err
}

// numericHints are decimal numbers; the value tells whether more asks for more.
var numericHints = map[string]bool{
	urns.HintMinRAMBytes:               true,
	urns.HintCPUCount:                  true,
	urns.HintMaxActiveBundlesPerWorker: false,
}

func mergeHints(a, b *pipepb.Environment) *pipepb.Environment {
	merged := proto.Clone(a).(*pipepb.Environment)
	for hint, more := range numericHints {
		x, y := a.GetResourceHints()[hint], b.GetResourceHints()[hint]
		if y == nil || x != nil && !wins(y, x, more) {
			continue
		}
		if merged.ResourceHints == nil {
			merged.ResourceHints = map[string][]byte{}
		}
		merged.ResourceHints[hint] = y
	}
	return merged
}

// wins tells whether y is the hint to follow where another environment has x.
func wins(y, x []byte, more bool) bool {
	switch {
	case !asks(y):
		return false
	case !asks(x):
		return true
	default:
		return number(y).Cmp(number(x)) > 0 == more
	}
}

// asks tells whether a hint asks for anything: 0 limits nothing, nor does what is no number.
func asks(hint []byte) bool { return number(hint).Sign() > 0 }

// number reads a hint; what is none counts as 0.
func number(hint []byte) *big.Float {
	const maxDigits = 40
	if len(hint) > maxDigits {
		return new(big.Float)
	}
	n, ok := new(big.Float).SetString(string(hint))
	if !ok {
		return new(big.Float)
	}
	return n
}

// Environment returns the id that stands for the environment called id after
// equal ones were merged.
func (g *Graph) Environment(id string) string { return g.environmentAlias[id] }
