package grouping

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// Values holds the values of a table's large groups: those that leave it as state-backed
// iterables, with a token in place of the values. They stay where they are if that is
// memory, as part of the table's budget, and go to a file otherwise. Values
// outlives its table. It is safe for concurrent use, also with that of the table.
type Values struct {
	prefix []byte
	value  *coders.Coder
	seed   maphash.Seed // of what tells our tokens from others

	mu     sync.RWMutex // protects what follows from Close
	memory *spillmap.Retained
	file   *valueFile
	closed bool
}

func newValues(cfg *Config) *Values {
	return &Values{
		prefix: cfg.TokenPrefix,
		value:  cfg.Input.Element().Components()[1],
		seed:   maphash.MakeSeed(),
		file:   &valueFile{dir: cfg.Dir},
	}
}

// Read returns a page of the values that token stands for, concatenated in nested encoding,
// and the continuation that the page after it is asked for with, empty after the last. A page
// is the whole values in maxBytes, or in as much more as one of them takes. A token or continuation that Values
// did not make is a fault.Invalid. The bytes belong to the caller.
func (v *Values) Read(token, continuation []byte, maxBytes int) (data, next []byte, err error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.closed {
		return nil, nil, fault.New(fault.Invalid, "grouping: the values of a group are read after the end of all stages that read it")
	}
	at, ok := v.parse(token)
	if ok && len(continuation) > 0 {
		ok = v.resume(&at, token, continuation)
	}
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "grouping: %.64x, continued by %.32x, is no token of a group's values", token, continuation)
	}
	for n := int64(max(maxBytes, 1)); ; n *= 2 {
		last := n >= at.left
		if data, err = v.read(at, min(n, at.left)); err != nil || last {
			return data, nil, err
		}
		whole, err := v.value.SkipAll(data)
		if err != nil {
			return nil, nil, cutError(err, 0)
		}
		if whole > 0 {
			return data[:whole:whole], v.continuation(token, v.advance(at, whole)), nil
		}
	}
}

// position is a place among the values of a group.
type position struct {
	place spillmap.Place // in memory; zero for the file
	off   int64          // in the file
	left  int64          // bytes from here on
}

func (v *Values) read(at position, n int64) ([]byte, error) {
	if at.place != 0 {
		return v.memory.Append(make([]byte, 0, n), at.place, int(n)), nil
	}
	return v.file.read(at.off, n)
}

func (v *Values) advance(at position, n int) position {
	if at.place != 0 {
		at.place = v.memory.Advance(at.place, n)
	} else {
		at.off += int64(n)
	}
	at.left -= int64(n)
	return at
}

// A token is the table's prefix and what appendPosition appends of where the values begin.
// A continuation is what it appends of where the next page begins.
//
//	place, uvarint | offset, uvarint | bytes left, uvarint | checksum, uint64
//
// The checksum covers all before it, and of a continuation the token, by a secret seed.

func (v *Values) appendToken(dst []byte, at position) []byte {
	start := len(dst)
	dst = append(dst, v.prefix...)
	return v.appendPosition(dst, start, nil, at)
}

func (v *Values) continuation(token []byte, at position) []byte {
	return v.appendPosition(nil, 0, token, at)
}

func (v *Values) appendPosition(dst []byte, start int, token []byte, at position) []byte {
	dst = binary.AppendUvarint(dst, uint64(at.place))
	dst = binary.AppendUvarint(dst, uint64(at.off))
	dst = binary.AppendUvarint(dst, uint64(at.left))
	return binary.LittleEndian.AppendUint64(dst, v.checksum(token, dst[start:]))
}

func (v *Values) checksum(token, b []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(v.seed)
	h.Write(token)
	h.WriteByte(byte(min(len(token), 1))) // a token is no continuation
	h.Write(b)
	return h.Sum64()
}

func (v *Values) parse(token []byte) (position, bool) {
	if len(token) < len(v.prefix) || string(token[:len(v.prefix)]) != string(v.prefix) {
		return position{}, false
	}
	return v.parsePosition(nil, token, len(v.prefix))
}

// resume moves at, the position of token, to that of a continuation.
func (v *Values) resume(at *position, token, continuation []byte) bool {
	next, ok := v.parsePosition(token, continuation, 0)
	*at = next
	return ok
}

func (v *Values) parsePosition(token, b []byte, skip int) (position, bool) {
	end := len(b) - 8
	if end < skip || binary.LittleEndian.Uint64(b[end:]) != v.checksum(token, b[:end]) {
		return position{}, false
	}
	var fields [3]uint64
	rest := b[skip:end]
	for i := range fields {
		var n int
		if fields[i], n = binary.Uvarint(rest); n <= 0 {
			return position{}, false
		}
		rest = rest[n:]
	}
	return position{spillmap.Place(fields[0]), int64(fields[1]), int64(fields[2])}, len(rest) == 0
}

// Close frees memory and file. Reads under way end before; later ones are errors. It may be called again.
func (v *Values) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.memory, v.closed = nil, true
	return v.file.close()
}
