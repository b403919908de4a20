package grouping

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// remote is a group that left its values behind.
type remote struct {
	token []byte
	want  []byte // its values, encoded; of a table that has spilled in another order
}

// drainRemote makes a table of some keys with many values each and drains it.
func drainRemote(t testing.TB, cfg Config, keys, values int) (*Values, []remote) {
	t.Helper()
	cfg.Input, cfg.Windowing, cfg.StateBacked = layout(t, false), strategies(t)["global"], true
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Values().Close(); err != nil {
			t.Error(err)
		}
	})
	want := make(map[int64][]byte)
	for i := range keys * values {
		e := input{windows: []interval{{}}, key: int64(i % keys), value: fmt.Sprintf("%d %s", i, strings.Repeat("v", i%97))}
		if err := table.Add(e.append(nil, true)); err != nil {
			t.Fatal(err)
		}
		want[e.key] = coders.AppendBytes(want[e.key], []byte(e.value))
	}
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	var all []remote
	for {
		f, err := groups.Next(1 << 20)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		for b := f.Data; len(b) > 0; {
			key, token, rest := cutRemote(t, b)
			all = append(all, remote{token, want[key]})
			size += int64(len(want[key]))
			b = rest
		}
		if size != f.Remote {
			t.Errorf("a frame refers to %d bytes, it says %d", size, f.Remote)
		}
	}
	if len(all) != keys {
		t.Fatalf("%d groups, want %d", len(all), keys)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	return table.Values(), all
}

// cutRemote cuts an element in the global window with a state-backed iterable.
func cutRemote(t testing.TB, b []byte) (key int64, token, rest []byte) {
	b = b[13:]
	k, n := binary.Uvarint(b)
	b = b[n:]
	const mark = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" // the count -1, then the varint -1
	if !bytes.HasPrefix(b, []byte(mark)) {
		t.Fatalf("the iterable of key %d begins with %x", k, b[:min(len(b), 20)])
	}
	b = b[len(mark):]
	size, n := binary.Uvarint(b)
	return int64(k), b[n : n+int(size)], b[n+int(size):]
}

func readRemote(v *Values, token []byte, page int) (all []byte, continuations [][]byte, err error) {
	var next []byte
	for {
		data, after, err := v.Read(token, next, page)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, data...)
		if len(after) == 0 {
			return all, continuations, nil
		}
		continuations, next = append(continuations, after), after
	}
}

var places = map[string]Config{
	"memory": {InlineBytes: 100},
	"file":   {InlineBytes: 100, MemoryBytes: 20 << 10},
}

func TestValuesAreReadByManyAtOnce(t *testing.T) {
	for name, cfg := range places {
		t.Run(name, func(t *testing.T) {
			cfg.Dir = t.TempDir()
			v, groups := drainRemote(t, cfg, 20, 300)
			var all sync.WaitGroup
			for page := range 4 {
				all.Go(func() {
					for _, g := range groups {
						for range 2 { // as a bundle that is tried again
							got, _, err := readRemote(v, g.token, 1<<(4*page))
							if err != nil || !slices.Equal(sortedValues(got), sortedValues(g.want)) {
								t.Errorf("%d bytes were read, want %d, error %v", len(got), len(g.want), err)
							}
						}
					}
				})
			}
			all.Wait()
		})
	}
}

func sortedValues(b []byte) (values []string) {
	for len(b) > 0 {
		var one []string
		one, b = cutValues(b, 1)
		values = append(values, one...)
	}
	slices.Sort(values)
	return values
}

func TestValuesInMemoryAreReadWhileOthersAreReleased(t *testing.T) {
	table, err := New(Config{Input: layout(t, false), Windowing: strategies(t)["global"], StateBacked: true, InlineBytes: 5000})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	defer table.Values().Close()
	const keys = 2000
	want := make([]byte, 0, 300*100)
	for i := range 300 {
		for key := range int64(keys) {
			if i > 20 && key%10 > 0 {
				continue // most groups are small
			}
			e := input{windows: []interval{{}}, key: key, value: strings.Repeat(string(rune('a'+i%26)), 100)}
			if err := table.Add(e.append(nil, true)); err != nil {
				t.Fatal(err)
			}
			if key == 0 {
				want = coders.AppendBytes(want, []byte(e.value))
			}
		}
	}
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	for {
		f, err := groups.Next(1)
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Remote == 0 {
			continue
		}
		_, token, _ := cutRemote(t, f.Data)
		readers.Go(func() {
			if got, _, err := readRemote(table.Values(), token, 7000); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes were read, error %v; want %d", len(got), err, len(want))
			}
		})
	}
}

func TestHostileTokens(t *testing.T) {
	for name, cfg := range places {
		t.Run(name, func(t *testing.T) {
			cfg.Dir, cfg.TokenPrefix = t.TempDir(), []byte("stage")
			v, groups := drainRemote(t, cfg, 2, 300)
			token, other := groups[0].token, groups[1].token
			_, nexts, err := readRemote(v, token, 1000)
			if err != nil || len(nexts) < 2 {
				t.Fatalf("%d continuations, error %v", len(nexts), err)
			}
			for i := range token {
				refused(t, v, token[:i], nil)
				for bit := range 8 {
					forged := slices.Clone(token)
					forged[i] ^= 1 << bit
					refused(t, v, forged, nil)
				}
			}
			for i := range nexts[0] {
				forged := slices.Clone(nexts[0])
				forged[i] ^= 0x80
				refused(t, v, token, forged)
				if i > 0 {
					refused(t, v, token, nexts[0][:i])
				}
			}
			refused(t, v, other, nexts[0])
			refused(t, v, token, token)
			refused(t, v, nexts[0], nil)
			refused(t, v, append(slices.Clone(token), 0), nil)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			refused(t, v, token, nil)
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func refused(t *testing.T, v *Values, token, continuation []byte) {
	t.Helper()
	data, next, err := v.Read(token, continuation, 1000)
	if fault.ClassOf(err) != fault.Invalid || data != nil || next != nil {
		t.Errorf("token %x, continuation %x: %d bytes, error %v; want it refused as invalid", token, continuation, len(data), err)
	}
}

func FuzzTokens(f *testing.F) {
	v, groups := drainRemote(f, Config{InlineBytes: 100}, 1, 300)
	_, next, err := v.Read(groups[0].token, nil, 1000)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(groups[0].token, next)
	f.Fuzz(func(t *testing.T, token, continuation []byte) {
		if _, _, err := v.Read(token, continuation, 100); err != nil && fault.ClassOf(err) != fault.Invalid {
			t.Errorf("error is %v, want it invalid", err)
		}
	})
}

func TestLargeGroupIsRefusedWhereItMustTravel(t *testing.T) {
	for name, s := range strategies(t) {
		for _, memory := range []int64{0, 1} {
			in := layout(t, name != "global")
			table, err := New(Config{Input: in, Windowing: s, InlineBytes: 1000, MemoryBytes: memory, Dir: t.TempDir(), Merge: mergeIntersecting})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			for range 30 {
				e := input{windows: []interval{{0, 10}}, key: 3, value: strings.Repeat("v", 100)}
				if err := table.Add(e.append(nil, name == "global")); err != nil {
					t.Fatal(err)
				}
			}
			groups, err := table.Drain()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := groups.Next(1); fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "more than 1000 bytes") {
				t.Errorf("%s: error is %v, want a refusal that tells the limit", name, err)
			}
		}
	}
}

func TestMemoryOfLargeSessionsIsBounded(t *testing.T) {
	table, err := New(Config{Input: layout(t, true), Windowing: strategies(t)["sessions"], StateBacked: true, MemoryBytes: 1 << 20, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	defer table.Values().Close()
	const values = 200_000 // of 20 bytes, in one session, backwards
	var block []byte
	for i := range int64(values) {
		at := values - i
		block = input{timestamp: at, windows: []interval{{at, at + 10}}, key: 1, value: fmt.Sprintf("%020d", at)}.append(block[:0], false)
		if err := table.Add(block); err != nil {
			t.Fatal(err)
		}
	}
	groups, err := table.Drain()
	if err != nil {
		t.Fatal(err)
	}
	f, err := groups.Next(1 << 20)
	if err != nil || f.Elements != 1 || f.Remote != values*21 || cap(groups.sessions.values)+cap(groups.values.bytes) > 1<<20 {
		t.Fatalf("got %d elements of %d bytes, error %v, and held %d bytes", f.Elements, f.Remote, err, cap(groups.sessions.values)+cap(groups.values.bytes))
	}
	if _, err := groups.Next(1 << 20); err != io.EOF {
		t.Errorf("error is %v, want the end", err)
	}
	if spilled := table.Stats().SpilledBytes; spilled < 2*f.Remote/2 {
		t.Errorf("%d bytes were spilled", spilled)
	}
}
