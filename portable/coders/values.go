package coders

import (
	"encoding/binary"
	"math"
)

// Bounds of event time in ms since the epoch. A watermark at MaxTimestamp is done.
const (
	MinTimestamp      int64 = math.MinInt64 / 1000
	MaxTimestamp      int64 = math.MaxInt64 / 1000
	EndOfGlobalWindow int64 = MaxTimestamp - 24*60*60*1000 // the maximum timestamp of the global window
)

// TimestampSize is the length in bytes of an encoded timestamp.
const TimestampSize = 8

// AppendTimestamp appends a timestamp in ms in Beam's encoding: 8 bytes big
// endian with the sign bit flipped, so that encodings sort as timestamps do.
func AppendTimestamp(dst []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ms)^(1<<63))
}

// Timestamp decodes the timestamp in ms at the start of b, or returns ErrShort.
func Timestamp(b []byte) (int64, error) {
	if len(b) < TimestampSize {
		return 0, ErrShort
	}
	return decodeTimestamp(b), nil
}

func decodeTimestamp(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ (1 << 63)) }

// AppendVarint appends v as beam:coder:varint:v1 does: LEB128 of its two's complement.
func AppendVarint(dst []byte, v int64) []byte { return binary.AppendUvarint(dst, uint64(v)) }

// AppendBytes appends p as beam:coder:bytes:v1 does in nested context, which is also a length prefix.
func AppendBytes(dst, p []byte) []byte { return append(AppendVarint(dst, int64(len(p))), p...) }

// Varint decodes the varint at the start of b and returns its length in bytes.
// It returns ErrShort if b ends within it and a fault.Corruption if it is longer than 64 bits.
func Varint(b []byte) (v int64, n int, err error) {
	u, n, err := uvarint(b, 0)
	return int64(u), n, err
}
