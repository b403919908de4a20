package pebblestate

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/spillfile"
)

// disk is where a store's files are. When it is full the store is lost: every commit fails
// from then on. The database is told that all its writes go well: it would try for ever
// otherwise, while commits wait for it, or end the process.
type disk struct {
	vfs.FS
	dir, store string
	full       atomic.Pointer[error]
}

// wrap says where err comes from and gives it a class; that of a full disk comes before others.
func (d *disk) wrap(err error, doing string) error {
	if full := d.full.Load(); full != nil && err != nil {
		return *full
	}
	return wrap(err, d.store, doing)
}

// failed returns why the store is lost, if it is.
func (d *disk) failed() error {
	if full := d.full.Load(); full != nil {
		return *full
	}
	return nil
}

// note takes note of an error of writing, and passes on all but those of a full disk.
func (d *disk) note(err error) error {
	if err == nil || !spillfile.Full(err) {
		return err
	}
	err = wrap(spillfile.Error(d.dir, "writing", err), d.store, "writing to")
	d.full.CompareAndSwap(nil, &err)
	return nil
}

// Create is part of vfs.FS.
func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.writable(d.FS.Create(name, c))
}

// OpenReadWrite is part of vfs.FS.
func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.writable(d.FS.OpenReadWrite(name, c, opts...))
}

// ReuseForWrite is part of vfs.FS.
func (d *disk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.writable(d.FS.ReuseForWrite(old, name, c))
}

func (d *disk) writable(f vfs.File, err error) (vfs.File, error) {
	if err == nil {
		return &file{f, d}, nil
	}
	if left := d.note(err); left != nil {
		return nil, left
	}
	return vfs.NewMem().Create("nowhere", vfs.WriteCategoryUnspecified)
}

// Unwrap is part of vfs.FS.
func (d *disk) Unwrap() vfs.FS { return d.FS }

// file is a file that is written.
type file struct {
	vfs.File
	disk *disk
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil && f.disk.note(err) == nil {
		return len(p), nil
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if err != nil && f.disk.note(err) == nil {
		return len(p), nil
	}
	return n, err
}

func (f *file) Preallocate(off, n int64) error { return f.disk.note(f.File.Preallocate(off, n)) }
func (f *file) Sync() error                    { return f.disk.note(f.File.Sync()) }
func (f *file) SyncData() error                { return f.disk.note(f.File.SyncData()) }

func (f *file) SyncTo(n int64) (full bool, err error) {
	full, err = f.File.SyncTo(n)
	return full, f.disk.note(err)
}
