package spillmap

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/s2"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
)

// run is a complete run on disk.
type run struct {
	path string
	size int64 // bytes
}

// writeRun writes all of a source, which is ordered, to a new file in dir.
// Where it fails it leaves no file.
func writeRun(dir string, src source) (_ run, err error) {
	f, err := os.CreateTemp(dir, "lintel-*.run")
	if err != nil {
		return run{}, spillfile.Error(dir, "creating", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	w := runWriter{f: f}
	if err := w.writeAll(src); err != nil {
		return run{}, err
	}
	return run{f.Name(), w.written}, nil
}

type runWriter struct {
	f       *os.File
	raw     []byte
	packed  []byte
	blocks  uint64
	written int64
}

func (w *runWriter) writeAll(src source) error {
	if err := w.write(append([]byte(magic), version)); err != nil {
		return err
	}
	for {
		if err := src.next(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		r := src.record()
		w.raw = appendRecord(w.raw, r, r.continued && len(w.raw) > 0)
		if len(w.raw) >= blockSize {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	if len(w.raw) > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.flush() // an empty block is the end
}

func (w *runWriter) flush() error {
	w.packed = append(w.packed[:0], make([]byte, blockHeader)...)
	if n := len(w.raw); n > 0 && n <= maxPacked {
		size := blockHeader + s2.MaxEncodedLen(n)
		if cap(w.packed) < size {
			w.packed = make([]byte, size)
		}
		w.packed = w.packed[:size]
		w.packed = w.packed[:blockHeader+len(s2.Encode(w.packed[blockHeader:], w.raw))]
	}
	if len(w.raw) > maxPacked || len(w.packed)-blockHeader >= len(w.raw) {
		w.packed = append(w.packed[:blockHeader], w.raw...)
	}
	putBlockHeader(w.packed, w.blocks, len(w.raw))
	w.blocks++
	w.raw = w.raw[:0]
	return w.write(w.packed)
}

func (w *runWriter) write(b []byte) error {
	n, err := w.f.Write(b)
	w.written += int64(n)
	if err != nil {
		return spillfile.Error(filepath.Dir(w.f.Name()), "writing", err)
	}
	return nil
}

// runReader is the source of a run. It holds one block.
type runReader struct {
	name   string
	in     io.Reader
	remain int64 // bytes of the file that were not read
	stored *[]byte
	raw    []byte
	rest   []byte // of raw, not parsed
	blocks uint64
	ended  bool
	rec    record
	close  func() error
}

// openRun opens a run for reading. Readers of one merge share stored, a buffer for
// packed blocks. The caller closes the reader.
func openRun(r run, stored *[]byte) (*runReader, error) {
	f, err := os.Open(r.path)
	if err != nil {
		return nil, fault.New(fault.Retryable, "spilling: opening a run: %w", err)
	}
	reader := &runReader{name: r.path, in: f, remain: r.size, stored: stored, close: f.Close}
	if err := reader.readFileHeader(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return reader, nil
}

func (r *runReader) record() *record { return &r.rec }

func (r *runReader) next() error {
	if len(r.rest) == 0 {
		if r.ended {
			return io.EOF
		}
		if err := r.readBlock(); err != nil {
			return err
		}
		if r.ended {
			return io.EOF
		}
	}
	first := len(r.rest) == len(r.raw)
	n, ok := parseRecord(r.rest, &r.rec)
	if !ok || first && r.rec.continued {
		return r.corrupt("block %d has a malformed record at byte %d", r.blocks-1, len(r.raw)-len(r.rest))
	}
	r.rest = r.rest[n:]
	return nil
}

func (r *runReader) readFileHeader() error {
	var header [fileHeader]byte
	if err := r.read(header[:]); err != nil {
		return err
	}
	if string(header[:len(magic)]) != magic {
		return r.corrupt("it does not begin with %q", magic)
	}
	if v := header[len(magic)]; v != version {
		return r.corrupt("its format version is %d, not %d", v, version)
	}
	return nil
}

func (r *runReader) readBlock() error {
	var header [blockHeader]byte
	if err := r.read(header[:]); err != nil {
		return err
	}
	storedLen := binary.LittleEndian.Uint32(header[:])
	rawLen := binary.LittleEndian.Uint32(header[4:])
	packed := storedLen != rawLen
	if int64(storedLen) > r.remain || packed && rawLen > maxPacked {
		return r.corrupt("block %d says it has %d bytes, %d unpacked, with %d left in the file", r.blocks, storedLen, rawLen, r.remain)
	}
	in := &r.raw
	if packed {
		in = r.stored
	}
	*in = sized(*in, int(storedLen))
	stored := *in
	if err := r.read(stored); err != nil {
		return err
	}
	if blockChecksum(r.blocks, header[:8], stored) != binary.LittleEndian.Uint32(header[8:]) {
		return r.corrupt("block %d has a wrong checksum", r.blocks)
	}
	r.blocks++
	if storedLen == 0 {
		if r.remain != 0 {
			return r.corrupt("%d bytes follow its end", r.remain)
		}
		r.ended = true
		r.raw = nil
		return nil
	}
	if packed {
		if n, err := s2.DecodedLen(stored); err != nil || n != int(rawLen) {
			return r.corrupt("block %d does not unpack to the %d bytes it says", r.blocks-1, rawLen)
		}
		var err error
		r.raw = sized(r.raw, int(rawLen))
		if r.raw, err = s2.Decode(r.raw, stored); err != nil {
			return r.corrupt("block %d does not unpack: %w", r.blocks-1, err)
		}
	}
	r.rest = r.raw
	return nil
}

func (r *runReader) read(b []byte) error {
	n, err := io.ReadFull(r.in, b)
	r.remain -= int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return r.corrupt("it ends too early")
	}
	if err != nil {
		return fault.New(fault.Retryable, "spilling: reading a run: %w", err)
	}
	return nil
}

func (r *runReader) corrupt(format string, args ...any) error {
	return fault.New(fault.Corruption, "spilling: run %s is corrupt: %w", r.name, fault.New(fault.Corruption, format, args...))
}

// sized returns b with length n and undefined contents.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
