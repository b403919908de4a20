// Package coders compiles Beam coders to layouts that find where an encoded
// value ends, and cuts blocks of windowed values into elements, without
// decoding or allocating. It knows the nested encodings of Beam's standard
// coders (beam_runner_api.proto, StandardCoders); all else must be length prefixed.
package coders

import (
	"errors"
	"math"
)

// ErrShort says that the bytes end within a value: more are needed to find its end.
var ErrShort = errors.New("coders: the bytes end within a value")

// Coder is the compiled layout of one coder. It is immutable and safe for concurrent use.
type Coder struct {
	urn        string
	components []*Coder

	op    op
	size  int      // of every value, for opFixed
	min   int      // the fewest bytes that a value takes; 0 only where all take 0
	parts []*Coder // of opSequence in order; the one element of a collection or nullable
	row   []field  // of opRow, in the order of their encoding

	constant *Element // of a param_windowed_value
}

// op says how the end of a value is found.
type op uint8

const (
	opFixed       op = iota // size bytes, whatever they are
	opBool                  // one byte, 0 or 1
	opVarint                // LEB128 of up to 64 bits
	opBytes                 // a varint length and as many bytes
	opInterval              // an interval window: 8 bytes and a varint
	opSequence              // parts, one after the other
	opCounted               // a 32-bit count and as many elements
	opIterable              // as opCounted, or a count of -1 and blocks of counted elements
	opStateBacked           // as opIterable, whose last block may be a token for the rest
	opNullable              // a byte 0, or a byte 1 and the value
	opRow                   // a schema's row
	opPane                  // a pane info
	opTimerTail             // what follows a timer's windows
)

// field is one field of a row.
type field struct {
	coder *Coder
	null  int // its bit in the row's null bitmap: the position in the schema
}

// URN returns the coder's URN.
func (c *Coder) URN() string { return c.urn }

// Components returns the layouts of the component coders, in the proto's
// order. A length prefix shows none, as its contents are opaque. Callers must
// not change the slice.
func (c *Coder) Components() []*Coder { return c.components }

// Skip returns the length in bytes of the one value in the nested encoding at
// the start of b. It returns ErrShort if b ends within the value and a
// fault.Corruption if no value can begin so. The work is linear in the bytes
// that the value takes, whatever counts they state. Text is not checked to be UTF-8.
func (c *Coder) Skip(b []byte) (int, error) { return c.skip(b, 0) }

// SkipAll returns the length in bytes of the whole values, one after the other, at the
// start of b. What follows them may be the beginning of another value. It is
// a fault.Corruption if no value can begin so, or if values take no bytes and b has some.
func (c *Coder) SkipAll(b []byte) (int, error) {
	for at := 0; at < len(b); {
		next, err := c.skip(b, at)
		if errors.Is(err, ErrShort) {
			return at, nil
		}
		if err != nil {
			return 0, err
		}
		if next == at {
			return 0, corrupt(at, "%d bytes of values that take none", len(b))
		}
		at = next
	}
	return len(b), nil
}

// Leaf layouts that have no coder of their own.
var (
	timestampLayout = fixed(TimestampSize)
	bytesLayout     = &Coder{op: opBytes, min: 1}
	varintLayout    = &Coder{op: opVarint, min: 1}
	boolLayout      = &Coder{op: opBool, min: 1}
	intervalLayout  = &Coder{op: opInterval, min: TimestampSize + 1}
	paneLayout      = &Coder{op: opPane, min: 1}
	timerTailLayout = &Coder{op: opTimerTail, min: 1}
)

func fixed(size int) *Coder { return &Coder{op: opFixed, size: size, min: size} }

// sequence lays out parts one after the other.
func sequence(parts ...*Coder) *Coder {
	if len(parts) == 1 {
		return parts[0]
	}
	c := &Coder{op: opFixed, parts: parts}
	for _, p := range parts {
		c.min = min(c.min+p.min, math.MaxInt32)
		if p.op != opFixed {
			c.op = opSequence
		}
	}
	c.size = c.min
	return c
}

// collection lays out elements under o: opCounted, opIterable or opStateBacked.
func collection(o op, element *Coder) *Coder {
	return &Coder{op: o, min: 4, parts: []*Coder{element}}
}

func nullable(value *Coder) *Coder {
	return &Coder{op: opNullable, min: 1, parts: []*Coder{value}}
}
