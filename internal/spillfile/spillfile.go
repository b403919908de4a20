// Package spillfile makes the files that data goes to for want of memory, and explains what
// goes wrong with them.
package spillfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/lintelrun/lintel/internal/fault"
)

// Create makes an empty file in dir that has no name any more, so that nothing of it is left
// whatever happens. The caller closes it. Errors are as of Error.
func Create(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "lintel-spill-")
	if err != nil {
		return nil, Error(dir, "creating", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(Error(dir, "unlinking", err), f.Close())
	}
	return f, nil
}

// Copy makes such a file with all that r has. The caller closes it. Errors of the file are as of Error, those of r as they come.
func Copy(dir string, r io.Reader) (*os.File, error) {
	f, err := Create(dir)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(explained{f, dir}, r); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// explained writes to a file in dir.
type explained struct {
	w   io.Writer
	dir string
}

func (e explained) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	return n, Error(e.dir, "writing", err)
}

// Error explains err, met when doing something to a file for spilled data in dir: class
// Retryable, and of a full disk it says what to do. A nil err stays nil.
func Error(dir, doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s a file for spilled data in %s: %w", doing, dir, err)
	if Full(err) {
		err = fmt.Errorf("the disk is full; free some space, let --data-dir name another disk, or spill less by a larger --memory-budget: %w", err)
	}
	return fault.Wrap(fault.Retryable, err)
}

// Full reports whether err says that a disk, a quota or a file may not grow any more.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
