package memstate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/statebackendtest"
)

func TestConformance(t *testing.T) {
	statebackendtest.Run(t, func(*testing.T) statebackend.Backend { return New() })
}

func Benchmark(b *testing.B) {
	statebackendtest.Benchmark(b, func(*testing.B) statebackend.Backend { return New() })
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := New().Open("task")
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Store)
}

// Len and Bytes are those of what is there, however it came to be.
func TestBytes(t *testing.T) {
	s := open(t)
	check := func(when string) {
		t.Helper()
		n, size := 0, int64(0)
		if err := s.Scan(nil, nil, func(k, v []byte) bool {
			n++
			size += int64(len(k) + len(v))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		// Values may have as much room again to be appended to.
		if most := 2*size + int64(n)*(itemBytes+8); s.Len() != n || s.Bytes() < size || s.Bytes() > most {
			t.Fatalf("%s: %d keys and %d bytes, want %d, and between %d and %d", when, s.Len(), s.Bytes(), n, size, most)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var b statebackend.Batch
		for range 100 {
			key := fmt.Append(nil, rng.IntN(5000))
			switch rng.IntN(6) {
			case 0, 1:
				b.Set(key, bytes.Repeat([]byte("x"), rng.IntN(100)))
			case 2, 3:
				b.Append(key, bytes.Repeat([]byte("x"), rng.IntN(100)))
			case 4:
				b.Delete(key)
			default:
				b.DeleteRange(key, append(key, '5'))
			}
		}
		if round%50 == 49 {
			b.DeleteRange([]byte("1"), []byte("8"))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("after round ", round))
		s.tree.check(t)
	}
	var b statebackend.Batch
	b.DeleteRange(nil, nil)
	if err := s.Commit(&b); err != nil || s.Bytes() != 0 || s.Len() != 0 || s.tree.root.leaf == nil {
		t.Errorf("empty, but %d keys, %d bytes, %v", s.Len(), s.Bytes(), err)
	}
}

// check fails t if the tree is not in order, or not as deep everywhere.
func (t *tree) check(test *testing.T) {
	depth := -1
	var walk func(n *node, from, to string, at int)
	walk = func(n *node, from, to string, at int) {
		if n.n == 0 && n != t.root || n.n > maxLeaf {
			test.Fatalf("a node of %d", n.n)
		}
		if n.leaf == nil {
			for i := range n.n {
				lo, hi := from, to
				if i > 0 {
					lo = n.inner.from[i]
				}
				if i+1 < n.n {
					hi = n.inner.from[i+1]
				}
				walk(n.inner.children[i], lo, hi, at+1)
			}
			return
		}
		if depth < 0 {
			depth = at
		}
		if at != depth {
			test.Fatalf("leaves at depths %d and %d", depth, at)
		}
		for i, key := range n.leaf.keys[:n.n] {
			if key < from || to != "" && key >= to || i > 0 && key <= n.leaf.keys[i-1] || n.leaf.values[i] == nil {
				test.Fatalf("key %q, the %d. of a leaf for [%q, %q)", key, i, from, to)
			}
		}
	}
	walk(t.root, "", "", 0)
}

// A commit copies what snapshots see, once, and nothing while none is open.
func TestCopies(t *testing.T) {
	s := open(t)
	var b statebackend.Batch
	for i := range 1000 {
		b.Set(fmt.Append(nil, i), []byte("value"))
	}
	write := func() *node {
		t.Helper()
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
		return s.tree.root
	}
	first := write()
	v, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	second := write()
	if third := write(); first == second || second != third {
		t.Error("a snapshot is open: want a copy at the first commit, none at the second")
	}
	if _, err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if fourth := write(); fourth == second {
		t.Error("a second snapshot is open, and its nodes are changed")
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Snapshot(); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	fourth := s.tree.root
	if write() != fourth {
		t.Error("nodes are copied for a snapshot that was closed")
	}
}
