package checkpointing

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

// summer counts and sums what is written to it.
type summer struct {
	hash.Hash32
	size int64
}

func newSummer() *summer { return &summer{Hash32: crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

func (s *summer) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	return s.Hash32.Write(p)
}

// rewind goes to the beginning of content, and sums all of it before if sum is not nil.
func rewind(content io.ReadSeeker, sum *summer) error {
	_, err := content.Seek(0, io.SeekStart)
	if err == nil && sum != nil {
		if _, err = io.Copy(sum, content); err == nil {
			_, err = content.Seek(0, io.SeekStart)
		}
	}
	if err != nil {
		return fmt.Errorf("checkpointing: reading what is to be uploaded: %w", err)
	}
	return nil
}

// openFile opens a file to read it whole.
func openFile(ctx context.Context, s Store, f protocol.File) (io.ReadCloser, error) {
	in, err := s.Open(ctx, f.Name())
	if errors.Is(err, ErrAbsent) {
		return nil, fault.New(fault.Corruption, "checkpointing: file %s is missing: %w", f.Name(), err)
	}
	if err != nil {
		return nil, err
	}
	return &checked{in, newSummer(), f}, nil
}

// checked is a file that is checked as it is read.
type checked struct {
	in   io.ReadCloser
	sum  *summer
	file protocol.File
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	_, _ = c.sum.Write(p[:n]) // it has no errors
	switch f := &c.file; {
	case err != nil && err != io.EOF:
	case c.sum.size > f.Size || err == io.EOF && c.sum.size < f.Size:
		err = fault.New(fault.Corruption, "checkpointing: file %s has %d bytes at least, not %d", f.Name(), c.sum.size, f.Size)
	case err == io.EOF && c.sum.Sum32() != f.CRC32C:
		err = fault.New(fault.Corruption, "checkpointing: file %s has checksum %08x, not %08x: it is damaged", f.Name(), c.sum.Sum32(), f.CRC32C)
	}
	return n, err
}

func (c *checked) Close() error { return c.in.Close() }

// check reads a file to its end.
func check(ctx context.Context, s Store, f protocol.File) error {
	in, err := openFile(ctx, s, f)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, in.Close())
}
