// Package gcsstore keeps objects in a bucket of Google Cloud Storage. That an object is created once
// is a condition of its upload (generation 0), checked by the service; what arrives is compared with
// the CRC-32C of what was sent.
package gcsstore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/internal/fault"
)

// Config configures a Store. Bucket is required.
type Config struct {
	Bucket string
	// Prefix is a folder in the bucket, "" for all of it. All names are below it.
	Prefix string
	// ChunkBytes of an upload are sent at a time, and again if they were lost; each upload under way
	// takes as much memory. What is no larger goes in one request. 0 is 8 MiB.
	ChunkBytes int
	// Attempts of a request; 0 is 4. They wait up to Backoff (0 is 1 s), up to twice that, and so on
	// up to 15 s, each time a part of it by chance.
	Attempts int
	Backoff  time.Duration
	// Options of the client, for tests. By default it finds its credentials as all clients of Google
	// Cloud do; no log and no error has them.
	Options []option.ClientOption
}

// Validate fills in the defaults, or says what is wrong, as a fault.Invalid.
func (c *Config) Validate() error {
	if c.Bucket == "" {
		return fault.New(fault.Invalid, "gcsstore: no bucket")
	}
	if c.Prefix != "" {
		if err := checkpointing.CheckName(c.Prefix); err != nil {
			return fmt.Errorf("gcsstore: prefix: %w", err)
		}
	}
	if c.ChunkBytes < 0 || c.Attempts < 0 || c.Backoff < 0 {
		return fault.New(fault.Invalid, "gcsstore: %d bytes a chunk, %d attempts, back-off %v must not be negative", c.ChunkBytes, c.Attempts, c.Backoff)
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = 8 << 20
	}
	if c.Attempts == 0 {
		c.Attempts = 4
	}
	if c.Backoff == 0 {
		c.Backoff = time.Second
	}
	return nil
}

// Store is a checkpointing.Store in a bucket.
type Store struct {
	cfg    Config
	client *storage.Client
	bucket *storage.BucketHandle
	prefix string
}

// New returns the store of a bucket, which has to be there.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	client, err := storage.NewClient(ctx, cfg.Options...)
	if err != nil {
		return nil, fmt.Errorf("gcsstore: %w", bare(err))
	}
	s := &Store{cfg: cfg, client: client}
	// All writes are conditional, so that each may be sent again.
	s.bucket = client.Bucket(cfg.Bucket).Retryer(
		storage.WithPolicy(storage.RetryAlways),
		storage.WithMaxAttempts(cfg.Attempts),
		storage.WithBackoff(gax.Backoff{Initial: cfg.Backoff, Max: 15 * time.Second, Multiplier: 2}),
	)
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

// Close ends the use of the store.
func (s *Store) Close() error { return s.client.Close() }

func (s *Store) object(name string) *storage.ObjectHandle { return s.bucket.Object(s.prefix + name) }

// Create is part of checkpointing.Store.
func (s *Store) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	if err := checkpointing.CheckName(name); err != nil {
		return err
	}
	size, sum, err := measure(content)
	if err != nil {
		return fmt.Errorf("gcsstore: reading the content of %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of what is under way nothing becomes an object then
	failures := new(failures)
	w := s.object(name).If(storage.Conditions{DoesNotExist: true}).
		Retryer(storage.WithErrorFunc(func(err error) bool { return storage.ShouldRetry(err) && failures.more(s.cfg.Attempts) })).
		NewWriter(ctx)
	w.ProgressFunc = func(int64) { failures.n.Store(0) }
	w.ChunkSize = s.cfg.ChunkBytes
	w.ContentType = "application/octet-stream"
	w.CRC32C, w.SendCRC32C = sum, true
	n, err := io.Copy(w, content)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes the first time and %d the second", size, n)
	}
	if err != nil {
		cancel()
		_ = w.Close() // it reports err again, or that it was cancelled
		return s.wrap("writing", name, err)
	}
	return s.wrap("writing", name, w.Close())
}

// failures in a row of one upload. The client's own bound of attempts does not hold for uploads:
// while the service is away they would be tried for ever.
type failures struct{ n atomic.Int64 }

// more notes a failure and tells whether there are attempts left.
func (f *failures) more(attempts int) bool { return f.n.Add(1) < int64(attempts) }

// measure reads what content has from where it is, and goes back there.
func measure(content io.ReadSeeker) (size int64, sum uint32, err error) {
	from, err := content.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, 0, err
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if size, err = io.Copy(h, content); err != nil {
		return 0, 0, err
	}
	_, err = content.Seek(from, io.SeekStart)
	return size, h.Sum32(), err
}

// Open is part of checkpointing.Store.
func (s *Store) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkpointing.CheckName(name); err != nil {
		return nil, err
	}
	r, err := s.object(name).NewReader(ctx)
	if err != nil {
		return nil, s.wrap("reading", name, err)
	}
	return &reader{r, s, name}, nil
}

// reader gives errors their class.
type reader struct {
	*storage.Reader
	store *Store
	name  string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = r.store.wrap("reading", r.name, err)
	}
	return n, err
}

// Stat is part of checkpointing.Store.
func (s *Store) Stat(ctx context.Context, name string) (int64, error) {
	if err := checkpointing.CheckName(name); err != nil {
		return 0, err
	}
	a, err := s.object(name).Attrs(ctx)
	if err != nil {
		return 0, s.wrap("looking for", name, err)
	}
	return a.Size, nil
}

// List is part of checkpointing.Store.
func (s *Store) List(ctx context.Context, prefix string, visit func(string, int64) error) error {
	q := &storage.Query{Prefix: s.prefix + prefix}
	if err := q.SetAttrSelection([]string{"Name", "Size"}); err != nil {
		return err
	}
	for all := s.bucket.Objects(ctx, q); ; {
		a, err := all.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return s.wrap("listing", prefix, err)
		}
		if err := visit(strings.TrimPrefix(a.Name, s.prefix), a.Size); err != nil {
			return err
		}
	}
}

// Delete is part of checkpointing.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := checkpointing.CheckName(name); err != nil {
		return err
	}
	err := s.wrap("removing", name, s.object(name).Delete(ctx))
	if errors.Is(err, checkpointing.ErrAbsent) {
		return nil
	}
	return err
}

// wrap says where err comes from, and gives it a class.
func (s *Store) wrap(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	var api *googleapi.Error
	status := 0
	if errors.As(err, &api) {
		status = api.Code
	}
	retryable := storage.ShouldRetry(err)
	err = bare(err)
	switch {
	case status == http.StatusPreconditionFailed:
		err = fmt.Errorf("%w (%w)", checkpointing.ErrExists, err)
	case status == http.StatusNotFound, errors.Is(err, storage.ErrObjectNotExist):
		if !errors.Is(err, storage.ErrBucketNotExist) {
			err = fmt.Errorf("%w (%w)", checkpointing.ErrAbsent, err)
		}
	}
	err = fmt.Errorf("gcsstore: %s %s of bucket %s: %w", doing, s.prefix+name, s.cfg.Bucket, err)
	if retryable {
		return fault.Wrap(fault.Retryable, err)
	}
	return err
}

// bare takes addresses out of an error: that of a resumable upload lets whoever has it write.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", u.Op, u.Err)
	}
	return err
}
