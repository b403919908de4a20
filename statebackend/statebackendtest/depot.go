package statebackendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// depot keeps files of images.
type depot struct {
	mu    sync.Mutex
	files map[string][]byte
	read  int64 // bytes of content that was put
}

func newDepot() *depot { return &depot{files: map[string][]byte{}} }

func (d *depot) held(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[name] != nil
}

// write writes an image and closes it.
func (d *depot) write(i statebackend.Image) (statebackend.Part, error) {
	p := statebackend.Part{Form: i.Form(), Open: d.open}
	err := i.Write(context.Background(), func(f statebackend.File, content io.ReadSeeker) error {
		if slices.ContainsFunc(p.Files, func(o statebackend.File) bool { return o.Name == f.Name }) {
			return fmt.Errorf("file %s is put twice", f.Name)
		}
		p.Files = append(p.Files, f)
		return d.put(f, content)
	})
	return p, errors.Join(err, i.Close())
}

func (d *depot) put(f statebackend.File, content io.ReadSeeker) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.files[f.Name]
	if content == nil {
		if old == nil {
			return fmt.Errorf("file %s has no content, and is not held", f.Name)
		}
		return nil
	}
	for range 2 { // as who sums it first
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return err
		}
		data, err := io.ReadAll(content)
		switch {
		case err != nil:
			return err
		case old != nil && !bytes.Equal(data, old):
			return fmt.Errorf("file %s is not what it was", f.Name)
		case int64(len(data)) != f.Size || crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) != f.CRC32C:
			return fmt.Errorf("file %s is not of size %d and checksum %08x", f.Name, f.Size, f.CRC32C)
		}
		old = data
	}
	d.read += f.Size
	d.files[f.Name] = old
	return nil
}

func (d *depot) open(_ context.Context, f statebackend.File) (io.ReadCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[f.Name] == nil {
		return nil, fault.New(fault.Corruption, "there is no file %s", f.Name)
	}
	return io.NopCloser(bytes.NewReader(d.files[f.Name])), nil
}

// fresh returns how many bytes have been read since the last call.
func (d *depot) fresh() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.read
	d.read = 0
	return n
}

func (d *depot) take(t fataler, i statebackend.Image, err error) statebackend.Part {
	t.Helper()
	if err != nil {
		t.Fatalf("image: %v", err)
	}
	p, err := d.write(i)
	if err != nil {
		t.Fatalf("writing an image: %v", err)
	}
	return p
}

// image takes an image of a store, which depends on no other if it is to be whole.
func (d *depot) image(s statebackend.Store, whole bool) (statebackend.Image, error) {
	if whole {
		return statebackend.RecordsImage(s)
	}
	return s.Image(d.held)
}

func restore(t fataler, b statebackend.Backend, name string, parts ...statebackend.Part) (statebackend.Store, func()) {
	t.Helper()
	s, err := b.Restore(context.Background(), name, parts)
	if err != nil {
		t.Fatalf("restoring store %s: %v", name, err)
	}
	return s, func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatalf("closing store %s: %v", name, err)
		}
	}
}
