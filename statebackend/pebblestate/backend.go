// Package pebblestate keeps state on disk: a Pebble database a store, under a shared cache.
//
// The databases have no log. What a task has written since its last checkpoint is of no
// use after a crash, for the task begins again with the checkpoint; so a log would be
// written and never read. What a crash leaves is nevertheless all of the commits up to
// some moment, as memory tables are written in order and hold commits whole.
package pebblestate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// formatVersion is the format of the databases. A later one is a decision, because builds
// from before it do not read it.
const formatVersion = pebble.FormatValueSeparation

// Backend opens stores on disk.
type Backend struct {
	cfg   Config
	fs    vfs.FS
	cache *pebble.Cache
	files *pebble.FileCache

	mu     sync.Mutex
	open   map[string]bool // by folder, under mu
	closed bool            // under mu
}

// New returns a backend for the stores in cfg.Dir.
func New(cfg Config) (*Backend, error) { return newBackend(cfg, vfs.Default) }

func newBackend(cfg Config, fs vfs.FS) (*Backend, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Backend{
		cfg: cfg, fs: fs,
		cache: pebble.NewCache(cfg.CacheBytes),
		files: pebble.NewFileCache(fileCacheShards, max(fileCacheShards, cfg.OpenFiles)),
		open:  make(map[string]bool),
	}, nil
}

const fileCacheShards = 4

// Open opens the store of that name, in a folder of its own.
func (b *Backend) Open(name string) (statebackend.Store, error) {
	s, err := b.openWith(name, b.cfg.Keep, false, b.openIn)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openWith opens a store by what open does in its folder, where all is kept or nothing. Images says whether they are taken of it.
func (b *Backend) openWith(name string, keep, images bool, open func(dir string, d *disk, memory memTables) (*Store, error)) (*Store, error) {
	dir := b.fs.PathJoin(b.cfg.Dir, folder(name))
	others, err := b.claim(name, dir)
	if err != nil {
		return nil, err
	}
	left := dir // by a crash
	if keep {
		left = b.fs.PathJoin(dir, imagesDir)
	}
	if err := b.fs.RemoveAll(left); err != nil {
		b.release(dir)
		return nil, fmt.Errorf("pebblestate: removing what was left of store %q: %w", name, err)
	}
	s, err := open(dir, &disk{FS: b.fs, dir: b.cfg.Dir, store: name}, b.cfg.memTables(others, images))
	if err != nil {
		if !keep {
			err = errors.Join(err, b.fs.RemoveAll(dir))
		}
		b.release(dir)
		return nil, err
	}
	return s, nil
}

// options returns those of a store's database.
func (b *Backend) options(d *disk, memory memTables) *pebble.Options {
	log := logger{b.cfg.Logger.With("store", d.store)}
	opts := &pebble.Options{
		FS:                          d,
		Cache:                       b.cache,
		FileCache:                   b.files,
		DisableWAL:                  true,
		FormatMajorVersion:          formatVersion,
		Merger:                      appendMerger,
		MemTableSize:                uint64(memory.bytes),
		MemTableStopWritesThreshold: memory.most,
		// Images make small tables; with the default of 12 unmerged ones the owner would wait for seconds, of images too.
		L0StopWritesThreshold: 100,
		MaxManifestFileSize:   1 << 20,                     // each image has it
		LBaseMaxBytes:         max(64<<20, 8*memory.bytes), // so much is merged at once: few levels
		Logger:                log,
		EventListener: &pebble.EventListener{
			// By default this ends the process; but the read fails as well, and so does the task.
			DataCorruption: func(i pebble.DataCorruptionInfo) { log.Errorf("damaged file %s: %v", i.Path, i.Details) },
		},
	}
	opts.CompactionConcurrencyRange = func() (lower, upper int) { return 1, b.cfg.Compactions }
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most keys asked for are new ones
	}
	opts.EnsureDefaults() // as who writes tables needs them
	return opts
}

// openIn opens what is in a folder.
func (b *Backend) openIn(dir string, d *disk, memory memTables) (*Store, error) {
	opts := b.options(d, memory)
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, d.wrap(err, "opening")
	}
	if err := d.failed(); err != nil {
		return nil, cmp.Or(err, db.Close())
	}
	return &Store{db: db, opts: opts, view: view{reader: db, disk: d}, backend: b, dir: dir, imaging: newImaging()}, nil
}

// Close releases the caches. It is an error while a store is open.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.open); n > 0 {
		return fault.New(fault.Invalid, "pebblestate: closing the backend with %d stores open", n)
	}
	if b.closed {
		return fault.New(fault.Invalid, "pebblestate: the backend has been closed")
	}
	b.closed = true
	b.files.Unref()
	b.cache.Unref()
	return nil
}

// claim notes that a store is open, and tells how many others are.
func (b *Backend) claim(name, dir string) (others int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, fault.New(fault.Invalid, "pebblestate: the backend has been closed")
	}
	if b.open[dir] {
		return 0, fault.New(fault.Invalid, "pebblestate: store %q is open already", name)
	}
	b.open[dir] = true
	return len(b.open) - 1, nil
}

func (b *Backend) release(dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, dir)
}

// folder returns the folder of a store: what can be read of its name, and a hash to tell
// names apart.
func folder(name string) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
			return r
		}
		return '_'
	}, name)
	hash := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%.40s-%x", readable, hash[:8])
}

// wrap says where err comes from and gives it a class.
func wrap(err error, store, doing string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("pebblestate: %s store %q: %w", doing, store, err)
	if pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) { // a file of the database
		return fault.Wrap(fault.Corruption, err)
	}
	return err
}

// logger passes what a database reports on. Its texts are Pebble's.
type logger struct{ to *slog.Logger }

// Infof implements pebble.Logger.
func (l logger) Infof(format string, args ...any) {
	if l.to.Enabled(context.Background(), slog.LevelDebug) {
		l.to.Debug("database", "text", fmt.Sprintf(format, args...))
	}
}

// Errorf implements pebble.Logger.
func (l logger) Errorf(format string, args ...any) {
	l.to.Error("database", "text", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger: the database cannot go on, and asks not to be returned
// to. The worker ends; its jobs return to their last checkpoint.
func (l logger) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	panic("pebblestate: " + fmt.Sprintf(format, args...))
}
