package main

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// splitmix64
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

func hashBytes(b []byte) uint64 {
	h := uint64(len(b)) * 0x9e3779b97f4a7c15
	for len(b) >= 8 {
		h = bits.RotateLeft64(h^binary.LittleEndian.Uint64(b), 29) * 0xbf58476d1ce4e5b9
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h ^ h>>32
}

func hashString(b string) uint64 {
	h := uint64(len(b)) * 0x9e3779b97f4a7c15
	for i := 0; i < len(b); i++ {
		h = (h ^ uint64(b[i])) * 0x100000001b3
	}
	return h ^ h>>32
}

func hash2(a, b uint64) uint64    { return mix(a*0x94d049bb133111eb + b) }
func hash3(a, b, c uint64) uint64 { return mix(hash2(a, b) + c*0x9e3779b97f4a7c15) }

// result is an order-independent digest of an output collection.
type result struct {
	N   int64
	Sum uint64
}

func (r *result) add(h uint64) { r.N++; r.Sum += h }

// The process-wide sink. In LOOPBACK the harness is this very process.
var gN atomic.Int64
var gSum atomic.Uint64
var gFirst, gLast atomic.Int64 // unix nanos of first source call and last sink flush

func sinkFlush(r *result) {
	if r.N != 0 {
		gN.Add(r.N)
		gSum.Add(r.Sum)
		gLast.Store(nowNano())
	}
	*r = result{}
}

func markFirst() {
	gFirst.CompareAndSwap(0, nowNano())
}

const poolSize = 1 << 20

var pool = func() []byte {
	b := make([]byte, poolSize+1<<16)
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], mix(uint64(i)))
	}
	return b
}()

// value i: v bytes of pseudo-random data without copying.
func value(i int64, v int) []byte {
	off := mix(uint64(i)) % poolSize
	return pool[off : off+uint64(v) : off+uint64(v)]
}
