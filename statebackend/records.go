package statebackend

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"

	"github.com/klauspost/compress/s2"

	"github.com/lintelrun/lintel/internal/fault"
)

// This file is a format: docs/format/snapshot.md. What version 1 means it means for good.

const (
	fileMagic   = "LNTLSTA"
	fileVersion = 1

	fileSorted  = 1 // records in the order of their keys
	fileChanges = 2 // changes in the order of their commits

	headBytes  = len(fileMagic) + 2
	frameBytes = 12

	// blockBytes is what a block has before it is compressed; its last record may go beyond.
	blockBytes = 64 << 10
	// largestPacked is up to how large blocks are compressed: what a reader makes room for by a length.
	largestPacked = 16 << 20
	// largestBlock is the most that a block has; its lengths are 32 bits.
	largestBlock = 1<<32 - 1
	// fileBytes is about how large files of records become: as much is in memory as they are written.
	fileBytes = 16 << 20
)

// The kinds of changes in files.
const (
	codeSet = iota + 1
	codeAppend
	codeDelete
	codeDeleteRange
	codeDeleteFrom
)

// fileEncoder makes a file.
type fileEncoder struct {
	out    []byte
	blocks uint64
}

func newFileEncoder(kind byte) *fileEncoder {
	return &fileEncoder{out: append([]byte(fileMagic), fileVersion, kind)}
}

// block appends a block, which is not empty.
func (e *fileEncoder) block(raw []byte) {
	head := len(e.out)
	e.out = append(e.out, make([]byte, frameBytes)...)
	if n := s2.MaxEncodedLen(len(raw)); n >= 0 && len(raw) <= largestPacked {
		e.out = append(e.out, make([]byte, n)...)
		e.out = e.out[:head+frameBytes+len(s2.Encode(e.out[head+frameBytes:], raw))]
	}
	if packed := len(e.out) - head - frameBytes; packed == 0 || packed >= len(raw) {
		e.out = append(e.out[:head+frameBytes], raw...)
	}
	binary.LittleEndian.PutUint32(e.out[head:], uint32(len(e.out)-head-frameBytes))
	binary.LittleEndian.PutUint32(e.out[head+4:], uint32(len(raw)))
	e.seal(head)
}

// seal puts in the checksum of the block whose frame is at head.
func (e *fileEncoder) seal(head int) {
	binary.LittleEndian.PutUint32(e.out[head+8:], blockSum(e.blocks, e.out[head:head+8], e.out[head+frameBytes:]))
	e.blocks++
}

// end ends the file and returns all of it.
func (e *fileEncoder) end() []byte {
	head := len(e.out)
	e.out = append(e.out, make([]byte, frameBytes)...)
	e.seal(head)
	return e.out
}

func blockSum(number uint64, lengths, stored []byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], number)
	copy(b[8:], lengths)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, stored)
}

// fileOf describes a whole file.
func fileOf(name string, content []byte) File {
	return File{Name: name, Size: int64(len(content)), CRC32C: crc32.Checksum(content, castagnoli)}
}

// Decoder takes a file of form Records apart: what is in it as changes, in order. Errors are of class
// fault.Corruption, unless they are the reader's.
type Decoder struct {
	r      io.Reader
	sorted bool
	number uint64 // of blocks
	stored bytes.Buffer
	raw    []byte
	rest   []byte // of raw
	key    []byte // the last one of a sorted file
	first  bool   // none has been read of this block
	err    error
}

// NewDecoder reads the beginning of a file.
func NewDecoder(r io.Reader) (*Decoder, error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, short(err, "it ends within its first bytes")
	}
	if string(head[:len(fileMagic)]) != fileMagic {
		return nil, corruptFile("it begins with %q, not %s", head[:len(fileMagic)], fileMagic)
	}
	if v := head[len(fileMagic)]; v != fileVersion {
		return nil, corruptFile("it is of version %d; this build reads version %d", v, fileVersion)
	}
	kind := head[len(fileMagic)+1]
	if kind != fileSorted && kind != fileChanges {
		return nil, corruptFile("it is of kind %d, which is unknown", kind)
	}
	return &Decoder{r: r, sorted: kind == fileSorted}, nil
}

// Sorted tells whether all changes are of kind Set, their keys in ascending order, each once.
func (d *Decoder) Sorted() bool { return d.sorted }

// Next returns the next change, whose bytes are valid until the next call; io.EOF after the last.
func (d *Decoder) Next() (Change, error) {
	for d.err == nil && len(d.rest) == 0 {
		d.err = d.block()
	}
	if d.err != nil {
		return Change{}, d.err
	}
	in := decoder{rest: d.rest}
	var c Change
	if d.sorted {
		c = d.record(&in)
	} else {
		c = in.change()
	}
	if in.bad || len(c.Key) == 0 && c.Kind != DeleteRange {
		d.err = corruptFile("block %d doesn't decode", d.number-1)
		return Change{}, d.err
	}
	d.rest, d.first = in.rest, false
	return c, nil
}

// block reads the next block.
func (d *Decoder) block() error {
	var head [frameBytes]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return short(err, "it breaks off at block %d", d.number)
	}
	stored, raw := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	d.stored.Reset()
	if _, err := io.CopyN(&d.stored, d.r, int64(stored)); err != nil {
		return short(err, "it breaks off in block %d", d.number)
	}
	if got, want := blockSum(d.number, head[:8], d.stored.Bytes()), binary.LittleEndian.Uint32(head[8:]); got != want {
		return corruptFile("block %d has checksum %08x, not %08x: it is damaged", d.number, got, want)
	}
	d.number++
	switch {
	case stored == 0 && raw == 0:
		if n, err := d.r.Read(head[:1]); n > 0 || err != io.EOF {
			return short(err, "there is something behind its end")
		}
		return io.EOF
	case stored == raw:
		d.rest = d.stored.Bytes()
	case raw > largestPacked:
		return corruptFile("block %d has %d bytes, packed", d.number-1, raw)
	default:
		if n, err := s2.DecodedLen(d.stored.Bytes()); err != nil || n != int(raw) {
			return corruptFile("block %d has not the %d bytes that it says", d.number-1, raw)
		}
		var err error
		if d.raw, err = s2.Decode(d.raw[:cap(d.raw)], d.stored.Bytes()); err != nil {
			return corruptFile("block %d: %w", d.number-1, err)
		}
		d.rest = d.raw
	}
	d.first = true
	return nil
}

// record takes off a record of a sorted file.
func (d *Decoder) record(in *decoder) Change {
	shared, own, value := in.length(), in.length(), in.length()
	if shared > len(d.key) || d.first && shared > 0 {
		in.bad = true
		return Change{}
	}
	suffix := in.take(own)
	// In order: what follows the part that is shared is above what the last key has there.
	if in.bad || bytes.Compare(suffix, d.key[shared:]) <= 0 {
		in.bad = true
		return Change{}
	}
	d.key = append(d.key[:shared], suffix...)
	c := Change{Kind: Set, Key: d.key, Value: in.take(value)}
	return c
}

func (d *decoder) length() int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > largestBlock {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

// change takes off a change.
func (d *decoder) change() Change {
	code, key, value := d.byte(), d.length(), d.length()
	c := Change{Key: d.take(key), Value: d.take(value)}
	switch code {
	case codeSet:
	case codeAppend:
		c.Kind = Append
	case codeDelete:
		c.Kind = Delete
	case codeDeleteRange:
		c.Kind = DeleteRange
	case codeDeleteFrom:
		c.Kind, c.Value = DeleteRange, nil
		d.bad = d.bad || value > 0
	default:
		d.bad = true
	}
	d.bad = d.bad || c.Kind == Delete && value > 0
	return c
}

// appendChange appends a change as files have it.
func appendChange(dst []byte, c *Change) []byte {
	code := byte(codeSet)
	switch {
	case c.Kind == Append:
		code = codeAppend
	case c.Kind == Delete:
		code = codeDelete
	case c.Kind == DeleteRange && c.Value == nil:
		code = codeDeleteFrom
	case c.Kind == DeleteRange:
		code = codeDeleteRange
	}
	dst = binary.AppendUvarint(append(dst, code), uint64(len(c.Key)))
	dst = binary.AppendUvarint(dst, uint64(len(c.Value)))
	return append(append(dst, c.Key...), c.Value...)
}

func corruptFile(format string, args ...any) error {
	return fault.New(fault.Corruption, "statebackend: a file of state is not usable: "+format, args...)
}

// short says that a file ends too early, if err says so.
func short(err error, format string, args ...any) error {
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		return corruptFile(format, args...)
	}
	return err
}

// NewFileID returns what the names of files begin with that one image or store makes, and of no others.
func NewFileID() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

// RecordsImage takes an image of form Records that depends on no other: what a savepoint has. While it is
// open a snapshot of the store is.
func RecordsImage(s Store) (Image, error) {
	pinned, err := s.Snapshot()
	if err != nil {
		return nil, err
	}
	return &recordsImage{pinned, NewFileID()}, nil
}

type recordsImage struct {
	pinned Snapshot
	name   string
}

// Form implements Image.
func (m *recordsImage) Form() Form { return Records }

// Close implements Image.
func (m *recordsImage) Close() error { return m.pinned.Close() }

// Write implements Image.
func (m *recordsImage) Write(ctx context.Context, put func(File, io.ReadSeeker) error) error {
	w := recordsWriter{ctx: ctx, name: m.name, put: put}
	var failed error
	err := m.pinned.Scan(nil, nil, func(key, value []byte) bool {
		failed = w.add(key, value)
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		err = w.cut()
	}
	return err
}

// recordsWriter makes sorted files of records.
type recordsWriter struct {
	ctx   context.Context
	name  string
	put   func(File, io.ReadSeeker) error
	files int
	file  *fileEncoder // nil while it would be empty
	block []byte
	first []byte // key of the file
	key   []byte // the last
}

func (w *recordsWriter) add(key, value []byte) error {
	if w.file == nil {
		w.file = newFileEncoder(fileSorted)
		w.first, w.key = append(w.first[:0], key...), w.key[:0]
	}
	shared := 0
	if len(w.block) > 0 {
		for shared < len(key) && shared < len(w.key) && key[shared] == w.key[shared] {
			shared++
		}
	}
	w.key = append(w.key[:shared], key[shared:]...)
	w.block = binary.AppendUvarint(w.block, uint64(shared))
	w.block = binary.AppendUvarint(w.block, uint64(len(key)-shared))
	w.block = binary.AppendUvarint(w.block, uint64(len(value)))
	w.block = append(append(w.block, key[shared:]...), value...)
	if len(w.block) < blockBytes {
		return nil
	}
	if err := w.flush(); err != nil || len(w.file.out) < fileBytes {
		return err
	}
	return w.cut()
}

func (w *recordsWriter) flush() error {
	if len(w.block) > largestBlock {
		return fault.New(fault.Unsupported, "statebackend: a record of %d bytes; %d are the most that an image has", len(w.block), largestBlock)
	}
	if len(w.block) > 0 {
		w.file.block(w.block)
	}
	w.block = w.block[:0]
	return w.ctx.Err()
}

// cut ends a file, if there is one.
func (w *recordsWriter) cut() error {
	if w.file == nil {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	content := w.file.end()
	f := fileOf(fmt.Sprintf("%s-%d.records", w.name, w.files), content)
	f.FirstGroup, f.EndGroup = groupsOf(w.first, w.key)
	w.files++
	w.file = nil
	return w.put(f, bytes.NewReader(content))
}

// groupsOf returns the key groups between two keys; none if there may be records of none.
func groupsOf(first, last []byte) (from, end int) {
	if len(first) < 3 || len(last) < 3 || first[0] != layoutKeyed || last[0] != layoutKeyed {
		return 0, 0
	}
	return int(binary.BigEndian.Uint16(first[1:])), int(binary.BigEndian.Uint16(last[1:])) + 1
}
