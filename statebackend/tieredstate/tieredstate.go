// Package tieredstate keeps stores in memory, and moves those to disk that have outgrown it:
// most states are tiny, and are served at the speed of memory; those that are not have room.
package tieredstate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// Backend opens stores in memory, over a backend that has room for more.
type Backend struct {
	memory *memstate.Backend
	disk   statebackend.Backend
	budget int64
	used   atomic.Int64 // by all stores in memory

	mu   sync.Mutex
	open map[string]bool // under mu
}

// New returns a backend whose stores share budget bytes of memory. The largest go to disk, which
// belongs to the Backend from now on.
func New(budget int64, disk statebackend.Backend) *Backend {
	return &Backend{memory: memstate.New(), disk: disk, budget: budget, open: map[string]bool{}}
}

// Open opens a store, empty.
func (b *Backend) Open(name string) (statebackend.Store, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[name] {
		return nil, fault.New(fault.Invalid, "tieredstate: store %q is open already", name)
	}
	m, err := b.memory.Open(name)
	if err != nil {
		return nil, err
	}
	b.open[name] = true
	return &Store{Store: m, backend: b, name: name, memory: m.(*memstate.Store)}, nil
}

// Restore opens a store with what parts of images have: in memory, as long as it has room and none of them is
// of a form that only the disk's backend restores.
func (b *Backend) Restore(ctx context.Context, name string, parts []statebackend.Part) (statebackend.Store, error) {
	if err := statebackend.ValidateParts(parts, statebackend.Records, statebackend.Tables); err != nil {
		return nil, err
	}
	opened, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	s := opened.(*Store)
	s.images = true
	if slices.ContainsFunc(parts, func(p statebackend.Part) bool { return p.Form != statebackend.Records }) {
		var disk statebackend.Store
		if disk, err = b.disk.Restore(ctx, name, parts); err == nil {
			err = s.memory.Close()
			s.Store, s.memory = disk, nil
		}
	} else {
		err = statebackend.Load(ctx, s, parts)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tieredstate: %w", err), s.Close())
	}
	return s, nil
}

// Close closes the disk's backend. It is an error while a store is open.
func (b *Backend) Close() error {
	if err := b.memory.Close(); err != nil {
		return err
	}
	return b.disk.Close()
}

// Store is a store in memory or on disk.
type Store struct {
	statebackend.Store // where the state is now
	backend            *Backend
	name               string
	images             bool            // are taken
	memory             *memstate.Store // nil once the state is on disk
	used               int64           // of the budget

	mu        sync.Mutex
	snapshots int             // and images, open, under mu
	left      *memstate.Store // what snapshots still read after the move, under mu
	leftOpen  int             // how many do, under mu
}

// smallest is the share of the budget below which a store stays in memory, whoever has used up
// the rest.
const smallest = 1.0 / 32

// Commit implements statebackend.Store.
func (s *Store) Commit(b *statebackend.Batch) error {
	if err := s.Store.Commit(b); err != nil || s.memory == nil {
		return err
	}
	used := s.memory.Bytes()
	all := s.backend.used.Add(used - s.used)
	s.used = used
	if all > s.backend.budget && float64(used) >= smallest*float64(s.backend.budget) {
		return s.move()
	}
	return nil
}

// moveBytes is about how much of a store is written to disk at once.
const moveBytes = 1 << 20

// move moves the state to disk.
func (s *Store) move() error {
	disk, err := s.openDisk()
	if err != nil {
		return fmt.Errorf("moving state to disk: %w", err)
	}
	var b statebackend.Batch
	var failed error
	err = s.memory.Scan(nil, nil, func(key, value []byte) bool {
		if b.Set(key, value); b.Bytes() >= moveBytes {
			failed = disk.Commit(&b)
			b.Reset()
		}
		return failed == nil
	})
	if err = errors.Join(err, failed); err == nil {
		err = disk.Commit(&b)
	}
	if err != nil {
		return fmt.Errorf("moving state to disk: %w", errors.Join(err, disk.Close()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.leftOpen = s.memory, s.snapshots
	s.Store, s.memory = disk, nil
	return s.release()
}

func (s *Store) openDisk() (statebackend.Store, error) {
	if s.images {
		return s.backend.disk.Restore(context.Background(), s.name, nil)
	}
	return s.backend.disk.Open(s.name)
}

// release lets go of the memory once no snapshot reads it any more. s.mu is held.
func (s *Store) release() error {
	if s.left == nil || s.leftOpen > 0 {
		return nil
	}
	left := s.left
	s.left = nil
	s.backend.used.Add(-s.used)
	return left.Close()
}

// Snapshot implements statebackend.Store.
func (s *Store) Snapshot() (statebackend.Snapshot, error) {
	v, err := s.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots++
	return &snapshot{Snapshot: v, of: s, inMemory: s.memory != nil}, nil
}

// Image implements statebackend.Store.
func (s *Store) Image(held func(name string) bool) (statebackend.Image, error) {
	i, err := s.Store.Image(held)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots++
	return &image{Image: i, of: s, inMemory: s.memory != nil}, nil
}

// Close implements statebackend.Store. The state is gone, unless the disk's backend keeps it.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshots > 0 {
		return fault.New(fault.Invalid, "tieredstate: closing store %q with %d snapshots and images open", s.name, s.snapshots)
	}
	if err := s.Store.Close(); err != nil {
		return err
	}
	if s.memory != nil {
		s.backend.used.Add(-s.used)
	}
	s.backend.mu.Lock()
	defer s.backend.mu.Unlock()
	delete(s.backend.open, s.name)
	return nil
}

// OnDisk tells whether the store has been moved to disk.
func (s *Store) OnDisk() bool { return s.memory == nil }

type snapshot struct {
	statebackend.Snapshot
	of       *Store
	inMemory bool
}

// Close implements statebackend.Snapshot.
func (v *snapshot) Close() error {
	if err := v.Snapshot.Close(); err != nil {
		return err
	}
	return v.of.unpin(v.inMemory)
}

type image struct {
	statebackend.Image
	of       *Store
	inMemory bool
}

// Close implements statebackend.Image.
func (i *image) Close() error {
	if err := i.Image.Close(); err != nil {
		return err
	}
	return i.of.unpin(i.inMemory)
}

// unpin takes note that a snapshot or an image has been closed.
func (s *Store) unpin(inMemory bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots--
	if inMemory && s.left != nil {
		s.leftOpen--
		return s.release()
	}
	return nil
}
