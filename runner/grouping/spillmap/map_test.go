package spillmap

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
)

type modelGroup struct {
	values  []string
	minimum int64
}

type modelKey struct{ key, window string }

// The values are framed, so that they can be told apart again whatever the order.
func frameValue(v string) (prefix, rest []byte) {
	return binary.AppendUvarint(nil, uint64(len(v))), []byte(v)
}

func unframe(t interface{ Fatalf(string, ...any) }, b []byte) (values []string) {
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || uint64(len(b)-n) < size {
			t.Fatalf("values are torn at %q", b)
		}
		values = append(values, string(b[n:n+int(size)]))
		b = b[n+int(size):]
	}
	return values
}

// testHash collides often, so that keys matter.
func testHash(key string) uint64 { return uint64(len(key)%3) << 40 }

func TestMapAgreesWithModel(t *testing.T) {
	dir := t.TempDir()
	mostRuns := 0
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.SampledFrom([]int64{1, 1 << 10, 1 << 13, 1 << 20}).Draw(t, "budget")
		m, err := New(Config{MemoryBytes: budget, Dir: dir, Combine: func(a, b int64) int64 { return min(a, b) }})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		keys := rapid.SliceOfN(rapid.StringN(0, 20, -1), 1, 30).Draw(t, "keys")
		keys = append(keys, strings.Repeat("k", rapid.SampledFrom([]int{9, 9, 100, 100, 1 << 12, 1200 << 10}).Draw(t, "long key")))
		windows := []string{"", "w", "window"}
		sizes := rapid.SampledFrom([]int{0, 1, 8, 100, 70, 10 << 10})
		model := map[modelKey]*modelGroup{}
		for i := range rapid.IntRange(0, 180).Draw(t, "values") {
			k := modelKey{rapid.SampledFrom(keys).Draw(t, "key"), rapid.SampledFrom(windows).Draw(t, "window")}
			timestamp := rapid.Int64().Draw(t, "timestamp")
			value := strings.Repeat(string(rune('a'+i%26)), sizes.Draw(t, "size"))
			prefix, rest := frameValue(value)
			if err := m.Add(testHash(k.key), []byte(k.key), []byte(k.window), timestamp, prefix, rest); err != nil {
				t.Fatal(err)
			}
			g := model[k]
			if g == nil {
				g = &modelGroup{minimum: timestamp}
				model[k] = g
			}
			g.values = append(g.values, value)
			g.minimum = min(g.minimum, timestamp)
		}
		spilled := m.Stats().Runs > 0
		mostRuns = max(mostRuns, m.Stats().Runs)
		checkRead(t, m, model, spilled)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Fatalf("%v is left after Close", left)
		}
	})
	if mostRuns <= maxFanIn {
		t.Errorf("at most %d runs were made: merging in passes was not tried", mostRuns)
	}
}

func keyOf(t rapid.TB, g *Group) []byte {
	t.Helper()
	key, err := g.AppendKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func checkRead(t *rapid.T, m *Map, model map[modelKey]*modelGroup, spilled bool) {
	cursor, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	var last *record
	for n := 0; ; n++ {
		group, err := cursor.Next()
		if err == io.EOF {
			if n != len(model) {
				t.Fatalf("%d groups were read, want %d", n, len(model))
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		k := modelKey{string(keyOf(t, group)), string(group.Window)}
		this := &record{hash: testHash(k.key), key: bytes.Clone(group.key), long: group.long != nil, window: []byte(k.window)}
		if spilled && last != nil && last.compare(this) >= 0 {
			t.Fatalf("group %.100q comes after %q", k, last.key)
		}
		last = this
		if n%7 == 3 {
			continue // Next skips the rest
		}
		var all []byte
		for {
			piece, err := cursor.Piece()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, piece...)
		}
		g := model[k]
		if g == nil {
			t.Fatalf("group %q was never added or came twice", k)
		}
		got := unframe(t, all)
		if spilled {
			slices.Sort(got)
			slices.Sort(g.values)
		}
		if !slices.Equal(got, g.values) || group.Count != uint64(len(got)) {
			t.Fatalf("group %q has %d values %.100q, want %d %.100q", k, group.Count, got, len(g.values), g.values)
		}
		if group.Timestamp != g.minimum {
			t.Fatalf("group %q has timestamp %d, want %d", k, group.Timestamp, g.minimum)
		}
		model[k] = nil
	}
}

func TestMemoryStaysWithinBudget(t *testing.T) {
	const budget = 1 << 20
	m, err := New(Config{MemoryBytes: budget, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	value := make([]byte, 100)
	for i := range uint64(50_000) {
		key := binary.BigEndian.AppendUint64(nil, i%20_000)
		if err := m.Add(i%20_000*0x9e3779b97f4a7c15, key, nil, 0, nil, value); err != nil {
			t.Fatal(err)
		}
		if s := m.Stats(); s.MemoryBytes > budget {
			t.Fatalf("%d bytes are in memory after %d values", s.MemoryBytes, i)
		}
	}
	held := 0
	for _, slab := range append(m.table.arena.slabs, m.table.arena.spare...) {
		held += len(slab)
	}
	if held > budget+slabSize {
		t.Errorf("the arena holds %d bytes", held)
	}
	if s := m.Stats(); s.Runs < 3 || s.SpilledBytes == 0 || s.Values != 50_000 {
		t.Errorf("stats are %+v", s)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	m, err := New(Config{MemoryBytes: 1, Dir: "/nonexistent/folder"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	err = m.Add(1, []byte("k"), nil, 0, nil, []byte("v"))
	if fault.ClassOf(err) != fault.Retryable || !strings.Contains(err.Error(), "/nonexistent/folder") {
		t.Errorf("error is %v", err)
	}
	if _, err := New(Config{MemoryBytes: -1}); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("error for a negative budget is %v", err)
	}
}

func TestDamagedRunsAreCorruption(t *testing.T) {
	dir := t.TempDir()
	add := func(m *Map, from, to int) {
		for i := from; i < to; i++ {
			if err := m.Add(uint64(i), binary.BigEndian.AppendUint64(nil, uint64(i)), nil, 0, nil, []byte("value")); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(damage func(content []byte) []byte) error {
		m, err := New(Config{MemoryBytes: 1 << 16, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		add(m, 0, 1000)
		path := m.runs[0].path
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cursor, err := m.Read()
		for err == nil {
			_, err = cursor.Next()
		}
		if err != io.EOF && !strings.Contains(err.Error(), path) {
			t.Errorf("error %v does not name %s", err, path)
		}
		return err
	}
	if err := read(func(c []byte) []byte { return c }); err != io.EOF {
		t.Fatalf("undamaged: %v", err)
	}
	for name, damage := range map[string]func(c []byte) []byte{
		"magic":     func(c []byte) []byte { c[0]++; return c },
		"version":   func(c []byte) []byte { c[fileHeader-1]++; return c },
		"length":    func(c []byte) []byte { c[fileHeader]++; return c },
		"contents":  func(c []byte) []byte { c[len(c)/2]++; return c },
		"truncated": func(c []byte) []byte { return c[:len(c)-1] },
		"no end":    func(c []byte) []byte { return c[:len(c)-blockHeader] },
		"empty":     func(c []byte) []byte { return nil },
	} {
		if err := read(damage); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: error is %v, want a corruption", name, err)
		}
	}
}

func FuzzRunReader(f *testing.F) {
	m, err := New(Config{MemoryBytes: 1, Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	for i, value := range []string{"", "v", strings.Repeat("long ", 100_000)} {
		if err := m.Add(7, []byte("key"), []byte("w"), 3, nil, []byte(value)); err != nil {
			f.Fatal(err)
		}
		content, err := os.ReadFile(m.runs[i].path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content[fileHeader+blockHeader:len(content)-blockHeader], 10)
	}
	f.Fuzz(func(t *testing.T, stored []byte, raw int) {
		// The checksum is made right, so that what is behind it is reached too.
		content := append([]byte(magic), version)
		block := append(make([]byte, blockHeader), stored...)
		putBlockHeader(block, 0, raw)
		content = append(content, block...)
		var buffer []byte
		for _, b := range [][]byte{content, stored} {
			r := &runReader{name: "fuzz", in: strings.NewReader(string(b)), remain: int64(len(b)), stored: &buffer}
			err := r.readFileHeader()
			for err == nil {
				err = r.next()
			}
			if err != io.EOF && fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("error is %v, want a corruption", err)
			}
		}
	})
}

// Maps that share a budget have less of it each when they become more, but some always.
func TestBudgetIsShared(t *testing.T) {
	const budget = 8 << 20
	var sharers atomic.Int64
	sharers.Store(1)
	m, err := New(Config{MemoryBytes: budget, Sharers: &sharers, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	value := make([]byte, 1000)
	add := func(n int) (most int64) {
		for i := range n {
			if err := m.Add(uint64(i), binary.BigEndian.AppendUint64(nil, uint64(i)), nil, 0, nil, value); err != nil {
				t.Fatal(err)
			}
			most = max(most, m.Stats().MemoryBytes)
		}
		return most
	}
	if most := add(5_000); most < budget/2 || m.Stats().Runs > 0 {
		t.Errorf("alone it has spilled %d runs with at most %d bytes", m.Stats().Runs, most)
	}
	for _, n := range []int64{4, 1000} {
		sharers.Store(n)
		add(1) // what is too much goes at once
		share := max(budget/n, leastShare)
		if most := add(10_000); most > share || most < share/2 {
			t.Errorf("%d sharers: at most %d bytes, want some less than %d", n, most, share)
		}
	}
}
