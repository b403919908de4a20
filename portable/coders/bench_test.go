package coders

import (
	"bytes"
	"testing"

	"github.com/lintelrun/lintel/portable/urns"
)

func benchmarkNext(b *testing.B, element, window yamlCoder, windows, encoded []byte) {
	w := mustWindowed(b, element, window)
	one := append(AppendHeader(nil, 1000, 1, windows, []byte{PaneNoFiring}), encoded...)
	block := bytes.Repeat(one, 1000)
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	b.ResetTimer()
	rest := block
	var e Element
	for range b.N {
		if len(rest) == 0 {
			rest = block
		}
		if err := w.Next(rest, &e); err != nil {
			b.Fatal(err)
		}
		rest = rest[e.Size:]
	}
}

func BenchmarkNextKVVarintBytesGlobal(b *testing.B) {
	benchmarkNext(b, of(urns.CoderKV, yamlVarint, yamlBytes), yamlGlobal, nil, AppendBytes([]byte{7}, make([]byte, 20)))
}

func BenchmarkNextKVBytesVarintInterval(b *testing.B) {
	window := AppendVarint(AppendTimestamp(nil, 60000), 60000)
	benchmarkNext(b, of(urns.CoderKV, yamlBytes, yamlVarint), yamlInterval, window, append(AppendBytes(nil, []byte("word")), 1))
}

func BenchmarkNextBytesGlobal(b *testing.B) {
	benchmarkNext(b, yamlBytes, yamlGlobal, nil, AppendBytes(nil, make([]byte, 200)))
}

func BenchmarkNextKVBytesIterableGlobal(b *testing.B) {
	value := append([]byte{0, 0, 0, 10}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	benchmarkNext(b, of(urns.CoderKV, yamlBytes, of(urns.CoderIterable, yamlVarint)), yamlGlobal, nil, append(AppendBytes(nil, []byte("word")), value...))
}
