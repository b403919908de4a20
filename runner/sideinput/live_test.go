package sideinput

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// panesOf is the layout of panes of KV<bytes, bytes>, or of bytes, in interval windows.
func panesOf(t testing.TB, keyed bool) *coders.Windowed {
	t.Helper()
	coder := func(urn string, components ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	}
	element := "bytes"
	if keyed {
		element = "pair"
	}
	w, err := coders.CompileWindowed("windowed", map[string]*pipepb.Coder{
		"bytes": coder("beam:coder:bytes:v1"), "pair": coder("beam:coder:kv:v1", "bytes", "bytes"),
		"values": coder("beam:coder:iterable:v1", element), "pane": coder("beam:coder:kv:v1", "bytes", "values"),
		"interval": coder("beam:coder:interval_window:v1"), "windowed": coder("beam:coder:windowed_value:v1", "pane", "interval"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// fixedWindows are of 10 ms; their trigger may fire again and again, until they expire.
func fixedWindows(t testing.TB, lateness int64) *windowing.Strategy {
	t.Helper()
	clock := &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{}}}
	return &windowing.Strategy{
		Kind: windowing.Fixed, Size: 10, AllowedLateness: lateness,
		Trigger:     &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: clock}}},
		WindowCoder: panesOf(t, false).Window(),
	}
}

func newLive(t testing.TB, cfg Config, lateness int64) *Live {
	t.Helper()
	l, err := NewLive(cfg, panesOf(t, cfg.Multimap), fixedWindows(t, lateness))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fixedWindow(n int64) []byte { return []byte(encodeInterval(10*n, 10*n+10)) }

// appendPane appends a pane of a window; chunked as an iterable whose length was not known.
func appendPane(block, window []byte, chunked bool, elements ...string) []byte {
	block = coders.AppendHeader(block, 0, 1, window, []byte{coders.PaneNoFiring})
	block = append(block, 0) // the empty key
	if !chunked {
		block = binary.BigEndian.AppendUint32(block, uint32(len(elements)))
		for _, e := range elements {
			block = append(block, e...)
		}
		return block
	}
	block = binary.BigEndian.AppendUint32(block, math.MaxUint32)
	for _, e := range elements {
		block = append(append(block, 1), e...)
	}
	return append(block, 0)
}

func (p *Pin) all(t *rapid.T, multimap bool, window []byte) []string {
	const page = 5000
	v := p.View(window)
	if !multimap {
		return readAll(t, page, func(token []byte) ([]byte, []byte, error) { return v.Iterable(window, token, page) }, cutBytes)
	}
	var all []string
	keys := readAll(t, page, func(token []byte) ([]byte, []byte, error) { return v.Keys(window, token, page) }, cutBytes)
	for _, key := range keys {
		values := readAll(t, page, func(token []byte) ([]byte, []byte, error) { return v.Values(window, []byte(key), token, page) }, cutBytes)
		for _, value := range values {
			all = append(all, key+value)
		}
	}
	return all
}

// Panes come, bundles pin and let go, readers go on: each bundle sees all the time what was
// there when it began, and nothing is left that nobody may read.
func TestLiveAgainstModel(t *testing.T) {
	type held struct {
		pin   *Pin
		until int64 // windows that ended before had expired
		want  map[int64][]string
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "live")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cfg := Config{Multimap: rapid.Bool().Draw(t, "multimap"), Dir: dir, MemoryBytes: rapid.SampledFrom([]int64{1, 1 << 20}).Draw(t, "memory")}
		cfg.Input = layoutOf(nopTB{}, cfg.Multimap, true)
		l := newLive(nopTB{}, cfg, 0)
		readers := []*Reader{l.NewReader(), l.NewReader()}
		until := make([]int64, len(readers))
		now := map[int64][]string{}
		watermark := int64(math.MinInt64)
		var pins []held
		window := func(t *rapid.T) int64 { return rapid.Int64Range(0, 9).Draw(t, "window") }
		t.Repeat(map[string]func(*rapid.T){
			"pane": func(t *rapid.T) {
				w := window(t)
				var elements []string
				for range rapid.IntRange(0, 4).Draw(t, "elements") {
					value := nested(fmt.Sprintf("%0*d", rapid.SampledFrom([]int{1, 3000}).Draw(t, "size"), rapid.IntRange(0, 9).Draw(t, "value")))
					if cfg.Multimap {
						value = nested(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key")) + value
					}
					elements = append(elements, value)
				}
				if err := l.Replace(appendPane(nil, fixedWindow(w), rapid.Bool().Draw(t, "chunked"), elements...)); err != nil {
					t.Fatal(err)
				}
				if 10*w+9 >= slices.Min(until) {
					now[w] = elements
				}
			},
			"watermark": func(t *rapid.T) {
				watermark = max(watermark, rapid.Int64Range(0, 100).Draw(t, "to"))
				l.Advance(watermark)
			},
			"pin": func(*rapid.T) { pins = append(pins, held{l.Pin(), slices.Min(until), maps.Clone(now)}) },
			"unpin": func(t *rapid.T) {
				if len(pins) == 0 {
					return
				}
				i := rapid.IntRange(0, len(pins)-1).Draw(t, "pin")
				if err := pins[i].pin.Close(); err != nil {
					t.Fatal(err)
				}
				pins = slices.Delete(pins, i, i+1)
			},
			"release": func(t *rapid.T) {
				i := rapid.IntRange(0, len(readers)-1).Draw(t, "reader")
				to := rapid.Int64Range(0, 100).Draw(t, "to")
				until[i] = max(until[i], to)
				if err := readers[i].Release(to); err != nil {
					t.Fatal(err)
				}
				maps.DeleteFunc(now, func(w int64, _ []string) bool { return 10*w+9 < slices.Min(until) })
			},
			"": func(t *rapid.T) {
				for w := range int64(10) {
					want := Waiting
					switch _, ok := now[w]; {
					case 10*w+9 < slices.Min(until):
						want = Expired
					case ok || watermark > 10*w+9:
						want = Ready
					}
					if got, err := l.State(fixedWindow(w)); got != want || err != nil {
						t.Fatalf("window %d is in state %v, %v; want %v", w, got, err, want)
					}
				}
				for _, p := range pins {
					for w := p.until / 10; w < 10; w++ {
						sameItems(t, "window", p.pin.all(t, cfg.Multimap, fixedWindow(w)), p.want[w])
					}
				}
				if got := len(l.byEnd); got != len(now) || got != len(l.current) {
					t.Fatalf("%d windows and %d, want %d", got, len(l.current), len(now))
				}
				if len(pins) == 0 && len(l.old) > 0 {
					t.Fatalf("%d old versions that nobody sees", len(l.old))
				}
			},
		})
		for _, p := range pins {
			if err := p.pin.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(l.old) > 0 || len(l.pins) > 0 {
			t.Fatalf("%d old versions and %d pins are left", len(l.old), len(l.pins))
		}
		held := l.empty.inMemory()
		for _, v := range l.byEnd {
			held += v.inMemory
		}
		if l.bytes != held {
			t.Fatalf("%d bytes are accounted for, and %d in memory", l.bytes, held)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// The same contents have the same number, others another.
func TestVersionsOfContents(t *testing.T) {
	l := newLive(t, Config{Input: layoutOf(t, false, true)}, 0)
	defer l.Close()
	r := l.NewReader()
	version := func() uint64 {
		p := l.Pin()
		defer p.Close()
		return p.Version()
	}
	empty := version()
	if err := l.Replace(appendPane(nil, fixedWindow(0), false, nested("a"))); err != nil {
		t.Fatal(err)
	}
	first := version()
	l.Advance(1000)
	if err := r.Release(10); err != nil {
		t.Fatal(err)
	}
	if first == empty || version() != first {
		t.Errorf("versions %d, %d and %d", empty, first, version())
	}
	// A pane of a window that has expired changes nothing.
	if err := l.Replace(appendPane(nil, fixedWindow(0), false, nested("b"))); err != nil {
		t.Fatal(err)
	}
	if version() != first || len(l.current) != 0 {
		t.Errorf("version %d, %d windows", version(), len(l.current))
	}
}

// Windows that may yet get a first pane, late, are waited for until they expire; at the end
// of time none is.
func TestEmptyWindowsBecomeReady(t *testing.T) {
	l := newLive(t, Config{Input: layoutOf(t, false, true)}, 5)
	defer l.Close()
	for _, step := range []struct {
		watermark int64
		want      State
	}{{9, Waiting}, {14, Waiting}, {15, Ready}} {
		l.Advance(step.watermark)
		if got, err := l.State(fixedWindow(0)); got != step.want || err != nil {
			t.Errorf("at %d: state %v, %v; want %v", step.watermark, got, err, step.want)
		}
	}
	last := []byte(encodeInterval(0, coders.MaxTimestamp))
	if got, _ := l.State(last); got != Waiting {
		t.Errorf("state %v of the last window", got)
	}
	l.Advance(coders.MaxTimestamp)
	if got, _ := l.State(last); got != Ready {
		t.Errorf("state %v of the last window at the end of time", got)
	}
}

// Large panes are put in order on disk, others in memory; look-ups see no difference.
func TestLargePanes(t *testing.T) {
	window := fixedWindow(3)
	for _, size := range []int{100, largePane / 1000} {
		l := newLive(t, Config{Input: layoutOf(t, true, true), Multimap: true, MemoryBytes: 1 << 10, Dir: t.TempDir()}, 0)
		defer l.Close()
		var elements []string
		value := strings.Repeat("v", size)
		for i := range 2000 {
			elements = append(elements, nested(fmt.Sprint("key ", i%7))+nested(value))
		}
		if err := l.Replace(appendPane(nil, window, false, elements...)); err != nil {
			t.Fatal(err)
		}
		p := l.Pin()
		defer p.Close()
		for i := range 7 {
			want := strings.Repeat(nested(value), (2000-i+6)/7)
			if got, _, err := p.View(window).Values(window, []byte(nested(fmt.Sprint("key ", i))), nil, 1<<20); string(got) != want || err != nil {
				t.Errorf("%d bytes of key %d, want %d; %v", len(got), i, len(want), err)
			}
		}
		if l.SpilledBytes() < int64(2000*size) {
			t.Errorf("%d bytes on disk; the pane should be there", l.SpilledBytes())
		}
	}
}

func TestDamagedPanesAreCorruption(t *testing.T) {
	for _, multimap := range []bool{false, true} {
		l := newLive(t, Config{Input: layoutOf(t, multimap, true), Multimap: multimap}, 0)
		defer l.Close()
		for _, chunked := range []bool{false, true} {
			element := nested("element")
			if multimap {
				element += nested("value")
			}
			whole := appendPane(nil, fixedWindow(0), chunked, element)
			for n := 1; n < len(whole); n++ {
				if err := l.Replace(whole[:n]); fault.ClassOf(err) != fault.Corruption {
					t.Fatalf("pane cut to %d bytes of %d: %v", n, len(whole), err)
				}
			}
		}
	}
}

func BenchmarkReplace(b *testing.B) {
	for name, multimap := range map[string]bool{"multimap": true, "iterable": false} {
		b.Run(name, func(b *testing.B) {
			l := newLive(b, Config{Input: layoutOf(b, multimap, true), Multimap: multimap}, 0)
			defer l.Close()
			element := nested("value")
			if multimap {
				element = nested("key") + element
			}
			block := appendPane(nil, fixedWindow(0), false, element)
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Replace(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
