package sideinput

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/portable/coders"
)

const benchElements = 1_000_000

func benchBlocks() (blocks [][]byte) {
	var block []byte
	value := []byte(strings.Repeat("value", 20))
	for i := range benchElements {
		block = coders.AppendHeader(block, 0, 1, nil, []byte{coders.PaneNoFiring})
		block = coders.AppendBytes(block, benchKey(i))
		block = coders.AppendBytes(block, value)
		if len(block) > 1<<20 {
			blocks, block = append(blocks, block), nil
		}
	}
	return append(blocks, block)
}

func benchKey(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i%100_000)) }

func benchBuild(b *testing.B, multimap bool, blocks [][]byte) *View {
	builder, err := NewBuilder(Config{Input: layoutOf(b, true, false), Multimap: multimap, MemoryBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer builder.Close()
	for _, block := range blocks {
		if err := builder.Add(block); err != nil {
			b.Fatal(err)
		}
	}
	v, err := builder.Build()
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func BenchmarkBuild(b *testing.B) {
	blocks := benchBlocks()
	for name, multimap := range map[string]bool{"multimap": true, "iterable": false} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				benchBuild(b, multimap, blocks).Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchElements, "ns/element")
		})
	}
}

func BenchmarkValues(b *testing.B) {
	v := benchBuild(b, true, benchBlocks())
	defer v.Close()
	keys := make([][]byte, 100_000)
	for i := range keys {
		keys[i] = coders.AppendBytes(nil, benchKey(i*7919))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		data, _, err := v.Values(nil, keys[i%len(keys)], nil, 1<<20)
		if err != nil || len(data) != 10*101 {
			b.Fatal(len(data), err)
		}
		i++
	}
}
