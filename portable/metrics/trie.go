package metrics

import (
	"cmp"
	"container/heap"
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
	trim(root, int(bound))
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

// trim truncates nodes until a trie has at most bound leaves: each time the
// fullest child's fullest child, and so on down to one that has only leaves below it.
func trim(root *pipepb.BoundedTrieNode, bound int) {
	if leaves(root) <= bound {
		return
	}
	for f := newFullness("", root); f.leaves > bound; {
		f.truncate()
	}
}

// fullness is a node, how many leaves it has, and its children, the fullest first.
type fullness struct {
	node     *pipepb.BoundedTrieNode
	name     string
	leaves   int
	children fullest
}

func newFullness(name string, n *pipepb.BoundedTrieNode) *fullness {
	f := &fullness{node: n, name: name}
	for name, c := range n.GetChildren() {
		child := newFullness(name, c)
		f.leaves += child.leaves
		f.children = append(f.children, child)
	}
	f.leaves = max(f.leaves, 1)
	heap.Init(&f.children)
	return f
}

func (f *fullness) truncate() {
	if len(f.children) == 0 || f.children[0].leaves == 1 {
		f.node.Truncated, f.node.Children = true, nil
		f.leaves, f.children = 1, nil
		return
	}
	first := f.children[0]
	f.leaves -= first.leaves
	first.truncate()
	f.leaves += first.leaves
	heap.Fix(&f.children, 0)
}

// fullest is a heap; of equally full nodes the first by name counts as fuller.
type fullest []*fullness

func (h fullest) Len() int { return len(h) }
func (h fullest) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[j].leaves, h[i].leaves), cmp.Compare(h[i].name, h[j].name)) < 0
}
func (h fullest) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *fullest) Push(x any)   { *h = append(*h, x.(*fullness)) }
func (h *fullest) Pop() any     { panic("nothing is taken off") }

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
