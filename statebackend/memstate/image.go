package memstate

import (
	"context"
	"errors"
	"fmt"

	"github.com/lintelrun/lintel/statebackend"
)

// wholeBytes is up to how large states are always written whole.
const wholeBytes = 256 << 10

// Image implements statebackend.Store: all records, or the files of the image before and what has
// changed since. Changes are no more than half the state is in memory.
func (s *Store) Image(held func(name string) bool) (statebackend.Image, error) {
	if s.closed {
		return nil, errClosed("store")
	}
	limit := s.tree.bytes / 2
	if s.tree.bytes <= wholeBytes {
		limit = 0
	}
	return s.images.Image(held, limit, func() (statebackend.Image, error) { return statebackend.RecordsImage(s) })
}

// Restore implements statebackend.Backend, from images of form Records.
func (b *Backend) Restore(ctx context.Context, name string, parts []statebackend.Part) (statebackend.Store, error) {
	if err := statebackend.ValidateParts(parts, statebackend.Records); err != nil {
		return nil, err
	}
	s, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	if err := statebackend.Load(ctx, s, parts); err != nil {
		return nil, errors.Join(fmt.Errorf("memstate: restoring store %q: %w", name, err), s.Close())
	}
	return s, nil
}
