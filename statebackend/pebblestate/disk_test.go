package pebblestate

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// smallFS has room for so many more bytes.
type smallFS struct {
	vfs.FS
	room atomic.Int64
}

type smallFile struct {
	vfs.File
	fs *smallFS
}

func (s *smallFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return smallFile{f, s}, err
}

func (f smallFile) Write(p []byte) (int, error) {
	if f.fs.room.Add(-int64(len(p))) < 0 {
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

// commitUntilFull commits until that fails, and returns the error.
func commitUntilFull(t *testing.T, s *Store) error {
	t.Helper()
	for i := range 10_000 {
		var b statebackend.Batch
		b.Set(fmt.Appendf(nil, "key %d", i), fmt.Appendf(nil, "%01000d", i))
		if err := s.Commit(&b); err != nil {
			return err
		}
	}
	t.Fatal("10 MB went to a disk that has room for less")
	return nil
}

func TestFullDiskFailsCommitsAndNothingElse(t *testing.T) {
	for room := int64(0); room < 400<<10; room += 17 << 10 {
		fs := &smallFS{FS: vfs.NewMem()}
		fs.room.Store(room)
		b := open(t, Config{Dir: "state", MemTableBytes: 64 << 10}, fs)
		opened, err := b.Open("task")
		if err == nil {
			s := opened.(*Store)
			err = commitUntilFull(t, s)
			var batch statebackend.Batch
			batch.Set([]byte("k"), nil)
			if again := s.Commit(&batch); again == nil {
				t.Errorf("room %d: a commit went well after one had failed", room)
			}
			if err := s.Close(); err != nil && !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("room %d: closing: %v", room, err)
			}
		}
		if fault.ClassOf(err) != fault.Retryable || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), "state") {
			t.Errorf("room %d: error %v of class %v", room, err, fault.ClassOf(err))
		}
		if left, err := fs.List("state"); err == nil && len(left) > 0 {
			t.Errorf("room %d: left behind: %v", room, left)
		}
		fs.room.Store(1 << 30) // somebody has made room
		s := openStore(t, b, "task")
		var batch statebackend.Batch
		batch.Set([]byte("k"), []byte("v"))
		if err := s.Commit(&batch); err != nil {
			t.Errorf("room %d: after there was room again: %v", room, err)
		}
		closeAll(t, s, b)
	}
}
