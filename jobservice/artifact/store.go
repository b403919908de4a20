package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice/internal/rpcstatus"
)

const tmpDir = "tmp"

// Store keeps blobs in a directory of its own, each under the SHA-256 of its
// content ("ab/ab12…"), so that equal artifacts of many jobs are stored once and
// no name from outside ever becomes a path. Blobs are reference-counted and
// removed with their last reference. A Store is safe for concurrent use; a
// directory belongs to one Store at a time.
type Store struct {
	root  *os.Root
	limit int64 // bytes

	mu    sync.Mutex
	blobs map[string]*blob
	used  int64 // bytes of blobs and unfinished ones
}

type blob struct {
	refs    int
	size    int64
	durable bool
}

// OpenStore opens or creates the store in dir, for limit bytes at most. It has the blobs that an
// earlier process left, without references: Sweep removes those that nobody has retained.
func OpenStore(dir string, limit int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	s := &Store{root: root, limit: limit, blobs: map[string]*blob{}}
	if err := s.adopt(); err != nil {
		root.Close()
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return s, nil
}

// Close releases the directory. Blobs stay on disk until the next OpenStore.
func (s *Store) Close() error { return s.root.Close() }

// adopt takes over the blobs of an earlier process, and drops what it did not finish.
func (s *Store) adopt() error {
	if err := s.root.RemoveAll(tmpDir); err != nil {
		return err
	}
	found, err := fs.Glob(s.root.FS(), "[0-9a-f][0-9a-f]/*")
	if err != nil {
		return err
	}
	for _, place := range found {
		sum := path.Base(place)
		info, err := s.root.Stat(place)
		if err != nil || !info.Mode().IsRegular() || len(sum) != 2*sha256.Size || !isHex(sum) || blobPath(sum) != place {
			continue // not ours
		}
		s.blobs[sum] = &blob{size: info.Size()}
		s.used += info.Size()
	}
	return s.root.Mkdir(tmpDir, 0o700)
}

// Sweep removes all blobs without references.
func (s *Store) Sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for sum, b := range s.blobs {
		if b.refs == 0 {
			failed = append(failed, s.remove(sum, b))
			_ = s.root.Remove(sum[:2]) // unless it has others
		}
	}
	return errors.Join(failed...)
}

// remove drops a blob. The caller holds mu.
func (s *Store) remove(sum string, b *blob) error {
	delete(s.blobs, sum)
	s.used -= b.size
	if err := s.root.Remove(blobPath(sum)); err != nil {
		return fmt.Errorf("artifact store: %w", err)
	}
	return nil
}

// Create starts a new blob. The caller must end with Commit or Abort.
func (s *Store) Create() (*Writer, error) {
	name := tmpDir + "/" + newToken()
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return &Writer{store: s, file: f, name: name, hash: sha256.New()}, nil
}

// Retain adds a reference to the blob with the given SHA-256 in lower-case hex
// and returns its size in bytes; false if the store doesn't hold it.
func (s *Store) Retain(sum string) (size int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[sum]
	if !ok {
		return 0, false
	}
	b.refs++
	return b.size, true
}

// Release gives back one reference, which Commit or Retain has given.
func (s *Store) Release(sum string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[sum]
	if !ok {
		return fmt.Errorf("artifact store: release of unknown blob %s", sum)
	}
	if b.refs--; b.refs > 0 {
		return nil
	}
	return s.remove(sum, b)
}

// Open returns the content of a blob; the error is fs.ErrNotExist if the store
// doesn't hold it. The reader stays valid when the blob is released meanwhile.
func (s *Store) Open(sum string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[sum]; !ok {
		return nil, fmt.Errorf("artifact store: blob %s: %w", sum, fs.ErrNotExist)
	}
	f, err := s.root.Open(blobPath(sum))
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return f, nil
}

// publish moves a finished temporary file to its place and references it.
func (s *Store) publish(tmp, sum string, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.blobs[sum]; ok {
		if err := s.root.Remove(tmp); err != nil {
			return err
		}
		b.refs++
		s.used -= size
		return nil
	}
	dir := sum[:2]
	if err := s.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.root.Rename(tmp, blobPath(sum)); err != nil {
		return err
	}
	s.blobs[sum] = &blob{refs: 1, size: size}
	return nil
}

// Sync makes blobs durable, which the caller holds references to: only few outlive the process.
func (s *Store) Sync(sums []string) error {
	var all errgroup.Group
	all.SetLimit(8)
	for _, sum := range slices.Compact(slices.Sorted(slices.Values(sums))) {
		s.mu.Lock()
		b := s.blobs[sum]
		done := b != nil && b.durable
		s.mu.Unlock()
		if done {
			continue
		}
		all.Go(func() error {
			for _, name := range []string{blobPath(sum), sum[:2], "."} {
				if err := s.sync(name); err != nil {
					return fmt.Errorf("artifact store: %w", err)
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			b.durable = true
			return nil
		})
	}
	return all.Wait()
}

// sync flushes a file or folder to the disk.
func (s *Store) sync(name string) error {
	f, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func blobPath(sum string) string { return sum[:2] + "/" + sum }

// Writer receives the content of one blob. It isn't safe for concurrent use.
type Writer struct {
	store *Store
	file  *os.File // nil once committed or aborted
	name  string
	hash  hash.Hash
	size  int64
}

// reserve makes sure that there is room for n bytes more, before they are written.
func (s *Store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.limit {
		return rpcstatus.Errorf(codes.ResourceExhausted, "artifact store: the artifacts of all jobs together would exceed the %d bytes allowed; try again when other jobs have ended", s.limit)
	}
	s.used += n
	return nil
}

func (s *Store) free(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// Write implements io.Writer. The error is RESOURCE_EXHAUSTED if the store is full.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.store.reserve(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.file.Write(p)
	w.store.free(int64(len(p) - n))
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Commit puts the blob into the store, adds one reference to it and returns its
// SHA-256. A non-empty want that differs from it gives an error of class
// fault.Invalid and stores nothing. After an error only Abort may follow.
func (w *Writer) Commit(want string) (sum string, err error) {
	sum = hex.EncodeToString(w.hash.Sum(nil))
	if want != "" && !strings.EqualFold(want, sum) {
		return "", fault.New(fault.Invalid, "content has SHA-256 %s, but %s was announced", sum, want)
	}
	if err := w.store.publish(w.name, sum, w.size); err != nil {
		return "", fmt.Errorf("artifact store: %w", err)
	}
	err = w.file.Close()
	w.file = nil
	return sum, err
}

// Abort drops what was written. After Commit it does nothing.
func (w *Writer) Abort() {
	if w.file == nil {
		return
	}
	w.file.Close()
	w.file = nil
	_ = w.store.root.Remove(w.name) // a leftover is swept at the next start
	w.store.free(w.size)
}
