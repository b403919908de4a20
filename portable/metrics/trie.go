package metrics

import (
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// mergeTries joins two BoundedTries (metrics.proto): sets of paths of which at
// most bound are kept apart; beyond that the fullest nodes are truncated.
func mergeTries(a, b []byte) ([]byte, error) {
	var x, y pipepb.BoundedTrie
	if err := proto.Unmarshal(a, &x); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(b, &y); err != nil {
		return nil, err
	}
	root := join(rootOf(&x), rootOf(&y))
	bound := max(x.GetBound(), y.GetBound(), 1)
	for leaves(root) > int(bound) {
		truncate(root)
	}
	return proto.Marshal(&pipepb.BoundedTrie{Bound: bound, Root: root})
}

// rootOf reads a trie; one path alone is stored as a singleton, none as neither.
func rootOf(t *pipepb.BoundedTrie) *pipepb.BoundedTrieNode {
	if t.GetRoot() != nil || len(t.GetSingleton()) == 0 {
		return t.GetRoot()
	}
	node := &pipepb.BoundedTrieNode{}
	for _, s := range slices.Backward(t.GetSingleton()) {
		node = &pipepb.BoundedTrieNode{Children: map[string]*pipepb.BoundedTrieNode{s: node}}
	}
	return node
}

// join merges b into a and returns it; nil stands for no trie at all.
func join(a, b *pipepb.BoundedTrieNode) *pipepb.BoundedTrieNode {
	switch {
	case a == nil:
		return b
	case b == nil || a.GetTruncated():
		return a
	case b.GetTruncated():
		return b
	case len(a.GetChildren()) == 0:
		return b
	}
	for name, child := range b.GetChildren() {
		a.Children[name] = join(a.Children[name], child)
	}
	return a
}

func leaves(n *pipepb.BoundedTrieNode) int {
	total := 0
	for _, c := range n.GetChildren() {
		total += leaves(c)
	}
	return max(total, 1)
}

// truncate cuts the fullest node that has only leaves below it.
func truncate(n *pipepb.BoundedTrieNode) {
	var fullest *pipepb.BoundedTrieNode
	most := 0
	for _, name := range slices.Sorted(maps.Keys(n.GetChildren())) {
		if c := n.Children[name]; leaves(c) > most {
			fullest, most = c, leaves(c)
		}
	}
	if most <= 1 {
		n.Truncated, n.Children = true, nil
		return
	}
	truncate(fullest)
}

// mergeHistograms adds HistogramValues (metrics.proto) of the same buckets.
func mergeHistograms(a, b []byte) ([]byte, error) {
	var x, y pipepb.HistogramValue
	if err := proto.Unmarshal(a, &x); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(b, &y); err != nil {
		return nil, err
	}
	if !proto.Equal(x.GetBucketOptions(), y.GetBucketOptions()) {
		return nil, errPayload
	}
	for len(x.BucketCounts) < len(y.GetBucketCounts()) {
		x.BucketCounts = append(x.BucketCounts, 0)
	}
	for i, c := range y.GetBucketCounts() {
		x.BucketCounts[i] += c
	}
	if x.Count != nil || y.Count != nil {
		x.Count = proto.Int64(x.GetCount() + y.GetCount())
	}
	return proto.Marshal(&x)
}
