package filerecords

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice"
)

// magic begins every file; its last byte is the version of the format.
const (
	magic   = "LNTLJOB"
	version = 1
)

// kind tells what a frame holds.
type kind byte

const (
	kindHeader   kind = 1 // who the job is
	kindOptions  kind = 2 // google.protobuf.Struct
	kindPipeline kind = 3 // org.apache.beam.model.pipeline.v1.Pipeline
	kindEvent    kind = 4
	kindMetrics  kind = 5 // org.apache.beam.model.job_management.v1.MetricResults
	kindToken    kind = 6 // by which harnesses ask for what was staged
	kindStaged   kind = 7 // org.apache.beam.model.pipeline.v1.Components: environments with dependencies only
	kindBlob     kind = 8 // SHA-256 of a staged file, in hex
	// kindCheckpoint is one that is complete or failed.
	kindCheckpoint kind = 9
	// kindReplaces is whose place a job takes, and from which savepoint.
	kindReplaces kind = 10
)

const (
	frameHead = 9 // length, checksum, kind
	maxFrame  = math.MaxInt32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// errTorn is the end of a file whose last write did not complete.
	errTorn = errors.New("the file breaks off")
	// errDamaged is what else a frame can have.
	errDamaged = fault.New(fault.Corruption, "checksum mismatch")
)

func appendMagic(b []byte) []byte { return append(append(b, magic...), version) }

// checkMagic reads the beginning of a file.
func checkMagic(r io.Reader) error {
	var b [len(magic) + 1]byte
	if n, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if strings.HasPrefix(magic, string(b[:min(n, len(magic))])) {
			return errTorn
		}
	} else if err != nil {
		return err
	}
	if string(b[:len(magic)]) != magic || b[len(magic)] == 0 {
		return fault.New(fault.Corruption, "the file isn't a job record")
	}
	if b[len(magic)] != version {
		return fault.New(fault.Unsupported, "the file has version %d of the format, and this release knows version %d only: use the release that wrote it", b[len(magic)], version)
	}
	return nil
}

func appendFrame(b []byte, k kind, payload []byte) ([]byte, error) {
	if len(payload) > maxFrame {
		return nil, fmt.Errorf("%d bytes are too many for a record", len(payload))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, checksum(k, payload))
	return append(append(b, byte(k)), payload...), nil
}

func checksum(k kind, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{byte(k)}, castagnoli), castagnoli, payload)
}

// frames reads a file's frames one by one.
type frames struct {
	r    io.Reader
	left int64 // bytes that the file has after pos
	pos  int64 // where the next frame begins
}

// newFrames checks the beginning of a file of the given size. The error is
// errTorn if there isn't more than a part of it.
func newFrames(r io.Reader, size int64) (*frames, error) {
	if err := checkMagic(r); err != nil {
		return nil, err
	}
	const begin = int64(len(magic) + 1)
	return &frames{r: r, pos: begin, left: size - begin}, nil
}

// next returns a frame; the error is io.EOF after the last one, errTorn where
// the file breaks off, and of class fault.Corruption where it is damaged.
func (f *frames) next() (kind, []byte, error) {
	if f.left <= 0 {
		return 0, nil, io.EOF
	}
	if f.left < frameHead {
		return 0, nil, errTorn
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, f.cut(err)
	}
	n := int64(binary.LittleEndian.Uint32(head[:]))
	if n > f.left-frameHead {
		return 0, nil, errTorn
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(f.r, payload); err != nil {
		return 0, nil, f.cut(err)
	}
	k := kind(head[frameHead-1])
	if checksum(k, payload) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, f.classify(head[:])
	}
	f.pos += frameHead + n
	f.left -= frameHead + n
	return k, payload, nil
}

// each hands on what is in the frames of a file to which they are appended, all of one kind, and returns where those
// end that are whole and were taken. That the file breaks off is no error.
func (f *frames) each(of kind, where string, take func(payload []byte) error) (length int64, err error) {
	for {
		at := f.pos
		k, payload, err := f.next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, errTorn):
			return at, nil
		case err != nil:
			return at, err
		case k != of:
			return at, fault.New(fault.Corruption, "at byte %d: a frame of kind %d %s", at, k, where)
		}
		if err := take(payload); err != nil {
			return at, fmt.Errorf("at byte %d: %w", at, err)
		}
	}
}

// cut makes a file that is shorter than it said it was a torn one.
func (f *frames) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// classify tells a frame that was never written in full from a damaged one: what
// a crash leaves is the last frame, or nothing but zeros.
func (f *frames) classify(head []byte) error {
	n := int64(binary.LittleEndian.Uint32(head))
	if n == f.left-frameHead {
		return errTorn
	}
	if !bytes.Equal(head, make([]byte, frameHead)) {
		return fmt.Errorf("at byte %d: %w", f.pos, errDamaged)
	}
	buf := make([]byte, 4096)
	for {
		n, err := f.r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return fmt.Errorf("at byte %d: %w", f.pos, errDamaged)
		}
		if errors.Is(err, io.EOF) {
			return errTorn
		}
		if err != nil {
			return err
		}
	}
}

const (
	flagHarness = 1 << iota
	flagFailure
	allFlags = flagHarness | flagFailure
)

func appendEvent(b []byte, e jobservice.Event) []byte {
	var flags byte
	if e.Harness {
		flags |= flagHarness
	}
	if e.Failure {
		flags |= flagFailure
	}
	b = binary.AppendUvarint(b, uint64(e.Seq))
	b = binary.AppendVarint(b, e.Time.UnixNano())
	b = binary.AppendUvarint(b, uint64(e.State))
	b = binary.AppendVarint(b, int64(e.Level))
	return append(append(b, flags), e.Text...)
}

var errEvent = fault.New(fault.Corruption, "not an event")

func parseEvent(b []byte) (e jobservice.Event, err error) {
	p := parser{b: b}
	seq, at, state, level, flags := p.uvarint(), p.varint(), p.uvarint(), p.varint(), p.byte()
	_, known := jobpb.JobState_Enum_name[int32(min(state, math.MaxInt32))]
	if p.failed || seq == 0 || seq > math.MaxInt64 || !known || level != int64(int(level)) || flags&^allFlags != 0 {
		return e, errEvent
	}
	return jobservice.Event{
		Seq: int64(seq), Time: time.Unix(0, at).UTC(), State: jobservice.State(state), Level: slog.Level(level),
		Harness: flags&flagHarness != 0, Failure: flags&flagFailure != 0, Text: strings.ToValidUTF8(string(p.b), "\uFFFD"),
	}, nil
}

// header is what a record's first frame says.
type header struct {
	id, name string
	prepared time.Time
	size     int // bytes of pipeline and options
}

func appendHeader(b []byte, h header) []byte {
	b = binary.AppendVarint(b, h.prepared.UnixNano())
	b = binary.AppendUvarint(b, uint64(h.size))
	b = binary.AppendUvarint(b, uint64(len(h.id)))
	return append(append(b, h.id...), h.name...)
}

var errHeader = fault.New(fault.Corruption, "not the header of a record")

func parseHeader(b []byte) (h header, err error) {
	p := parser{b: b}
	at, size, idLen := p.varint(), p.uvarint(), p.uvarint()
	if p.failed || size > math.MaxInt32 || idLen > uint64(len(p.b)) {
		return h, errHeader
	}
	return header{
		id: string(p.b[:idLen]), name: strings.ToValidUTF8(string(p.b[idLen:]), "\uFFFD"),
		prepared: time.Unix(0, at).UTC(), size: int(size),
	}, nil
}

// parser takes values off the front of b.
type parser struct {
	b      []byte
	failed bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	p.skip(n)
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.b)
	p.skip(n)
	return v
}

func (p *parser) byte() byte {
	if len(p.b) == 0 {
		p.failed = true
		return 0
	}
	v := p.b[0]
	p.b = p.b[1:]
	return v
}

func (p *parser) skip(n int) {
	if n <= 0 {
		p.failed, p.b = true, nil
		return
	}
	p.b = p.b[n:]
}
