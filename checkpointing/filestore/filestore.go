// Package filestore keeps objects as files in a folder, on a disk or a file system that several
// machines see, as long as that has hard links.
package filestore

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
)

// Files that are being written begin with this, as no object does, and are removed once they
// are this old: whoever wrote them is gone.
const (
	beginning = ".new-"
	abandoned = 24 * time.Hour
)

// Store is a checkpointing.Store in a folder. No name and no link leads out of it.
type Store struct {
	dir  string
	root *os.Root
}

// New returns the store in dir, which is made if it is not there.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	s := &Store{dir: dir, root: root}
	if err := s.sweep(time.Now().Add(-abandoned)); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

// Close ends the use of the store.
func (s *Store) Close() error { return s.root.Close() }

// sweep removes what was begun before some time and not finished.
func (s *Store) sweep(before time.Time) error {
	return s.walk(".", func(name string, d fs.DirEntry) error {
		if !strings.HasPrefix(d.Name(), beginning) {
			return nil
		}
		if info, err := d.Info(); err != nil || info.ModTime().After(before) {
			return ignoreAbsent(err)
		}
		return ignoreAbsent(s.root.Remove(name))
	})
}

// Create is part of checkpointing.Store: the file is written under another name, synced, and linked
// to its own, which fails if that is taken.
func (s *Store) Create(ctx context.Context, name string, content io.ReadSeeker) (err error) {
	if err := checkpointing.CheckName(name); err != nil {
		return err
	}
	if _, err := s.root.Lstat(name); err == nil { // it need not be written first
		return fmt.Errorf("filestore: %s: %w", name, checkpointing.ErrExists)
	}
	folder := path.Dir(name)
	if err := s.makeFolder(folder); err != nil {
		return s.wrap("making "+folder, err)
	}
	fresh := path.Join(folder, beginning+rand.Text())
	defer func() {
		if e := ignoreAbsent(s.root.Remove(fresh)); err == nil && e != nil {
			err = s.wrap("removing "+fresh, e)
		}
	}()
	if err := s.write(ctx, fresh, content); err != nil {
		return s.wrap("writing "+name, err)
	}
	switch err := s.root.Link(fresh, name); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("filestore: %s: %w", name, checkpointing.ErrExists)
	case err != nil:
		return s.wrap("linking "+name, err)
	}
	return s.wrap("syncing "+folder, s.sync(folder))
}

// makeFolder makes a folder and those above it, so that they outlive a crash.
func (s *Store) makeFolder(folder string) error {
	if folder == "." {
		return nil
	}
	if info, err := s.root.Stat(folder); err == nil && info.IsDir() {
		return nil
	}
	above := path.Dir(folder)
	if err := s.makeFolder(above); err != nil {
		return err
	}
	if err := s.root.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.sync(above)
}

func (s *Store) write(ctx context.Context, name string, content io.Reader) error {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &interruptible{ctx, content})
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// interruptible ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// sync makes what was made or removed in a folder outlive a crash.
func (s *Store) sync(folder string) error {
	f, err := s.root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Open is part of checkpointing.Store.
func (s *Store) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if _, err := s.Stat(ctx, name); err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, s.wrap("opening "+name, absent(err))
	}
	return &reader{interruptible{ctx, bufio.NewReaderSize(f, 1<<20)}, f}, nil
}

type reader struct {
	interruptible
	io.Closer
}

// Stat is part of checkpointing.Store.
func (s *Store) Stat(ctx context.Context, name string) (int64, error) {
	if err := errors.Join(ctx.Err(), checkpointing.CheckName(name)); err != nil {
		return 0, err
	}
	info, err := s.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist // a folder or a link: no object of ours
	}
	if err != nil {
		return 0, s.wrap("looking for "+name, absent(err))
	}
	return info.Size(), nil
}

// List is part of checkpointing.Store.
func (s *Store) List(ctx context.Context, prefix string, visit func(string, int64) error) error {
	return s.walk(path.Dir(prefix+"x"), func(name string, d fs.DirEntry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !strings.HasPrefix(name, prefix) || !d.Type().IsRegular() || checkpointing.CheckName(name) != nil {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return ignoreAbsent(err) // it was removed meanwhile
		}
		return visit(name, info.Size())
	})
}

// Delete is part of checkpointing.Store. That it is gone may not outlive a crash: then it is garbage again.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), checkpointing.CheckName(name)); err != nil {
		return err
	}
	return s.wrap("removing "+name, ignoreAbsent(s.root.Remove(name)))
}

func ignoreAbsent(err error) error {
	if isAbsent(err) {
		return nil
	}
	return err
}

// walk visits all that lies in a folder, at any depth, in the order of names.
func (s *Store) walk(folder string, visit func(name string, d fs.DirEntry) error) error {
	entries, err := fs.ReadDir(s.root.FS(), folder)
	if err != nil {
		return s.wrap("listing "+folder, ignoreAbsent(err))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortKey(a), sortKey(b)) })
	for _, d := range entries {
		name := path.Join(folder, d.Name())
		do := visit
		if d.IsDir() {
			do = func(name string, _ fs.DirEntry) error { return s.walk(name, visit) }
		}
		if err := do(name, d); err != nil {
			return err
		}
	}
	return nil
}

// sortKey orders folders by what the names in them begin with.
func sortKey(d fs.DirEntry) string {
	if d.IsDir() {
		return d.Name() + "/"
	}
	return d.Name()
}

// passing are errors that may not come again.
var passing = []error{syscall.EIO, syscall.ESTALE, syscall.EINTR, syscall.EAGAIN, syscall.ETIMEDOUT}

// wrap says where err comes from, and what to do if the disk is full.
func (s *Store) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("filestore: %s: %w", doing, err)
	switch {
	case spillfile.Full(err):
		return fault.New(fault.Retryable, "no space left on %s, where checkpoints are kept: free some, or keep fewer of them: %w", s.dir, err)
	case slices.ContainsFunc(passing, func(p error) bool { return errors.Is(err, p) }):
		return fault.Wrap(fault.Retryable, err)
	}
	return err
}

// isAbsent holds where there is no file, or where what would be its folder is one.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// absent says that there is no object where there is no file.
func absent(err error) error {
	if isAbsent(err) {
		return fmt.Errorf("%w (%w)", checkpointing.ErrAbsent, err)
	}
	return err
}
