package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dataLock keeps a data directory for one process. The kernel gives it up when the
// process ends, however it does.
type dataLock struct{ file *os.File }

// lockData creates dir if need be and locks it.
func lockData(dir string) (*dataLock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock of the data directory %s: %w", dir, err)
		}
		return nil, fmt.Errorf("the data directory %s is in use by process %s; stop that, or choose another directory by --data-dir",
			dir, holder(f))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock of the data directory %s: %w", dir, err)
	}
	return &dataLock{f}, nil
}

// holder is the id that the process with the lock has left in its file.
func holder(f io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(f, 20))
	return cmp.Or(strings.TrimSpace(string(b)), "unknown (it starts at this moment)")
}

// release gives the directory up. The file stays: removing it would let two
// processes lock two files of one name.
func (l *dataLock) release() error { return l.file.Close() }
