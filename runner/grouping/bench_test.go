package grouping

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// BenchmarkGroup adds and drains a million elements; its ns/element is the figure to watch.
func BenchmarkGroup(b *testing.B) {
	const elements = 1_000_000
	global, session := &windowing.Strategy{Kind: windowing.Global}, &windowing.Strategy{Kind: windowing.Session, Merging: true, Gap: 1000}
	fixed := &windowing.Strategy{Kind: windowing.Fixed, Size: 1000}
	for _, c := range []struct {
		name        string
		windowing   *windowing.Strategy
		keys, bytes int
		memory      int64
	}{
		{"keys=1000/value=100", global, 1000, 100, 1 << 30},
		{"keys=10000/value=100", global, 10000, 100, 1 << 30},
		{"keys=500k/value=8", global, 500_000, 8, 1 << 30},
		{"keys=1000/value=100/fixed", fixed, 1000, 100, 1 << 30},
		{"keys=1000/value=100/sessions", session, 1000, 100, 1 << 30},
		{"keys=1000/value=100/spilling", global, 1000, 100, 16 << 20},
		{"keys=500k/value=8/spilling", global, 500_000, 8, 16 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			input, blocks := benchInput(b, c.windowing, elements, c.keys, c.bytes)
			cfg := Config{Input: input, Windowing: c.windowing, MemoryBytes: c.memory, Dir: b.TempDir(), StateBacked: true}
			b.ReportAllocs()
			var stats Stats
			for b.Loop() {
				table, err := New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				for _, block := range blocks {
					if err := table.Add(block); err != nil {
						b.Fatal(err)
					}
				}
				stats = table.Stats()
				groups, err := table.Drain()
				for err == nil {
					_, err = groups.Next(512 << 10)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				for _, close := range []func() error{table.Close, table.Values().Close} {
					if err := close(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/elements, "ns/element")
			b.ReportMetric(float64(stats.MemoryBytes)/(1<<20), "MiB-at-end")
			b.ReportMetric(float64(stats.Runs), "runs")
		})
	}
}

func benchInput(b *testing.B, strategy *windowing.Strategy, elements, keys, bytes int) (*coders.Windowed, [][]byte) {
	input := layout(b, strategy.Kind != windowing.Global)
	strategy.WindowCoder = input.Window()
	random := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, bytes)
	var blocks [][]byte
	var block []byte
	for i := range elements {
		for j := range value {
			value[j] = byte('a' + random.IntN(26))
		}
		timestamp := int64(i) * 10
		var window []byte
		switch strategy.Kind {
		case windowing.Fixed:
			start := timestamp / 100_000 * 100_000
			window = encodeInterval(start, start+100_000)
		case windowing.Session:
			window = encodeInterval(timestamp, timestamp+1000)
		}
		block = coders.AppendHeader(block, timestamp, 1, window, []byte{coders.PaneNoFiring})
		block = binary.AppendUvarint(block, uint64(random.IntN(keys)))
		block = coders.AppendBytes(block, value)
		if len(block) > 1<<20 {
			blocks, block = append(blocks, block), nil
		}
	}
	return input, append(blocks, block)
}
