// Package statebackend is the seam behind which tasks keep state, timers and progress:
// one ordered map of bytes a task. The interfaces of this file are what an
// implementation offers (memstate, pebblestate); keys.go and timer.go say what the
// bytes mean, alike for all of them (docs/format/state-keys.md); Overlay gives a bundle
// its own view until it commits. An implementation is finished when it passes
// statebackendtest.
package statebackend

import "context"

// Backend opens stores. Where they live is the configuration of the implementation. Its
// methods may be called concurrently.
type Backend interface {
	// Open opens the store of that name; one task has one, by a name of any bytes that is
	// unique in the backend. A store that is open cannot be opened again.
	Open(name string) (Store, error)
	// Restore opens a store that has what parts of images have, nothing of what a former one of that
	// name had. Images of it are going to be taken: its owner waits for them less than that of one which was opened. All files are read, and checked, before it returns: an error of class
	// fault.Corruption names the one that is damaged.
	Restore(ctx context.Context, name string, parts []Part) (Store, error)
	// Close releases what stores share. It is an error while one is open.
	Close() error
}

// Store is the state of one task: a map of keys, which are never empty, to values. Its
// methods belong to the task's owner, one goroutine at a time; snapshots may be used by
// others meanwhile.
type Store interface {
	// Reader of Store shows all that has been committed.
	Reader
	// Commit applies the changes of b in order, all or none: readers, snapshots and what
	// is found after a crash have all of them or none, and all of the commits before. It
	// does not wait for a disk, and makes nothing durable: checkpoints do. The batch is
	// not changed and not kept.
	Commit(b *Batch) error
	// Snapshot pins the present state. It costs little enough to take one a bundle.
	Snapshot() (Snapshot, error)
	// Image takes the present state, to be written elsewhere, in the form that costs the backend least.
	// It returns within milliseconds, whatever the size of the state; commits may have to wait while it
	// is brought into files. Held tells of which files the caller has what former images of the store,
	// or those it was restored from, have put, and will have for as long as it keeps this image: of the others
	// there is little if little has changed. It may be called until Write has returned, by the caller of
	// that as well; nil holds nothing.
	// An image of form Records that depends on no other is what RecordsImage takes.
	Image(held func(name string) bool) (Image, error)
	// Close ends the use of the store. While a snapshot or an image is open it is an error and does
	// nothing.
	Close() error
}

// Snapshot is a view of a Store at one moment; later commits do not show. It may be used
// by several goroutines, also while the store's owner commits. It is to be closed, once,
// after the last read.
type Snapshot interface {
	Reader
	// Close releases what the snapshot pins.
	Close() error
}

// Reader reads an ordered map of bytes. Errors of class fault.Corruption mean that what
// was stored is damaged, those of fault.Invalid that the reader has been closed.
type Reader interface {
	// Get returns the value of key; nil if there is none, an empty slice that is not nil
	// if the value is empty. The value must not be changed. A Store's is valid until the
	// next Commit, a Snapshot's until it is closed.
	Get(key []byte) (value []byte, err error)
	// Scan visits the keys in [from, to) in ascending order of their bytes, until visit
	// returns false. A nil to is no end. What visit is given is valid until it returns
	// and must not be changed. It may read, but not commit or close.
	Scan(from, to []byte, visit func(key, value []byte) (more bool)) error
}
