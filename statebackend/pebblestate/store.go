package pebblestate

import (
	"bytes"
	"cmp"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// maxBatchBytes is the largest batch that is committed; Pebble's own limit is 4 GiB.
const maxBatchBytes = 3 << 30

const (
	// exactBatchBytes is the size from which on batches have just the room they need. Pebble keeps none of that size.
	exactBatchBytes = 1 << 20
	// emptyBatchBytes is the size of a batch without entries: a sequence number and a count, both 0 (pebble.Batch.SetRepr).
	emptyBatchBytes = 12
)

// Store is a store on disk. Values that Get returns are copies, valid for good.
type Store struct {
	view
	db        *pebble.DB
	opts      *pebble.Options
	backend   *Backend
	dir       string
	snapshots atomic.Int64 // open
	imaging   imaging
}

// Commit implements statebackend.Store.
func (s *Store) Commit(b *statebackend.Batch) error {
	if s.closed.Load() {
		return errClosed("store")
	}
	if b.Bytes() > maxBatchBytes {
		return fault.New(fault.Invalid, "pebblestate: store %q: a batch of %d bytes is over %d", s.disk.store, b.Bytes(), maxBatchBytes)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := s.disk.failed(); err != nil {
		return err
	}
	out, err := s.batch(b.Bytes() + 16*b.Len() + 16)
	if err != nil {
		return err
	}
	if err = s.fill(out, b); err == nil {
		s.imaging.admit(int64(out.Len()) + int64(out.Count())*entryBytes)
		err = s.db.Apply(out, pebble.NoSync)
	}
	if err == nil {
		s.imaging.chain.Add(b)
	}
	return s.disk.wrap(cmp.Or(err, out.Close(), s.disk.failed()), "writing to")
}

// batch returns an empty batch with room for so many bytes. Of those it keeps for the next ones Pebble makes the room a power
// of two; large ones it keeps until they are in a table, and of 10 MB each six of 16 would be wasted.
func (s *Store) batch(room int) (*pebble.Batch, error) {
	if room <= exactBatchBytes {
		return s.db.NewBatchWithSize(room), nil
	}
	out := s.db.NewBatch()
	return out, out.SetRepr(make([]byte, emptyBatchBytes, room))
}

// fill puts the changes of b into out.
func (s *Store) fill(out *pebble.Batch, b *statebackend.Batch) error {
	highest := []byte{} // of the keys in out
	only := true        // ranges so far
	for c := range b.All() {
		if c.Kind != statebackend.DeleteRange {
			only = false
			if bytes.Compare(c.Key, highest) > 0 {
				highest = c.Key
			}
		}
		var err error
		switch c.Kind {
		case statebackend.Set:
			err = out.Set(c.Key, c.Value, nil)
		case statebackend.Append:
			err = out.Merge(c.Key, c.Value, nil)
		case statebackend.Delete:
			err = out.Delete(c.Key, nil)
		case statebackend.DeleteRange:
			err = s.deleteRange(out, c.Key, c.Value, highest, only)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fewKeys is up to how many keys of a range are deleted one by one. Every deletion of a
// range makes all reads dearer until it is compacted away, and most are of a window with a
// cell or two.
const fewKeys = 32

// deleteRange deletes the keys in [from, to). No key of out is above highest; if only
// ranges were deleted in it so far, what the range has is what the database has.
func (s *Store) deleteRange(out *pebble.Batch, from, to, highest []byte, only bool) error {
	if to != nil && bytes.Compare(from, to) >= 0 {
		return nil
	}
	iter, err := s.db.NewIter(within(from, to))
	if err != nil {
		return err
	}
	var keys [][]byte
	if only {
		for ok := iter.First(); ok && len(keys) <= fewKeys; ok = iter.Next() {
			keys = append(keys, bytes.Clone(iter.Key()))
		}
	}
	if to == nil && iter.Last() && bytes.Compare(iter.Key(), highest) > 0 {
		highest = bytes.Clone(iter.Key())
	}
	if err := iter.Close(); err != nil {
		return err
	}
	if only && len(keys) <= fewKeys {
		for _, k := range keys {
			if err := out.Delete(k, nil); err != nil {
				return err
			}
		}
		return nil
	}
	if to == nil {
		to = append(bytes.Clone(highest), 0)
	}
	if bytes.Compare(from, to) >= 0 {
		return nil
	}
	if len(from) == 0 {
		from = []byte{0} // no key is empty, and Pebble built for the race detector lost deletions from the empty one
	}
	return out.DeleteRange(from, to, nil)
}

// Snapshot implements statebackend.Store.
func (s *Store) Snapshot() (statebackend.Snapshot, error) {
	if s.closed.Load() {
		return nil, errClosed("store")
	}
	s.snapshots.Add(1)
	pinned := s.db.NewSnapshot()
	return &snapshot{view: view{reader: pinned, disk: s.disk}, pinned: pinned, of: s}, nil
}

// Close implements statebackend.Store. Unless the backend keeps stores, its files are
// removed.
func (s *Store) Close() error {
	if n, images := s.snapshots.Load(), s.imaging.chain.Open(); n > 0 || images > 0 {
		return fault.New(fault.Invalid, "pebblestate: closing store %q with %d snapshots and %d images open", s.disk.store, n, images)
	}
	if s.closed.Swap(true) {
		return errClosed("store")
	}
	defer s.backend.release(s.dir)
	var err error
	if s.backend.cfg.Keep {
		err = s.db.Flush()
	}
	err = cmp.Or(err, s.db.Close())
	if !s.backend.cfg.Keep {
		err = cmp.Or(err, s.backend.fs.RemoveAll(s.dir))
	}
	return s.disk.wrap(err, "closing")
}

// Stats tells what a store takes.
type Stats struct {
	MemTableBytes int64 // of memory, besides the shared cache
	DiskBytes     int64 // of files, with those that are only still read
}

// Stats returns what the store takes at the moment.
func (s *Store) Stats() Stats {
	m := s.db.Metrics()
	return Stats{MemTableBytes: int64(m.MemTable.Size + m.MemTable.ZombieSize), DiskBytes: int64(m.DiskSpaceUsage())}
}

type snapshot struct {
	view
	pinned *pebble.Snapshot
	of     *Store

	mu     sync.Mutex
	points *pebble.Iterator // for Get, made by the first; under mu
}

// Get implements statebackend.Reader. Pebble's own Get does not ask the filters of the last level,
// where most keys are: each new key would cost the reading of a block.
func (s *snapshot) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, errClosed("snapshot")
	}
	if s.points == nil {
		var err error
		if s.points, err = s.pinned.NewIter(&pebble.IterOptions{UseL6Filters: true}); err != nil {
			return nil, s.disk.wrap(err, "reading")
		}
	}
	if !s.points.SeekPrefixGE(key) { // the prefix of a key is all of it
		return nil, s.disk.wrap(s.points.Error(), "reading")
	}
	value, err := s.points.ValueAndErr()
	if err != nil {
		return nil, s.disk.wrap(err, "reading")
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

// Close implements statebackend.Snapshot.
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Swap(true) {
		return errClosed("snapshot")
	}
	defer s.of.snapshots.Add(-1)
	var err error
	if s.points != nil {
		err = s.points.Close()
	}
	return s.disk.wrap(cmp.Or(err, s.pinned.Close()), "closing a snapshot of")
}

// view implements statebackend.Reader.
type view struct {
	reader pebble.Reader
	disk   *disk
	closed atomic.Bool
}

// Get implements statebackend.Reader.
func (v *view) Get(key []byte) ([]byte, error) {
	if v.closed.Load() {
		return nil, errClosed("reader")
	}
	value, closer, err := v.reader.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, v.disk.wrap(err, "reading")
	}
	out := append(make([]byte, 0, len(value)), value...)
	return out, v.disk.wrap(closer.Close(), "reading")
}

// Scan implements statebackend.Reader.
func (v *view) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	if v.closed.Load() {
		return errClosed("reader")
	}
	if to != nil && bytes.Compare(from, to) >= 0 {
		return nil
	}
	iter, err := v.reader.NewIter(within(from, to))
	if err != nil {
		return v.disk.wrap(err, "reading")
	}
	for ok := iter.First(); ok; ok = iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil || !visit(iter.Key(), value) {
			return v.disk.wrap(cmp.Or(err, iter.Close()), "reading")
		}
	}
	return v.disk.wrap(iter.Close(), "reading") // with what ended the loop
}

// within returns the options to iterate over [from, to), which is not empty.
func within(from, to []byte) *pebble.IterOptions {
	if len(from) == 0 {
		from = nil // a bound that is empty but not nil is a bound that Pebble seeks
	}
	return &pebble.IterOptions{LowerBound: from, UpperBound: to}
}

func errClosed(what string) error {
	return fault.New(fault.Invalid, "pebblestate: the %s has been closed", what)
}
