// Package memstore keeps objects in memory: for tests, and for jobs that need no more than to
// survive the loss of a harness.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/lintelrun/lintel/checkpointing"
)

// Store is a checkpointing.Store. The zero value is empty and ready.
type Store struct {
	mu      sync.Mutex // protects objects
	objects map[string][]byte
}

// Create is part of checkpointing.Store.
func (s *Store) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	if err := checkpointing.CheckName(name); err != nil {
		return err
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("memstore: %s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[name]; ok {
		return fmt.Errorf("memstore: %s: %w", name, checkpointing.ErrExists)
	}
	if s.objects == nil {
		s.objects = map[string][]byte{}
	}
	s.objects[name] = data
	return nil
}

// Open is part of checkpointing.Store.
func (s *Store) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	data, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Stat is part of checkpointing.Store.
func (s *Store) Stat(ctx context.Context, name string) (int64, error) {
	data, err := s.get(ctx, name)
	return int64(len(data)), err
}

func (s *Store) get(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[name]
	if !ok {
		return nil, fmt.Errorf("memstore: %s: %w", name, checkpointing.ErrAbsent)
	}
	return data, nil
}

// List is part of checkpointing.Store.
func (s *Store) List(ctx context.Context, prefix string, visit func(string, int64) error) error {
	s.mu.Lock()
	objects := maps.Clone(s.objects) // visit may do as it likes
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(name, int64(len(objects[name]))); err != nil {
			return err
		}
	}
	return nil
}

// Delete is part of checkpointing.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}
