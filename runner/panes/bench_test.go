package panes

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// BenchmarkAdd adds elements of about 100 bytes, in blocks of 1,000 of as many keys as it
// says, with the watermark passing a window every million.
func BenchmarkAdd(b *testing.B) {
	early := fixedBytes(b)
	early.Trigger = repeat(count(1000))
	for name, ws := range map[string]*strategy{"default": fixedBytes(b), "count": early} {
		for _, keys := range []int{100, 10_000} {
			b.Run(fmt.Sprintf("%s/keys=%d", name, keys), func(b *testing.B) { benchmarkAdd(b, ws, keys, 1<<30) })
		}
	}
	b.Run("evicting/keys=100000", func(b *testing.B) { benchmarkAdd(b, fixedBytes(b), 100_000, 16<<20) })
}

func fixedBytes(b *testing.B) *strategy {
	ws := fixed(b, 1000)
	ws.AllowedLateness = 100
	return ws
}

func benchmarkAdd(b *testing.B, ws *strategy, keys int, memory int64) {
	components["kv"].ComponentCoderIds[1] = "bytes"
	defer func() { components["kv"].ComponentCoderIds[1] = "varint" }()
	r := newRig(b, ws, memory)
	const perBlock = 1000
	const perWindow = 1_000_000
	blocks := make([][]byte, max(2*keys/perBlock, 10))
	var offsets [][]int
	for i := range blocks {
		blocks[i], offsets = blockOf(i*perBlock, keys, perBlock, offsets)
	}
	b.ReportAllocs()
	b.SetBytes(100)
	b.ResetTimer()
	start := int64(0)
	for n := 0; n < b.N; n += perBlock {
		if at := int64(n / perWindow * 1000); at != start {
			start = at
			r.must(r.p.Advance(start+1, time.UnixMilli(0)))
			drain(b, r.p)
		}
		i := n / perBlock % len(blocks)
		block := blocks[i]
		stamp(block, offsets[i], start)
		r.must(r.p.Add(block, time.UnixMilli(0)))
		if n/perBlock%100 == 0 {
			drain(b, r.p)
		}
	}
}

// blockOf makes a block of n elements with keys from first on, and where the elements begin.
func blockOf(first, keys, n int, offsets [][]int) ([]byte, [][]int) {
	var block []byte
	var at []int
	window := windowing.Interval{Start: 0, End: 1000}.Append(nil)
	value := make([]byte, 60)
	for i := range n {
		at = append(at, len(block))
		block = coders.AppendHeader(block, 0, 1, window, []byte{coders.PaneNoFiring})
		block = coders.AppendBytes(block, fmt.Appendf(nil, "key%09d", (first+i)*7919%keys))
		block = coders.AppendBytes(block, value)
	}
	return block, append(offsets, at)
}

// stamp puts the elements of a block in another window.
func stamp(block []byte, offsets []int, start int64) {
	for _, at := range offsets {
		binary.BigEndian.PutUint64(block[at:], uint64(start+5)^1<<63)
		binary.BigEndian.PutUint64(block[at+12:], uint64(start+1000)^1<<63)
	}
}

func drain(b *testing.B, p *Panes) {
	for {
		_, ok, err := p.Next(256 << 10)
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			return
		}
	}
}
