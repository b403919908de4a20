package grouping

import (
	"errors"
	"io"
	"os"

	"github.com/lintelrun/lintel/internal/spillfile"
)

// writeSize is how many bytes are written to a file of values at a time.
const writeSize = 256 << 10

// valueFile is an append-only file without a name, made when it is first written. One
// goroutine appends; what was flushed may be read by many.
type valueFile struct {
	dir    string
	file   *os.File
	buffer []byte // at the end of the file, not yet written
	size   int64
}

func (f *valueFile) append(b []byte) error {
	f.size += int64(len(b))
	for len(b) > 0 {
		if f.buffer == nil {
			f.buffer = make([]byte, 0, writeSize)
		}
		n := min(len(b), cap(f.buffer)-len(f.buffer))
		f.buffer = append(f.buffer, b[:n]...)
		b = b[n:]
		if len(f.buffer) == cap(f.buffer) {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush makes all that was appended readable.
func (f *valueFile) flush() error {
	if len(f.buffer) == 0 {
		return nil
	}
	if f.file == nil {
		if err := f.create(); err != nil {
			return err
		}
	}
	_, err := f.file.Write(f.buffer)
	f.buffer = f.buffer[:0]
	return spillfile.Error(f.dir, "writing", err)
}

func (f *valueFile) create() error {
	file, err := spillfile.Create(f.dir)
	f.file = file
	return err
}

func (f *valueFile) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(f.file, off, n), b)
	return b, spillfile.Error(f.dir, "reading", err)
}

func (f *valueFile) close() error {
	f.buffer = nil
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
