package windowing

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

func intervalCoder(t testing.TB) *coders.Coder {
	c, err := coders.Compile("interval", components)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answerOf writes the answer of a merge: "a b | x<a y<b,c" are windows a and b that stay, x made of
// a, and y made of b and c. Names are single letters. In blocks of a size, or counted if that is 0.
func answerOf(text string, block int) []byte {
	stay, made, _ := strings.Cut(text, "|")
	var stays, results [][]byte
	for _, name := range strings.Fields(stay) {
		stays = append(stays, windowCalled(name))
	}
	for _, m := range strings.Fields(made) {
		result, from, _ := strings.Cut(m, "<")
		var parts [][]byte
		for _, name := range strings.FieldsFunc(from, func(r rune) bool { return r == ',' }) {
			parts = append(parts, windowCalled(name))
		}
		results = append(results, append(windowCalled(result), iterableOf(parts, block)...))
	}
	return append(iterableOf(stays, block), iterableOf(results, block)...)
}

func windowCalled(name string) []byte {
	at := int64(name[0]) * 10
	return Interval{at, at + 5}.Append(nil)
}

func iterableOf(items [][]byte, block int) []byte {
	if block == 0 {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(items))), slices.Concat(items...)...)
	}
	b := binary.BigEndian.AppendUint32(nil, math.MaxUint32)
	for part := range slices.Chunk(items, block) {
		b = append(coders.AppendVarint(b, int64(len(part))), slices.Concat(part...)...)
	}
	return coders.AppendVarint(b, 0)
}

func windowsCalled(names string) (windows [][]byte) {
	for _, n := range strings.Fields(names) {
		windows = append(windows, windowCalled(n))
	}
	return windows
}

// show writes what changed as answerOf reads it.
func show(merged []Merged) string {
	name := func(w []byte) string {
		d, _, _ := DecodeInterval(w)
		return string(rune(d.Start / 10))
	}
	var all []string
	for _, m := range merged {
		var from []string
		for _, w := range m.From {
			from = append(from, name(w))
		}
		all = append(all, name(m.Window)+"<"+strings.Join(from, ","))
	}
	return strings.Join(all, " ")
}

func TestParseMerged(t *testing.T) {
	for _, c := range []struct{ windows, answer, want string }{
		{"", "", ""},
		{"a b", "a b", ""},
		{"a b", "| x<a,b", "x<a,b"},
		{"a b c", "c | x<a,b", "x<a,b"},
		{"a b c", "| a<a,b c<c", "a<a,b"},
		{"a b c", "| x<a x<b y<c", "x<a,b y<c"},
		{"a b", "a | a<b", "a<b,a"},
		{"a b", "| b<a a<b", "b<a a<b"},
		{"a", "a | x<", ""},
		{"a", "a a", ""},
		{"a b", "b | x<a,a", "x<a"},
	} {
		for _, block := range []int{0, 1, 2} {
			got, err := ParseMerged(answerOf(c.answer, block), intervalCoder(t), windowsCalled(c.windows))
			if err != nil || show(got) != c.want {
				t.Errorf("%q of %q in blocks of %d: %q, %v; want %q", c.answer, c.windows, block, show(got), err, c.want)
			}
		}
	}
}

func TestParseMergedRefusesWhatNoFunctionMayDo(t *testing.T) {
	for name, c := range map[string]struct{ windows, answer, mention string }{
		"left out":         {"a b", "a", "left it out"},
		"never there":      {"a", "a b", "not given"},
		"made of another":  {"a", "| x<a,b", "not given"},
		"stays and merged": {"a b", "a b | x<a", "twice"},
		"in two":           {"a", "| x<a y<a", "twice"},
	} {
		_, err := ParseMerged(answerOf(c.answer, 0), intervalCoder(t), windowsCalled(c.windows))
		if fault.ClassOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), c.mention) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := answerOf("c | x<a,b", 0)
	for cut := range whole {
		if _, err := ParseMerged(whole[:cut], intervalCoder(t), windowsCalled("a b c")); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%d of %d bytes: %v", cut, len(whole), err)
		}
	}
	if _, err := ParseMerged(append(whole, 0), intervalCoder(t), windowsCalled("a b c")); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("a byte more: %v", err)
	}
}

func FuzzParseMerged(f *testing.F) {
	f.Add(answerOf("c | x<a,b", 0))
	f.Add(answerOf("| x<a,b c<c", 1))
	f.Fuzz(func(t *testing.T, answer []byte) {
		merged, err := ParseMerged(answer, intervalCoder(t), windowsCalled("a b c"))
		if err != nil {
			if c := fault.ClassOf(err); c != fault.Corruption && c != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		left := map[string]bool{}
		for _, w := range windowsCalled("a b c") {
			left[string(w)] = true
		}
		for _, m := range merged {
			for _, w := range m.From {
				if !left[string(w)] {
					t.Fatalf("%x is made of %x, which is not there or taken", m.Window, w)
				}
				delete(left, string(w))
			}
			if len(m.From) == 0 {
				t.Fatalf("%x is made of nothing", m.Window)
			}
		}
		for _, m := range merged {
			if left[string(m.Window)] {
				t.Fatalf("%x stays beside a merged window that is equal", m.Window)
			}
		}
	})
}

// Calls are elements that the layout of what SDKs take for them cuts as they were written.
func TestCallsAreReadAsWritten(t *testing.T) {
	components := maps.Clone(components)
	components["bytes"] = coder("beam:coder:bytes:v1")
	components["windows"] = coder("beam:coder:iterable:v1", "interval")
	components["kv"] = coder("beam:coder:kv:v1", "bytes", "windows")
	components["windowed"] = coder("beam:coder:windowed_value:v1", "kv", "global")
	layout, err := coders.CompileWindowed("windowed", components)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 30).Draw(t, "windows of each call")
		var block []byte
		for i, n := range counts {
			block = AppendMergeCall(block, i, windowsCalled(strings.Repeat("a ", n)))
		}
		var e coders.Element
		for i, n := range counts {
			if err := layout.Next(block, &e); err != nil {
				t.Fatal(err)
			}
			block = block[e.Size:]
			if call, err := CallOf(&e, len(counts)); call != i || err != nil {
				t.Fatalf("call %d is read as %d, %v", i, call, err)
			}
			if got := int(binary.BigEndian.Uint32(e.Value)); got != n {
				t.Fatalf("%d windows are read as %d", n, got)
			}
			if _, err := CallOf(&e, i); fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("call %d is one of %d: %v", i, i, err)
			}
		}
		if len(block) > 0 {
			t.Fatalf("%d bytes are left", len(block))
		}
	})
}
