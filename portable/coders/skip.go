package coders

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
)

// maxLength bounds stated lengths in bytes: no SDK writes longer values.
const maxLength = math.MaxInt32

// skip returns the index after the value at b[i:].
func (c *Coder) skip(b []byte, i int) (int, error) {
	switch c.op {
	case opFixed:
		return skipFixed(b, i, c.size)
	case opBool:
		return skipFlag(b, i)
	case opVarint:
		_, i, err := uvarint(b, i)
		return i, err
	case opBytes:
		return skipBytes(b, i)
	case opInterval:
		return skipInterval(b, i)
	case opSequence:
		return skipAll(c.parts, b, i)
	case opCounted, opIterable, opStateBacked:
		return c.skipCollection(b, i)
	case opNullable:
		i, err := skipFlag(b, i)
		if err != nil || b[i-1] == 0 {
			return i, err
		}
		return c.parts[0].skip(b, i)
	case opRow:
		return c.skipRow(b, i)
	case opPane:
		return skipPane(b, i)
	case opTimerTail:
		return skipTimerTail(b, i)
	}
	return 0, fault.New(fault.Internal, "coders: layout %d of %s", c.op, c.urn)
}

func skipAll(parts []*Coder, b []byte, i int) (int, error) {
	var err error
	for _, p := range parts {
		if i, err = p.skip(b, i); err != nil {
			return 0, err
		}
	}
	return i, nil
}

func skipFixed(b []byte, i, size int) (int, error) {
	if size > len(b)-i {
		return 0, ErrShort
	}
	return i + size, nil
}

// skipFlag skips a byte that must be 0 or 1.
func skipFlag(b []byte, i int) (int, error) {
	if i >= len(b) {
		return 0, ErrShort
	}
	if b[i] > 1 {
		return 0, corrupt(i, "a flag is %#02x, neither 0 nor 1", b[i])
	}
	return i + 1, nil
}

func skipBytes(b []byte, i int) (int, error) {
	if i < len(b) && b[i] < 0x80 {
		i += 1 + int(b[i])
	} else {
		n, next, err := uvarint(b, i)
		if err != nil {
			return 0, err
		}
		if n > maxLength {
			return 0, corrupt(i, "a length of %d bytes", int64(n))
		}
		if n > uint64(len(b)-next) {
			return 0, ErrShort
		}
		i = next + int(n)
	}
	if i > len(b) {
		return 0, ErrShort
	}
	return i, nil
}

func skipInterval(b []byte, i int) (int, error) {
	if len(b)-i <= TimestampSize {
		return 0, ErrShort
	}
	_, i, err := uvarint(b, i+TimestampSize)
	return i, err
}

func skipPane(b []byte, i int) (int, error) {
	if i >= len(b) {
		return 0, ErrShort
	}
	indices := b[i] >> 4
	if indices > 2 {
		return 0, corrupt(i, "a pane info begins with %#02x", b[i])
	}
	i++
	for ; indices > 0; indices-- {
		var err error
		if _, i, err = uvarint(b, i); err != nil {
			return 0, err
		}
	}
	return i, nil
}

// skipTimerTail skips the clear bit and, unless it is set, fire and hold timestamps and pane.
func skipTimerTail(b []byte, i int) (int, error) {
	i, err := skipFlag(b, i)
	if err != nil || b[i-1] == 1 {
		return i, err
	}
	if i, err = skipFixed(b, i, 2*TimestampSize); err != nil {
		return 0, err
	}
	return skipPane(b, i)
}

// skipCollection skips counted elements or, with a count of -1 where the op
// allows it, blocks of them.
func (c *Coder) skipCollection(b []byte, i int) (int, error) {
	if len(b)-i < 4 {
		return 0, ErrShort
	}
	n := int32(binary.BigEndian.Uint32(b[i:]))
	if n >= 0 {
		return skipMany(c.parts[0], uint64(n), b, i+4)
	}
	if n != -1 || c.op == opCounted {
		return 0, corrupt(i, "a count of %d", n)
	}
	for i += 4; ; {
		n, next, err := uvarint(b, i)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return next, nil
		case int64(n) == -1 && c.op == opStateBacked:
			return skipBytes(b, next)
		case n > math.MaxInt32:
			return 0, corrupt(i, "a block of %d elements", int64(n))
		}
		if i, err = skipMany(c.parts[0], n, b, next); err != nil {
			return 0, err
		}
	}
}

// skipMany skips n elements. A count that the remaining bytes cannot hold
// is seen at once, and elements of a fixed size, none included, aren't walked.
func skipMany(element *Coder, n uint64, b []byte, i int) (int, error) {
	if element.min > 0 && n > uint64(len(b)-i)/uint64(element.min) {
		return 0, ErrShort
	}
	if element.op == opFixed {
		return i + int(n)*element.size, nil
	}
	var err error
	for ; n > 0; n-- {
		if i, err = element.skip(b, i); err != nil {
			return 0, err
		}
	}
	return i, nil
}

// skipRow skips the number of fields, the bitmap of those that are null, and
// the others in the order of their encoding. A row written with an earlier
// schema has fewer fields than ours.
func (c *Coder) skipRow(b []byte, i int) (int, error) {
	n, next, err := uvarint(b, i)
	if err != nil {
		return 0, err
	}
	if n > uint64(len(c.row)) {
		return 0, corrupt(i, "a row of %d fields, where the schema has %d", n, len(c.row))
	}
	if i, err = skipBytes(b, next); err != nil {
		return 0, err
	}
	_, start, err := uvarint(b, next)
	if err != nil {
		return 0, err
	}
	nulls := b[start:i]
	for _, f := range c.row[:n] {
		if f.null>>3 < len(nulls) && nulls[f.null>>3]>>(f.null&7)&1 == 1 {
			continue
		}
		if i, err = f.coder.skip(b, i); err != nil {
			return 0, err
		}
	}
	return i, nil
}

// uvarint decodes the varint at b[i:] and returns the index after it.
func uvarint(b []byte, i int) (uint64, int, error) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1, nil
	}
	return longUvarint(b, i)
}

func longUvarint(b []byte, i int) (uint64, int, error) {
	v, n := binary.Uvarint(b[i:])
	switch {
	case n == 0:
		return 0, 0, ErrShort
	case n < 0:
		return 0, 0, corrupt(i, "a varint of more than 64 bits")
	}
	return v, i + n, nil
}

// corrupt makes an error that says what is wrong at byte i.
func corrupt(i int, format string, args ...any) error {
	return fault.New(fault.Corruption, "coders: at byte %d: "+format, append([]any{i}, args...)...)
}
