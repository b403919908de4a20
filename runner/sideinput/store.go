package sideinput

import (
	"bufio"
	"errors"
	"io"
	"os"

	"github.com/lintelrun/lintel/internal/spillfile"
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
	return spillfile.Error(s.dir, "writing", err)
}

// spill moves what is in memory to a file.
func (s *store) spill() error {
	f, err := spillfile.Create(s.dir)
	if err != nil {
		return err
	}
	s.file, s.out = f, bufio.NewWriterSize(f, 256<<10)
	_, err = s.out.Write(s.memory)
	s.memory = nil
	return spillfile.Error(s.dir, "writing", err)
}

func (s *store) finish() error {
	if s.file == nil {
		return nil
	}
	err := s.out.Flush()
	s.out = nil
	return spillfile.Error(s.dir, "writing", err)
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
	return dst, spillfile.Error(s.dir, "reading", err)
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
