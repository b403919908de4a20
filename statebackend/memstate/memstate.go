// Package memstate keeps state in memory: for states that fit, and for tests. Nothing of
// it outlives its store.
package memstate

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// Backend opens stores in memory.
type Backend struct {
	mu   sync.Mutex
	open map[string]bool // under mu
}

// New returns a backend without stores.
func New() *Backend { return &Backend{open: make(map[string]bool)} }

// Open opens a store, empty.
func (b *Backend) Open(name string) (statebackend.Store, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[name] {
		return nil, fault.New(fault.Invalid, "memstate: store %q is open already", name)
	}
	b.open[name] = true
	return &Store{tree: newTree(), backend: b, name: name}, nil
}

// Close is an error while a store is open.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.open); n > 0 {
		return fault.New(fault.Invalid, "memstate: closing the backend with %d stores open", n)
	}
	return nil
}

func (b *Backend) closed(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, name)
}

// Store is a store in memory. Values that it returns stay as they are for good.
type Store struct {
	tree    tree
	backend *Backend
	name    string
	closed  bool

	images statebackend.Chain

	mu   sync.Mutex
	pins []uint64 // ages that open snapshots ended, in ascending order; under mu
}

// Get implements statebackend.Reader.
func (s *Store) Get(key []byte) ([]byte, error) {
	if s.closed {
		return nil, errClosed("store")
	}
	return s.tree.root.value(key), nil
}

// Scan implements statebackend.Reader.
func (s *Store) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	if s.closed {
		return errClosed("store")
	}
	s.tree.root.visit(from, to, visit)
	return nil
}

// Commit implements statebackend.Store.
func (s *Store) Commit(b *statebackend.Batch) error {
	if s.closed {
		return errClosed("store")
	}
	s.images.Add(b)
	t := &s.tree
	t.seen = s.newestPin()
	for c := range b.All() {
		key := borrow(c.Key)
		switch c.Kind {
		case statebackend.Set:
			slot := t.slot(key)
			t.bytes -= int64(cap(*slot))
			*slot = append(make([]byte, 0, len(c.Value)), c.Value...)
			t.bytes += int64(cap(*slot))
		case statebackend.Append:
			slot := t.slot(key)
			t.bytes -= int64(cap(*slot))
			if *slot == nil {
				*slot = make([]byte, 0, len(c.Value))
			}
			*slot = append(*slot, c.Value...)
			t.bytes += int64(cap(*slot))
		case statebackend.Delete:
			if t.root.get(key) != nil {
				t.remove(&bounds{from: key, to: key, inclusive: true})
			}
		case statebackend.DeleteRange:
			if to := borrow(c.Value); c.Value == nil || key < to {
				t.remove(&bounds{from: key, to: to, endless: c.Value == nil})
			}
		}
	}
	return nil
}

// Snapshot implements statebackend.Store.
func (s *Store) Snapshot() (statebackend.Snapshot, error) {
	if s.closed {
		return nil, errClosed("store")
	}
	age := s.tree.age
	s.tree.age++
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins = append(s.pins, age)
	return &snapshot{root: s.tree.root, store: s, age: age}, nil
}

// newestPin returns the age that the newest open snapshot ended, 0 if there is none.
func (s *Store) newestPin() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pins) == 0 {
		return 0
	}
	return s.pins[len(s.pins)-1]
}

func (s *Store) unpin(age uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearch(s.pins, age)
	s.pins = slices.Delete(s.pins, i, i+1)
}

// Close implements statebackend.Store. The state is gone.
func (s *Store) Close() error {
	if s.closed {
		return errClosed("store")
	}
	if s.newestPin() > 0 || s.images.Open() > 0 {
		return fault.New(fault.Invalid, "memstate: closing store %q while snapshots or images are open", s.name)
	}
	s.closed = true
	s.tree, s.images = newTree(), statebackend.Chain{}
	s.backend.closed(s.name)
	return nil
}

// Len returns the number of keys.
func (s *Store) Len() int { return s.tree.len }

// Bytes returns about how much memory the present state takes, with what is kept for the next image. What
// only snapshots still see is not counted.
func (s *Store) Bytes() int64 { return s.tree.bytes + s.images.Bytes() }

type snapshot struct {
	root   *node
	store  *Store
	age    uint64
	closed atomic.Bool
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	if s.closed.Load() {
		return nil, errClosed("snapshot")
	}
	return s.root.value(key), nil
}

func (s *snapshot) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	if s.closed.Load() {
		return errClosed("snapshot")
	}
	s.root.visit(from, to, visit)
	return nil
}

func (s *snapshot) Close() error {
	if s.closed.Swap(true) {
		return errClosed("snapshot")
	}
	s.store.unpin(s.age)
	return nil
}

func (n *node) value(key []byte) []byte {
	v := n.get(borrow(key))
	return v[:len(v):len(v)]
}

func (n *node) visit(from, to []byte, visit func(key, value []byte) bool) {
	n.scan(borrow(from), borrow(to), to == nil, func(key string, value []byte) bool {
		return visit(unsafe.Slice(unsafe.StringData(key), len(key)), value[:len(value):len(value)])
	})
}

// borrow returns b as a string without a copy, for as long as b does not change.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func errClosed(what string) error {
	return fault.New(fault.Invalid, "memstate: the %s has been closed", what)
}
