package memstate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// An image has all records, or, where little has changed since the one before, the files of that
// and the changes since. So the bytes to write follow the changes; what is to be read when the
// state is restored is at most about twice the state.

const (
	// wholeBytes is up to how large states are always written whole.
	wholeBytes = 256 << 10
	// mostSegments is how many images one after the other may depend on the first.
	mostSegments = 100
)

// segment is files that images share.
type segment struct {
	name   string
	pinned statebackend.Image      // all records, or
	log    *statebackend.ChangeLog // changes

	mu    sync.Mutex
	files []statebackend.File // once they have been put, under mu
}

// put returns the files if they have been put.
func (g *segment) put() []statebackend.File {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.files
}

// record keeps the changes for the next image.
func (s *Store) record(b *statebackend.Batch) {
	if s.log == nil || b.Len() == 0 {
		return
	}
	s.log.Add(b)
	if whole := max(s.tree.bytes, wholeBytes); s.log.Bytes() > whole/2 {
		s.log, s.chain = nil, nil
	}
}

// follows tells whether the next image can consist of files that are held and of the log.
func (s *Store) follows(held func(name string) bool) bool {
	if s.log == nil || held == nil || len(s.chain) >= mostSegments {
		return false
	}
	var changed int64 // bytes of changes that a restore would read
	for i, g := range s.chain {
		files := g.put()
		for _, f := range files {
			if !held(f.Name) {
				return false
			}
			if i > 0 {
				changed += f.Size
			}
		}
		if len(files) == 0 {
			return false
		}
	}
	return changed <= s.tree.bytes
}

// Image implements statebackend.Store.
func (s *Store) Image(held func(name string) bool) (statebackend.Image, error) {
	if s.closed {
		return nil, errClosed("store")
	}
	m := &image{store: s}
	if s.follows(held) {
		m.old = s.chain
		if s.log.Bytes() > 0 {
			m.fresh = &segment{name: statebackend.NewImageName(), log: s.log}
			s.chain = append(s.chain[:len(s.chain):len(s.chain)], m.fresh)
			s.log = new(statebackend.ChangeLog)
		}
	} else {
		all, err := statebackend.RecordsImage(s)
		if err != nil {
			return nil, err
		}
		m.fresh = &segment{pinned: all}
		s.chain, s.log = nil, nil
		if s.tree.bytes > wholeBytes {
			s.chain, s.log = []*segment{m.fresh}, new(statebackend.ChangeLog)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images++
	return m, nil
}

type image struct {
	store  *Store
	old    []*segment // which the caller holds
	fresh  *segment   // nil if nothing has changed
	closed atomic.Bool
}

// Form implements statebackend.Image.
func (m *image) Form() statebackend.Form { return statebackend.Records }

// Write implements statebackend.Image.
func (m *image) Write(ctx context.Context, put func(statebackend.File, io.ReadSeeker) error) error {
	if m.closed.Load() {
		return errClosed("image")
	}
	for _, g := range m.old {
		for _, f := range g.put() {
			if err := put(f, nil); err != nil {
				return err
			}
		}
	}
	if m.fresh == nil {
		return nil
	}
	return m.fresh.write(ctx, put)
}

func (g *segment) write(ctx context.Context, put func(statebackend.File, io.ReadSeeker) error) error {
	var files []statebackend.File
	note := func(f statebackend.File, content io.ReadSeeker) error {
		files = append(files, f)
		return put(f, content)
	}
	var err error
	if g.pinned != nil {
		err = g.pinned.Write(ctx, note)
	} else {
		f, content := g.log.File(g.name)
		err = note(f, bytes.NewReader(content))
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.files = files
	return nil
}

// Close implements statebackend.Image.
func (m *image) Close() error {
	if m.closed.Swap(true) {
		return errClosed("image")
	}
	var err error
	if m.fresh != nil {
		if m.fresh.pinned != nil {
			err = m.fresh.pinned.Close()
		}
		m.fresh.pinned, m.fresh.log = nil, nil // the chain keeps the segment
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	m.store.images--
	return err
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
		err = fmt.Errorf("memstate: restoring store %q: %w", name, err)
		if failed := s.Close(); failed != nil {
			err = fault.Wrap(fault.ClassOf(err), fmt.Errorf("%w; %w", err, failed))
		}
		return nil, err
	}
	return s, nil
}
