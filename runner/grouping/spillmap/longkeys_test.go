package spillmap

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
)

// longTestKey is a key of n bytes whose last ones tell it from others.
func longTestKey(n, i int) []byte {
	return append(bytes.Repeat([]byte("k"), n-1), byte('a'+i))
}

// Long keys are on disk once, however often they come, and never in memory but when they are asked for.
func TestLongKeysAreKeptOnceOnDisk(t *testing.T) {
	const size, values = 1 << 20, 5_000
	dir := t.TempDir()
	m, err := New(Config{MemoryBytes: 8 << 20, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var want [3][]string
	for i := range 600 {
		value := strings.Repeat(fmt.Sprintf("%09d,", i), values/10)
		k := i % 3
		want[k] = append(want[k], value)
		// One hash for all: only the file tells them apart.
		if err := m.Add(7, longTestKey(size, k), []byte("w"), 0, nil, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if s := m.Stats(); s.MemoryBytes > 8<<20 {
			t.Fatalf("%d bytes are in memory after %d values", s.MemoryBytes, i)
		}
	}
	if err := m.spill(); err != nil {
		t.Fatal(err)
	}
	if s := m.Stats(); s.Runs < 1 || s.SpilledBytes < 3*size || s.SpilledBytes > 3*size+600*values {
		t.Errorf("%d bytes in %d runs", s.SpilledBytes, s.Runs)
	}
	c, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	for k := range want {
		g, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(keyOf(t, g), longTestKey(size, k)) {
			t.Fatalf("group %d has key …%q", k, keyOf(t, g)[size-3:])
		}
		if got := g.KeyStart(); got != strings.Repeat("6b", 32) {
			t.Errorf("errors call it %q", got)
		}
		var got []byte
		for {
			piece, err := c.Piece()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, piece...)
		}
		var all []string
		for v := range slices.Chunk(got, values) {
			all = append(all, string(v))
		}
		slices.Sort(all)
		if !slices.Equal(all, want[k]) || g.Count != 200 {
			t.Errorf("group %d: %d bytes in %d values, want %d", k, len(got), g.Count, len(want[k]))
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left after Close", left)
	}
}

// A key that happens to be what stands for a long one is another key.
func TestNamesOfLongKeysAreNoKeys(t *testing.T) {
	for _, budget := range []int64{1, 1 << 20} {
		m, err := New(Config{MemoryBytes: budget, Dir: t.TempDir(), Sorted: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		long := longTestKey(longKey, 0)
		name, err := m.long.name(7, long)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for _, key := range [][]byte{long, name} {
				if err := m.Add(7, key, nil, 0, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		c, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]byte{name, long} {
			g, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			for {
				if _, err := c.Piece(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if got := keyOf(t, g); !bytes.Equal(got, want) || g.Count != 2 {
				t.Errorf("budget %d: %d values of a key of %d bytes, want 2 and %d", budget, g.Count, len(got), len(want))
			}
		}
		if _, err := c.Next(); err != io.EOF {
			t.Errorf("budget %d: more groups: %v", budget, err)
		}
	}
}

func TestNamesThatNameNothingAreCorruption(t *testing.T) {
	l := longKeys{dir: t.TempDir()}
	defer l.close()
	name, err := l.name(1, longTestKey(longKey, 0))
	if err != nil {
		t.Fatal(err)
	}
	beyond, negative := bytes.Clone(name), bytes.Clone(name)
	beyond[0], negative[7] = 1, 0x80
	for _, bad := range [][]byte{nil, name[:15], beyond, negative} {
		if _, err := l.appendTo(nil, bad, 1); fault.ClassOf(err) != fault.Corruption || err == nil {
			t.Errorf("%x: error is %v, want a corruption", bad, err)
		}
	}
}
