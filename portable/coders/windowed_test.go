package coders

import (
	"bytes"
	"errors"
	"math"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

var (
	yamlBytes    = yamlCoder{URN: urns.CoderBytes}
	yamlVarint   = yamlCoder{URN: urns.CoderVarint}
	yamlGlobal   = yamlCoder{URN: urns.CoderGlobalWindow}
	yamlInterval = yamlCoder{URN: urns.CoderIntervalWindow}
)

func of(urn string, components ...yamlCoder) yamlCoder {
	return yamlCoder{URN: urn, Components: components}
}

func mustWindowed(t testing.TB, element, window yamlCoder) *Windowed {
	w, err := NewWindowed(mustCompile(t, element), mustCompile(t, window))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestNextCutsWhatWasWritten writes blocks of random elements and reads them back.
func TestNextCutsWhatWasWritten(t *testing.T) {
	w := mustWindowed(t, of(urns.CoderKV, yamlVarint, yamlBytes), yamlInterval)
	timestamps := rapid.OneOf(rapid.Int64Range(MinTimestamp, MaxTimestamp), rapid.Int64Range(-2, 2))
	rapid.Check(t, func(t *rapid.T) {
		var block []byte
		var want []Element
		least := MaxTimestamp
		for range rapid.IntRange(0, 6).Draw(t, "elements") {
			e := Element{Timestamp: timestamps.Draw(t, "timestamp"), NumWindows: rapid.IntRange(0, 3).Draw(t, "windows"), Windows: []byte{}}
			for range e.NumWindows {
				e.Windows = AppendTimestamp(e.Windows, timestamps.Draw(t, "end"))
				e.Windows = AppendVarint(e.Windows, rapid.Int64Min(0).Draw(t, "span"))
			}
			e.Pane = Pane{Timing: OnTime, Index: rapid.Int64Min(0).Draw(t, "index")}.Append(nil)
			e.Key = AppendVarint(nil, rapid.Int64().Draw(t, "key"))
			e.Value = AppendBytes(nil, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"))
			start := len(block)
			block = AppendHeader(block, e.Timestamp, e.NumWindows, e.Windows, e.Pane)
			block = append(append(block, e.Key...), e.Value...)
			e.Size = len(block) - start
			least = min(least, e.Timestamp)
			want = append(want, e)
		}
		n, minTimestamp, err := w.Count(block)
		if n != len(want) || minTimestamp != least || err != nil {
			t.Fatalf("count %d, minimum %d, %v; want %d, %d", n, minTimestamp, err, len(want), least)
		}
		rest := block
		for i, x := range want {
			for cut := range x.Size {
				if err := w.Next(rest[:cut], new(Element)); !errors.Is(err, ErrShort) {
					t.Fatalf("element %d cut to %d bytes: %v", i, cut, err)
				}
			}
			var e Element
			if err := w.Next(rest, &e); err != nil || !same(e, x) {
				t.Fatalf("element %d: %+v, %v; want %+v", i, e, err, x)
			}
			rest = rest[e.Size:]
		}
		if len(block) > 0 {
			if _, _, err := w.Count(block[:len(block)-1]); fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("a cut block: %v", err)
			}
		}
	})
}

func same(a, b Element) bool {
	return a.Timestamp == b.Timestamp && a.NumWindows == b.NumWindows && a.Size == b.Size &&
		bytes.Equal(a.Windows, b.Windows) && bytes.Equal(a.Pane, b.Pane) &&
		bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

func TestNextOfHostileHeaders(t *testing.T) {
	w := mustWindowed(t, yamlBytes, yamlGlobal)
	block := func(count uint32, rest ...byte) []byte {
		b := AppendTimestamp(nil, 0)
		return append(append(b, byte(count>>24), byte(count>>16), byte(count>>8), byte(count)), rest...)
	}
	var e Element
	if err := w.Next(block(0x80000000, 0x0F, 0), &e); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("a negative number of windows: %v", err)
	}
	if err := w.Next(block(1, 0x30, 0), &e); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("a pane of three indices: %v", err)
	}
	// As many global windows as can be stated take no bytes, and must take no time.
	if err := w.Next(block(math.MaxInt32, 0x0F, 0), &e); err != nil || e.NumWindows != math.MaxInt32 {
		t.Errorf("2^31-1 global windows: %v", err)
	}
	if err := mustWindowed(t, yamlBytes, yamlInterval).Next(block(math.MaxInt32, 0x0F, 0), &e); !errors.Is(err, ErrShort) {
		t.Errorf("2^31-1 interval windows in 2 bytes: %v", err)
	}
}

func TestNextClearsTheKey(t *testing.T) {
	b := append(AppendHeader(nil, 1, 1, nil, []byte{PaneNoFiring}), 1, 'k', 1, 'v')
	var e Element
	for _, keyed := range []bool{true, false} {
		element := yamlBytes
		if keyed {
			element = of(urns.CoderKV, yamlBytes, yamlBytes)
		}
		w := mustWindowed(t, element, yamlGlobal)
		if err := w.Next(b, &e); err != nil || w.Keyed() != keyed || (e.Key != nil) != keyed {
			t.Errorf("keyed %v: %+v, %v", keyed, e, err)
		}
	}
}

func TestCountOfElementsOfNoBytes(t *testing.T) {
	w, err := CompileWindowed("w", map[string]*pipepb.Coder{
		"g": coder(urns.CoderGlobalWindow),
		"w": {Spec: &pipepb.FunctionSpec{
			Urn:     urns.CoderParamWindowedValue,
			Payload: append(AppendHeader(nil, 5, 1, nil, []byte{PaneNoFiring}), 0),
		}, ComponentCoderIds: []string{"g", "g"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, _, err := w.Count(nil); n != 0 || err != nil {
		t.Errorf("an empty block: %d, %v", n, err)
	}
	if _, _, err := w.Count([]byte{0}); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("a block of one byte: %v", err)
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	w := mustWindowed(t, of(urns.CoderKV, yamlBytes, of(urns.CoderIterable, yamlVarint)), yamlInterval)
	b := AppendHeader(nil, 1, 1, AppendVarint(AppendTimestamp(nil, 10), 10), []byte{PaneNoFiring})
	b = append(AppendBytes(b, []byte("key")), 0, 0, 0, 2, 1, 2)
	var e Element
	if n := testing.AllocsPerRun(100, func() {
		if err := w.Next(b, &e); err != nil {
			t.Fatal(err)
		}
		if err := w.Next(b[:len(b)-1], &e); !errors.Is(err, ErrShort) {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPanes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Pane{
			Timing: Timing(rapid.ByteMax(3).Draw(t, "timing")),
			First:  rapid.Bool().Draw(t, "first"), Last: rapid.Bool().Draw(t, "last"),
			Index:       rapid.Int64Range(0, 300).Draw(t, "index"),
			OnTimeIndex: rapid.Int64Range(-1, 300).Draw(t, "on time index"),
		}
		b := p.Append([]byte{9})[1:]
		if got, n, err := DecodePane(b); got != p || n != len(b) || err != nil {
			t.Fatalf("%+v as %x is read as %+v of %d bytes, %v", p, b, got, n, err)
		}
	})
	for want, p := range map[byte]Pane{
		PaneNoFiring:   {Timing: Unknown, First: true, Last: true},
		PaneOnTimeOnly: {Timing: OnTime, First: true, Last: true},
	} {
		if b := p.Append(nil); !bytes.Equal(b, []byte{want}) {
			t.Errorf("%+v is written as %x, not %#02x", p, b, want)
		}
	}
	for want, p := range map[string]Pane{
		"\x10\x03":     {Timing: Early, Index: 3, OnTimeIndex: -1},
		"\x20\x03\x00": {Timing: Early, Index: 3, OnTimeIndex: 0},
		"\x14\x03":     {Timing: OnTime, Index: 3, OnTimeIndex: 3},
		"\x28\x03\x01": {Timing: Late, Index: 3, OnTimeIndex: 1},
	} {
		got, n, err := DecodePane([]byte(want))
		if b := p.Append(nil); string(b) != want || got != p || n != len(want) || err != nil {
			t.Errorf("%+v is written as %x; %x is read as %+v, %v", p, b, want, got, err)
		}
	}
}

func TestTimestampsSortAsBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		x, y := AppendTimestamp(nil, a), AppendTimestamp(nil, b)
		if (a < b) != (bytes.Compare(x, y) < 0) {
			t.Fatalf("%d is %x, %d is %x", a, x, b, y)
		}
		if got, err := Timestamp(x); got != a || err != nil {
			t.Fatalf("%d is read as %d, %v", a, got, err)
		}
	})
	if EndOfGlobalWindow != 9223371950454775 {
		t.Errorf("the global window ends at %d", EndOfGlobalWindow)
	}
}
