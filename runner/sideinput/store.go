package sideinput

import (
	"bufio"
	"errors"
	"io"
	"os"

	"github.com/lintelrun/lintel/internal/fault"
)

// store holds bytes one after the other, in memory up to a limit and past it in a file
// that has no name any more. Once finished it may be read concurrently.
type store struct {
	size   int64
	limit  int64
	dir    string
	memory []byte
	file   *os.File
	out    *bufio.Writer
}

func (s *store) append(p []byte) error {
	if s.file == nil && s.size+int64(len(p)) > s.limit {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.size += int64(len(p))
	if s.file == nil {
		s.memory = append(s.memory, p...)
		return nil
	}
	_, err := s.out.Write(p)
	return s.wrap("writing", err)
}

// spill moves what is in memory to a file.
func (s *store) spill() error {
	f, err := os.CreateTemp(s.dir, "lintel-*.side")
	if err != nil {
		return fault.New(fault.Retryable, "side input: creating a file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return errors.Join(fault.New(fault.Retryable, "side input: unlinking a file: %w", err), f.Close())
	}
	s.file, s.out = f, bufio.NewWriterSize(f, 256<<10)
	_, err = s.out.Write(s.memory)
	s.memory = nil
	return s.wrap("writing", err)
}

func (s *store) finish() error {
	if s.file == nil {
		return nil
	}
	err := s.out.Flush()
	s.out = nil
	return s.wrap("writing", err)
}

// read returns n bytes from offset off, both within what was appended. They must
// not be changed.
func (s *store) read(off, n int64) ([]byte, error) {
	if s.file == nil {
		return s.memory[off : off+n : off+n], nil
	}
	return s.appendTo(nil, off, n)
}

// appendTo appends n bytes from offset off to dst.
func (s *store) appendTo(dst []byte, off, n int64) ([]byte, error) {
	if s.file == nil {
		return append(dst, s.memory[off:off+n]...), nil
	}
	start := len(dst)
	dst = append(dst, make([]byte, n)...)
	_, err := io.ReadFull(io.NewSectionReader(s.file, off, n), dst[start:])
	return dst, s.wrap("reading", err)
}

func (s *store) wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Retryable, "side input: %s %s: %w", doing, s.file.Name(), err)
}

func (s *store) close() error {
	s.memory = nil
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
