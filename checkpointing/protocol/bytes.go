package protocol

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// This file and encode.go are a format: docs/format/manifest.md. What version 1 means it means for
// good; what has to change gets another version, and readers keep knowing the old ones.

const version = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of data.
func Checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// encoder appends what a record has.
type encoder struct{ out []byte }

func newEncoder(magic string) *encoder {
	return &encoder{append([]byte(magic), version)}
}

// sealed returns all of the record, with its checksum at the end.
func (e *encoder) sealed() []byte {
	return binary.LittleEndian.AppendUint32(e.out, Checksum(e.out))
}

func (e *encoder) uint(v uint64) { e.out = binary.AppendUvarint(e.out, v) }
func (e *encoder) int(v int)     { e.uint(uint64(v)) } // which is not negative
func (e *encoder) size(v int64)  { e.uint(uint64(v)) } // which is not negative
func (e *encoder) time(v int64)  { e.out = binary.AppendVarint(e.out, v) }

func (e *encoder) bool(v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	e.out = append(e.out, b)
}

func (e *encoder) string(s string) {
	e.int(len(s))
	e.out = append(e.out, s...)
}

// list begins a list of n things. What each has follows.
func (e *encoder) list(n int) { e.int(n) }

// unseal checks a record's first bytes and checksum, and returns what is to decode.
func unseal(data []byte, magic string) (*decoder, error) {
	head := len(magic) + 1
	if len(data) < head+4 {
		return nil, corrupt("%d bytes are no record %s, which has more", len(data), magic)
	}
	if string(data[:len(magic)]) != magic {
		return nil, corrupt("a record that begins with %q, not %s", data[:len(magic)], magic)
	}
	if v := data[len(magic)]; v != version {
		return nil, corrupt("record %s is of version %d; this build reads version %d", magic, v, version)
	}
	body := data[:len(data)-4]
	if got, want := Checksum(body), binary.LittleEndian.Uint32(data[len(body):]); got != want {
		return nil, corrupt("record %s has checksum %08x, not %08x as it says: it is damaged", magic, got, want)
	}
	return &decoder{rest: body[head:]}, nil
}

// decoder takes a record apart. Once it is bad it returns zero values.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) fail() { d.bad, d.rest = true, nil }

// end says whether all was read, and nothing else.
func (d *decoder) end() error {
	if d.bad {
		return corrupt("a record that does not decode")
	}
	if len(d.rest) > 0 {
		return corrupt("a record with %d bytes behind its end", len(d.rest))
	}
	return nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 { // there is one way to write a number
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int {
	v := d.uint()
	if v > math.MaxInt32 {
		d.fail()
		return 0
	}
	return int(v)
}

func (d *decoder) size() int64 {
	v := d.uint()
	if v > math.MaxInt64 {
		d.fail()
		return 0
	}
	return int64(v)
}

func (d *decoder) time() int64 {
	v := d.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) take(n int) []byte {
	if len(d.rest) < n {
		d.fail()
		return nil
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	b := d.byte()
	if b > 1 {
		d.fail()
	}
	return b == 1
}

func (d *decoder) string() string { return string(d.take(d.int())) }

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// decodeList reads a list. Each thing has a byte at least, so that no length asks for more
// memory than the record has bytes, times a constant.
func decodeList[T any](d *decoder, one func() T) []T {
	n := d.int()
	if n > len(d.rest) {
		d.fail()
	}
	if d.bad || n == 0 {
		return nil
	}
	out := make([]T, 0, min(n, 1024))
	for range n {
		if d.bad {
			return nil
		}
		out = append(out, one())
	}
	return out
}
