package grouping

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// strategies of all kinds that a table groups.
func strategies(t testing.TB) map[string]*windowing.Strategy {
	interval, global := layout(t, true).Window(), layout(t, false).Window()
	return map[string]*windowing.Strategy{
		"global":          {Kind: windowing.Global, WindowCoder: global},
		"fixed":           {Kind: windowing.Fixed, Size: 10, WindowCoder: interval},
		"sliding":         {Kind: windowing.Sliding, Size: 20, Period: 10, WindowCoder: interval},
		"sessions":        {Kind: windowing.Session, Merging: true, Gap: 10, WindowCoder: interval},
		"merged sessions": {Kind: windowing.Session, Gap: 10, WindowCoder: interval},
		"custom":          {Kind: windowing.Custom, WindowCoder: interval},
		"custom, merging": {Kind: windowing.Custom, Merging: true, WindowCoder: interval},
	}
}

type interval struct{ start, end int64 }

type input struct {
	timestamp int64
	windows   []interval // one without bounds in the global window
	key       int64
	value     string
}

func drawInput(t *rapid.T, kind windowing.Kind) input {
	e := input{
		timestamp: rapid.OneOf(rapid.Just[int64](5), rapid.Int64Range(-100, 100)).Draw(t, "timestamp"),
		key:       rapid.OneOf(rapid.Just[int64](7), rapid.Int64Range(-5, 50)).Draw(t, "key"),
		value:     strings.Repeat(rapid.StringMatching("[a-z]").Draw(t, "value"), rapid.SampledFrom([]int{0, 1, 20, 300, 20_000}).Draw(t, "size")),
	}
	start := (e.timestamp + 1000) / 10 * 10
	switch kind {
	case windowing.Global:
		e.windows = []interval{{}}
	case windowing.Fixed:
		e.windows = []interval{{start, start + 10}}
	case windowing.Sliding:
		e.windows = []interval{{start, start + 20}, {start - 10, start + 10}}[:rapid.IntRange(0, 2).Draw(t, "windows")]
	case windowing.Session:
		e.windows = []interval{{e.timestamp, e.timestamp + 10 + e.key%3}}
	case windowing.Custom:
		e.windows = []interval{{start, start + 1 + e.timestamp&15}, {start - 100, start - 99}}[:rapid.IntRange(0, 2).Draw(t, "windows")]
	}
	return e
}

func (e input) append(dst []byte, global bool) []byte {
	var windows []byte
	for _, w := range e.windows {
		if !global {
			windows = append(windows, encodeInterval(w.start, w.end)...)
		}
	}
	dst = coders.AppendHeader(dst, e.timestamp, len(e.windows), windows, []byte{coders.PaneNoFiring})
	return coders.AppendBytes(coders.AppendVarint(dst, e.key), []byte(e.value))
}

type groupKey struct {
	key    int64
	window interval
}

type group struct {
	timestamp int64
	values    []string // sorted
}

// modelOf groups as Beam says, plainly.
func modelOf(inputs []input, s *windowing.Strategy) map[groupKey]*group {
	byGroup := map[groupKey][]input{}
	for _, e := range inputs {
		for _, w := range e.windows {
			k := groupKey{e.key, w}
			e.windows = []interval{w}
			byGroup[k] = append(byGroup[k], e)
		}
	}
	if s.Merging {
		byGroup = mergeModel(byGroup)
	}
	groups := map[groupKey]*group{}
	for k, elements := range byGroup {
		g := &group{}
		var stamps []int64
		for _, e := range elements {
			g.values = append(g.values, e.value)
			stamps = append(stamps, e.timestamp)
		}
		slices.Sort(g.values)
		switch s.Combiner {
		case windowing.Earliest:
			g.timestamp = slices.Min(stamps)
		case windowing.Latest:
			g.timestamp = slices.Max(stamps)
		default:
			g.timestamp = k.window.end - 1
			if s.Kind == windowing.Global {
				g.timestamp = coders.EndOfGlobalWindow
			}
		}
		groups[k] = g
	}
	return groups
}

// mergeModel merges any two groups of a key whose windows intersect, until there are none.
func mergeModel(groups map[groupKey][]input) map[groupKey][]input {
	for {
		a, b, ok := intersecting(groups)
		if !ok {
			return groups
		}
		union := groupKey{a.key, interval{min(a.window.start, b.window.start), max(a.window.end, b.window.end)}}
		elements := slices.Concat(groups[a], groups[b])
		delete(groups, a)
		delete(groups, b)
		groups[union] = append(groups[union], elements...)
	}
}

func intersecting(groups map[groupKey][]input) (a, b groupKey, ok bool) {
	for a := range groups {
		for b := range groups {
			if a != b && a.key == b.key && a.window.start < b.window.end && b.window.start < a.window.end {
				return a, b, true
			}
		}
	}
	return a, b, false
}

func TestTableAgreesWithModel(t *testing.T) {
	spilled, paged := false, false // by any of the strategies: what is drawn is chance
	for name, base := range strategies(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := layout(t, base.Kind != windowing.Global)
			rapid.Check(t, func(t *rapid.T) {
				s := *base
				s.Combiner = rapid.SampledFrom([]windowing.TimestampCombiner{windowing.EndOfWindow, windowing.Earliest, windowing.Latest}).Draw(t, "combiner")
				cfg := Config{Input: in, Windowing: &s, Dir: dir,
					MemoryBytes: rapid.SampledFrom([]int64{1, 4 << 10, 40 << 10, 0}).Draw(t, "memory")}
				cfg.Merge = mergeIntersecting
				if rapid.Bool().Draw(t, "state-backed") {
					cfg.StateBacked = true
					cfg.InlineBytes = rapid.SampledFrom([]int{0, 1, 100, 10_000}).Draw(t, "inline")
					cfg.TokenPrefix = []byte(rapid.SampledFrom([]string{"", "prefix"}).Draw(t, "prefix"))
				}
				table, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer table.Close()
				if table.Values() != nil {
					defer table.Values().Close()
				}
				inputs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) input { return drawInput(t, s.Kind) }), 0, 80).Draw(t, "inputs")
				addAll(t, table, inputs, s.Kind == windowing.Global)
				spilled = spilled || table.Stats().Runs > 0
				maxBytes := rapid.SampledFrom([]int{0, 1000, 1 << 20}).Draw(t, "maxBytes")
				read := &reader{in: in, values: table.Values(), page: rapid.SampledFrom([]int{0, 1, 500, 1 << 20}).Draw(t, "page")}
				checkDrain(t, table, read, modelOf(inputs, &s), maxBytes)
				paged = paged || read.pages > read.tokens
				if err := table.Close(); err != nil {
					t.Fatal(err)
				}
				if left, _ := os.ReadDir(dir); len(left) > 0 {
					t.Fatalf("%v is left after Close", left)
				}
			})
		})
	}
	if !spilled || !paged {
		t.Errorf("values were spilled: %t, and read in pages: %t", spilled, paged)
	}
}

func addAll(t *rapid.T, table *Table, inputs []input, global bool) {
	var block []byte
	for i, e := range inputs {
		block = e.append(block, global)
		if i%7 == 6 {
			if err := table.Add(block); err != nil {
				t.Fatal(err)
			}
			clear(block) // it must not be retained
			block = block[:0]
		}
	}
	if err := table.Add(block); err != nil {
		t.Fatal(err)
	}
}

// reader reads the output of a table.
type reader struct {
	in            *coders.Windowed
	values        *Values
	page          int
	tokens, pages int
}

// checkDrain reads all output and compares it with the model.
func checkDrain(t *rapid.T, table *Table, r *reader, want map[groupKey]*group, maxBytes int) {
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := groups.Next(maxBytes)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		block, least := f.Data, coders.MaxTimestamp
		for range f.Elements {
			var k groupKey
			var g group
			k, g, block = r.parseGroup(t, block)
			least = min(least, g.timestamp)
			w := want[k]
			if w == nil {
				t.Fatalf("group %+v is not of the input, or came twice", k)
			}
			if g.timestamp != w.timestamp || !slices.Equal(g.values, w.values) {
				t.Fatalf("group %+v is at %d with %.200q, want %d with %.200q", k, g.timestamp, g.values, w.timestamp, w.values)
			}
			delete(want, k)
		}
		if f.Elements == 0 || len(block) > 0 || least != f.MinTimestamp {
			t.Fatalf("%d bytes follow %d elements; their smallest timestamp is %d, not %d", len(block), f.Elements, least, f.MinTimestamp)
		}
	}
	if len(want) > 0 {
		t.Fatalf("%d groups did not come, such as %+v", len(want), want)
	}
}

// parseGroup reads one windowed KV<varint, iterable<bytes>>.
func (r *reader) parseGroup(t *rapid.T, b []byte) (k groupKey, g group, rest []byte) {
	g.timestamp = int64(binary.BigEndian.Uint64(b) ^ 1<<63)
	if windows := binary.BigEndian.Uint32(b[8:]); windows != 1 {
		t.Fatalf("an element in %d windows", windows)
	}
	n, err := r.in.Window().Skip(b[12:])
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		w, _, err := windowing.DecodeInterval(b[12:])
		if err != nil {
			t.Fatal(err)
		}
		k.window = interval{w.Start, w.End}
	}
	b = b[12+n:]
	if b[0] != coders.PaneOnTimeOnly {
		t.Fatalf("pane is %#x", b[0])
	}
	key, n := binary.Uvarint(b[1:])
	k.key = int64(key)
	b = b[1+n:]
	count := binary.BigEndian.Uint32(b)
	b = b[4:]
	if count == math.MaxUint32 {
		g.values, rest = r.readAll(t, b)
	} else {
		g.values, rest = cutValues(b, int(count))
	}
	slices.Sort(g.values)
	return k, g, rest
}

func cutValues(b []byte, count int) (values []string, rest []byte) {
	for range count {
		size, n := binary.Uvarint(b)
		values = append(values, string(b[n:n+int(size)]))
		b = b[n+int(size):]
	}
	return values, b
}

// readAll reads what stands after the count of an iterable of unknown length: the mark of
// a token, the token's length and the token.
func (r *reader) readAll(t *rapid.T, b []byte) (values []string, rest []byte) {
	if mark, n := binary.Uvarint(b); mark != math.MaxUint64 {
		t.Fatalf("a block of %d values", mark)
	} else {
		b = b[n:]
	}
	size, n := binary.Uvarint(b)
	token, rest := b[n:n+int(size)], b[n+int(size):]
	r.tokens++
	var next []byte
	for begun := false; !begun || len(next) > 0; begun = true {
		data, after, err := r.values.Read(token, next, r.page)
		if err != nil {
			t.Fatal(err)
		}
		r.pages++
		if most := max(r.page, 2*20_003); len(data) > most || len(data) == 0 {
			t.Fatalf("a page of %d bytes, %d were asked for", len(data), r.page)
		}
		for len(data) > 0 {
			var one []string
			one, data = cutValues(data, 1)
			values = append(values, one...)
		}
		next = after
	}
	return values, rest
}

func TestValuesKeepTheirOrderInMemory(t *testing.T) {
	table, err := New(Config{Input: layout(t, false), Windowing: strategies(t)["global"]})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var want []byte
	for i := range 10_000 {
		e := input{windows: []interval{{}}, key: int64(i % 2), value: strings.Repeat("v", i%37) + string(rune(i))}
		if err := table.Add(e.append(nil, true)); err != nil {
			t.Fatal(err)
		}
		if e.key == 0 {
			want = coders.AppendBytes(want, []byte(e.value))
		}
	}
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	f, err := groups.Next(0)
	if err != nil || f.Elements != 1 || !strings.HasSuffix(string(f.Data), string(want)) {
		t.Errorf("the first group of %d, error %v, does not have its values in order", f.Elements, err)
	}
}

func TestRefusals(t *testing.T) {
	keyed := layout(t, false)
	elements, err := coders.NewWindowed(keyed.Element().Components()[0], keyed.Window())
	if err != nil {
		t.Fatal(err)
	}
	global := strategies(t)["global"]
	for name, c := range map[string]struct {
		cfg  Config
		want fault.Class
	}{
		"no coder":        {Config{Windowing: global}, fault.Invalid},
		"not keyed":       {Config{Input: elements, Windowing: global}, fault.Invalid},
		"no windowing":    {Config{Input: keyed}, fault.Invalid},
		"negative memory": {Config{Input: keyed, Windowing: global, MemoryBytes: -1}, fault.Invalid},
		"custom, merging": {Config{Input: keyed, Windowing: &windowing.Strategy{Kind: windowing.Custom, Merging: true}}, fault.Invalid},
	} {
		if _, err := New(c.cfg); fault.ClassOf(err) != c.want {
			t.Errorf("%s: error is %v, want class %v", name, err, c.want)
		}
	}
}

func TestDamagedBlocksAreCorruption(t *testing.T) {
	element := input{windows: []interval{{}}, key: 3, value: "value"}.append(nil, true)
	twice := slices.Clone(element)
	binary.BigEndian.PutUint32(twice[8:], 1<<30)
	for name, block := range map[string][]byte{
		"cut":             element[:len(element)-1],
		"more":            append(slices.Clone(element), 0),
		"a billion times": twice,
	} {
		table, err := New(Config{Input: layout(t, false), Windowing: strategies(t)["global"]})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Add(block); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: error is %v, want a corruption", name, err)
		}
		if err := cmp.Or(table.Close(), table.Close()); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
	}
}

func FuzzAdd(f *testing.F) {
	for _, s := range strategies(f) {
		f.Add(input{timestamp: 5, windows: []interval{{0, 10}, {5, 15}}, key: 3, value: "value"}.append(nil, s.Kind == windowing.Global))
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		for name, s := range strategies(t) {
			table, err := New(Config{Input: layout(t, s.Kind != windowing.Global), Windowing: s, Merge: mergeIntersecting})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			if err := table.Add(block); err != nil {
				if fault.ClassOf(err) != fault.Corruption {
					t.Fatalf("%s: error is %v, want a corruption", name, err)
				}
				continue
			}
			groups, err := table.Drain()
			for err == nil {
				_, err = groups.Next(100)
			}
			if err != io.EOF && fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("%s: error is %v, want a corruption", name, err)
			}
		}
	})
}
