package memstate

import "strings"

// A tree is an ordered map from strings to bytes: a B+ tree whose nodes are copied before
// they are changed if a snapshot may see them, so that a snapshot is a root. A node is of
// the age in which it was made; each snapshot ends an age, and sees nodes up to that age.
//
// Slices of values are shared between nodes and their copies. That is safe because bytes
// within the length of a value never change, and because only the newest version of a
// value, of which there is one, is appended to.

const (
	maxLeaf  = 32
	maxInner = maxLeaf
	// itemBytes is what an item takes besides its key and value: its place in a leaf two
	// thirds full, and its share of inner nodes.
	itemBytes = 64
)

type node struct {
	age   uint64
	n     int
	leaf  *leaf  // either
	inner *inner // or
}

type leaf struct {
	keys   [maxLeaf]string
	values [maxLeaf][]byte // never nil
}

type inner struct {
	from     [maxInner]string // from[i] is a lower bound of child i and an upper one of child i-1; from[0] is not looked at
	children [maxInner]*node
}

func newLeaf(age uint64) *node  { return &node{age: age, leaf: new(leaf)} }
func newInner(age uint64) *node { return &node{age: age, inner: new(inner)} }

// own returns n, or a copy of it if a snapshot sees it.
func (t *tree) own(n *node) *node {
	if n.age > t.seen {
		return n
	}
	c := &node{age: t.age, n: n.n}
	if n.leaf != nil {
		c.leaf = new(*n.leaf)
	} else {
		c.inner = new(*n.inner)
	}
	return c
}

// search returns the number of keys below key, and whether the next one is key.
func (l *leaf) search(n int, key string) (int, bool) {
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch c := strings.Compare(l.keys[mid], key); {
		case c < 0:
			lo = mid + 1
		case c == 0:
			return mid, true
		default:
			hi = mid
		}
	}
	return lo, false
}

// child returns which child key belongs to.
func (in *inner) child(n int, key string) int {
	lo, hi := 1, n
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if in.from[mid] <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

func (n *node) get(key string) []byte {
	for n.leaf == nil {
		n = n.inner.children[n.inner.child(n.n, key)]
	}
	if i, ok := n.leaf.search(n.n, key); ok {
		return n.leaf.values[i]
	}
	return nil
}

// scan visits [from, to), all from from if endless, and tells whether visit wants more.
func (n *node) scan(from, to string, endless bool, visit func(key string, value []byte) bool) bool {
	if n.leaf != nil {
		i, _ := n.leaf.search(n.n, from)
		for ; i < n.n; i++ {
			if !endless && n.leaf.keys[i] >= to || !visit(n.leaf.keys[i], n.leaf.values[i]) {
				return false
			}
		}
		return true
	}
	for i := n.inner.child(n.n, from); i < n.n; i++ {
		if i > 0 && !endless && n.inner.from[i] >= to || !n.inner.children[i].scan(from, to, endless, visit) {
			return false
		}
	}
	return true
}

// tree has a root that is never nil.
type tree struct {
	root  *node
	age   uint64
	seen  uint64 // the age that the newest open snapshot ended
	len   int
	bytes int64
}

func newTree() tree { return tree{root: newLeaf(1), age: 1} }

// slot returns the place of key's value, in nodes that no snapshot sees. If the key is absent it is
// inserted, with a nil value for the caller to replace. Full nodes are divided on the way
// down, so there is always room above.
func (t *tree) slot(key string) *[]byte {
	t.root = t.own(t.root)
	if t.root.full() {
		root := newInner(t.age)
		root.n, root.inner.children[0] = 1, t.root
		t.divide(root, 0, key)
		t.root = root
	}
	n := t.root
	for n.leaf == nil {
		i := n.inner.child(n.n, key)
		c := t.own(n.inner.children[i])
		n.inner.children[i] = c
		if c.full() {
			c = t.divide(n, i, key)
		}
		n = c
	}
	l := n.leaf
	i, ok := l.search(n.n, key)
	if !ok {
		copy(l.keys[i+1:n.n+1], l.keys[i:n.n])
		copy(l.values[i+1:n.n+1], l.values[i:n.n])
		l.keys[i], l.values[i] = strings.Clone(key), nil
		n.n++
		t.len++
		t.bytes += int64(len(key)) + itemBytes
	}
	return &l.values[i]
}

func (n *node) full() bool {
	if n.leaf != nil {
		return n.n == maxLeaf
	}
	return n.n == maxInner
}

// divide puts the upper part of child i of parent into a new child after it, and returns the
// one that key belongs to. No snapshot sees them, and the parent has room.
func (t *tree) divide(parent *node, i int, key string) *node {
	in, c := parent.inner, parent.inner.children[i]
	at := c.n / 2
	var right *node
	var from string
	if l := c.leaf; l != nil {
		if l.keys[c.n-1] < key { // keys that come in order fill their leaves
			at = c.n - 1
		}
		right, from = newLeaf(t.age), l.keys[at]
		copy(right.leaf.keys[:], l.keys[at:c.n])
		copy(right.leaf.values[:], l.values[at:c.n])
		clear(l.keys[at:])
		clear(l.values[at:])
	} else {
		right, from = newInner(t.age), c.inner.from[at]
		copy(right.inner.from[1:], c.inner.from[at+1:c.n])
		copy(right.inner.children[:], c.inner.children[at:c.n])
		clear(c.inner.from[at:])
		clear(c.inner.children[at:])
	}
	right.n, c.n = c.n-at, at
	copy(in.from[i+2:parent.n+1], in.from[i+1:parent.n])
	copy(in.children[i+2:parent.n+1], in.children[i+1:parent.n])
	in.from[i+1], in.children[i+1] = from, right
	parent.n++
	if key < from {
		return c
	}
	return right
}

// bounds are the keys from from to to, all from from if endless.
type bounds struct {
	from, to  string
	inclusive bool // of to
	endless   bool
}

// above tells whether key is beyond to.
func (b *bounds) above(key string) bool {
	return !b.endless && (key > b.to || key == b.to && !b.inclusive)
}

// remove removes all keys within b.
func (t *tree) remove(b *bounds) {
	t.root = t.own(t.root)
	t.removeIn(t.root, b)
	for t.root.leaf == nil && t.root.n <= 1 {
		if t.root.n == 0 {
			t.root = newLeaf(t.age)
		} else {
			t.root = t.root.inner.children[0]
		}
	}
}

func (t *tree) removeIn(n *node, b *bounds) {
	if n.leaf != nil {
		t.removeInLeaf(n, b)
		return
	}
	in := n.inner
	first := in.child(n.n, b.from)
	kept, i := first, first
	for ; i < n.n && (i == first || !b.above(in.from[i])); i++ {
		c := in.children[i]
		if i > first && (b.endless || i+1 < n.n && in.from[i+1] <= b.to) { // all of it is within b
			t.forget(c)
			continue
		}
		c = t.own(c)
		if t.removeIn(c, b); c.n > 0 {
			in.from[kept], in.children[kept] = in.from[i], c
			kept++
		}
	}
	if kept < i {
		end := kept + copy(in.children[kept:], in.children[i:n.n])
		copy(in.from[kept:], in.from[i:n.n])
		clear(in.from[end:n.n])
		clear(in.children[end:n.n])
		n.n = end
	}
	for i := min(first+1, n.n-1); i >= max(first-1, 0); i-- {
		t.join(n, i)
	}
}

func (t *tree) removeInLeaf(n *node, b *bounds) {
	l := n.leaf
	lo, _ := l.search(n.n, b.from)
	hi := lo
	for ; hi < n.n && !b.above(l.keys[hi]); hi++ {
		t.count(l.keys[hi], l.values[hi])
	}
	if lo == hi {
		return
	}
	end := lo + copy(l.keys[lo:], l.keys[hi:n.n])
	copy(l.values[lo:], l.values[hi:n.n])
	clear(l.keys[end:n.n])
	clear(l.values[end:n.n])
	n.n = end
}

// forget counts all items below n as removed.
func (t *tree) forget(n *node) {
	n.scan("", "", true, func(key string, value []byte) bool {
		t.count(key, value)
		return true
	})
}

func (t *tree) count(key string, value []byte) {
	t.len--
	t.bytes -= int64(len(key)) + int64(cap(value)) + itemBytes
}

// join makes one node of children i and i+1 of n if it stays clear of being full.
func (t *tree) join(n *node, i int) {
	in := n.inner
	if i+1 >= n.n || in.children[i].n+in.children[i+1].n > maxLeaf*2/3 {
		return
	}
	left, right := t.own(in.children[i]), in.children[i+1]
	in.children[i] = left
	if left.leaf != nil {
		copy(left.leaf.keys[left.n:], right.leaf.keys[:right.n])
		copy(left.leaf.values[left.n:], right.leaf.values[:right.n])
	} else {
		copy(left.inner.children[left.n:], right.inner.children[:right.n])
		copy(left.inner.from[left.n:], right.inner.from[:right.n])
		left.inner.from[left.n] = in.from[i+1]
	}
	left.n += right.n
	copy(in.children[i+1:], in.children[i+2:n.n])
	copy(in.from[i+1:], in.from[i+2:n.n])
	n.n--
	in.children[n.n], in.from[n.n] = nil, ""
}
