// Package statebackendtest is what every state backend passes.
package statebackendtest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/statebackend"
)

// Run runs the suite; open opens a backend without stores, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) statebackend.Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, statebackend.Backend)
	}{
		{"Model", testModel},
		{"Many", testMany},
		{"Empty", testEmpty},
		{"Append", testAppend},
		{"OrderInBatch", testOrderInBatch},
		{"Endless", testEndless},
		{"Large", testLarge},
		{"CopiesBatch", testCopiesBatch},
		{"SnapshotsWhileCommitting", testSnapshotsWhileCommitting},
		{"StoresAreApart", testStoresAreApart},
		{"Close", testClose},
		{"Images", testImages},
		{"ImageWhileCommitting", testImageWhileCommitting},
		{"ImagesFollowChanges", testImagesFollowChanges},
		{"Rescale", testRescale},
		{"DamagedImages", testDamagedImages},
		{"ImageErrors", testImageErrors},
		{"Overlay", testOverlay},
		{"OverlayOfFew", testOverlayOfFew},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			b := open(t)
			c.test(t, b)
			if err := b.Close(); err != nil {
				t.Errorf("closing the backend: %v", err)
			}
		})
	}
}

// fataler is a *testing.T, a *testing.B or a *rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func openStore(t fataler, b statebackend.Backend, name string) (statebackend.Store, func()) {
	t.Helper()
	s, err := b.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatalf("closing store %s: %v", name, err)
		}
	}
}

func commit(t fataler, s statebackend.Store, b *statebackend.Batch) {
	t.Helper()
	if err := s.Commit(b); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// commitChanges commits changes that it draws, to a store and to its model. The batch is scratch.
func commitChanges(t *rapid.T, s statebackend.Store, m model, batch *statebackend.Batch, changes int, drawKey func(*rapid.T, string) []byte) {
	t.Helper()
	batch.Reset()
	for range changes {
		drawChange(t, drawKey, batch)
	}
	commit(t, s, batch)
	m.commit(batch)
}

func snapshot(t fataler, s statebackend.Store) statebackend.Snapshot {
	t.Helper()
	v, err := s.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return v
}

func closeSnapshot(t fataler, v statebackend.Snapshot) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatalf("closing a snapshot: %v", err)
	}
}

// expect checks all of r and the values of keys.
func expect(t fataler, r statebackend.Reader, m model, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if d := m.differenceAt(r, []byte(k)); d != "" {
			t.Fatal(d)
		}
	}
	if d := m.difference(r, nil, nil, all); d != "" {
		t.Fatal(d)
	}
}

// testModel compares random commits, reads and snapshots with a map.
func testModel(t *testing.T, b statebackend.Backend) {
	rounds := 0
	rapid.Check(t, func(t *rapid.T) {
		rounds++
		s, closeStore := openStore(t, b, strconv.Itoa(rounds))
		type pinned struct {
			statebackend.Snapshot
			model
		}
		m, pins := model{}, []pinned{}
		defer func() {
			for _, p := range pins {
				closeSnapshot(t, p)
			}
			closeStore()
		}()
		read := func(t *rapid.T, r statebackend.Reader, m model) {
			if d := m.differenceAt(r, drawKey(t, "key")); d != "" {
				t.Fatal(d)
			}
			from, to := drawRange(t, drawKey)
			if d := m.difference(r, from, to, rapid.IntRange(1, 50).Draw(t, "limit")); d != "" {
				t.Fatal(d)
			}
		}
		var batch statebackend.Batch
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				commitChanges(t, s, m, &batch, rapid.IntRange(0, 30).Draw(t, "changes"), drawKey)
			},
			"fill": func(t *rapid.T) {
				batch.Reset()
				first, step := rapid.IntRange(0, 3000).Draw(t, "first"), rapid.IntRange(-7, 7).Draw(t, "step")
				for i := range rapid.IntRange(0, 300).Draw(t, "keys") {
					n := first + i*step
					batch.Append([]byte{'k', byte(n >> 8), byte(n)}, []byte("fill"))
				}
				commit(t, s, &batch)
				m.commit(&batch)
			},
			"read": func(t *rapid.T) { read(t, s, m) },
			"pin": func(t *rapid.T) {
				if len(pins) < 4 {
					pins = append(pins, pinned{snapshot(t, s), m.clone()})
				}
			},
			"read pinned": func(t *rapid.T) {
				if len(pins) > 0 {
					p := rapid.SampledFrom(pins).Draw(t, "pin")
					read(t, p, p.model)
				}
			},
			"unpin": func(t *rapid.T) {
				if len(pins) > 0 {
					i := rapid.IntRange(0, len(pins)-1).Draw(t, "pin")
					expect(t, pins[i], pins[i].model)
					closeSnapshot(t, pins[i])
					pins = slices.Delete(pins, i, i+1)
				}
			},
			"": func(t *rapid.T) { expect(t, s, m) },
		})
	})
}

// testMany has enough keys for every depth and file of an implementation, and removes them
// in several ways.
func testMany(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "many")
	defer closeStore()
	const n = 20000
	key := func(i int) []byte { return fmt.Appendf(nil, "key %06d", i*7919%n) }
	m := model{}
	apply := func(from, to int, change func(b *statebackend.Batch, key []byte)) {
		t.Helper()
		var batch statebackend.Batch
		for i := from; i < to; i++ {
			if change(&batch, key(i)); batch.Len() == 500 || i == to-1 {
				commit(t, s, &batch)
				m.commit(&batch)
				batch.Reset()
			}
		}
		expect(t, s, m, string(key(from)), string(key(to-1)))
	}
	apply(0, n, func(b *statebackend.Batch, key []byte) { b.Set(key, key[4:]) })
	pinned := snapshot(t, s)
	before := m.clone()
	apply(0, n/2, func(b *statebackend.Batch, key []byte) { b.Append(key, key) })
	apply(n/4, n*3/4, func(b *statebackend.Batch, key []byte) { b.Delete(key) })
	apply(0, 1, func(b *statebackend.Batch, _ []byte) { b.DeleteRange([]byte("key 004321"), []byte("key 015432")) })
	apply(0, n, func(b *statebackend.Batch, key []byte) { b.Set(key, nil) })
	apply(0, n-3, func(b *statebackend.Batch, key []byte) { b.Delete(key) })
	apply(0, 1, func(b *statebackend.Batch, _ []byte) { b.DeleteRange(nil, nil) })
	expect(t, s, model{})
	expect(t, pinned, before, string(key(1)), string(key(n/3)))
	closeSnapshot(t, pinned)
}

// testEmpty: an empty value is a value.
func testEmpty(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "")
	defer closeStore()
	expect(t, s, model{}, "none")
	commit(t, s, new(statebackend.Batch))
	var batch statebackend.Batch
	batch.Set([]byte("set"), nil)
	batch.Append([]byte("append"), []byte{})
	batch.Append([]byte("twice"), nil)
	batch.Append([]byte("twice"), nil)
	batch.Delete([]byte("never there"))
	batch.DeleteRange([]byte("x"), []byte("a"))
	batch.DeleteRange([]byte("set"), []byte("set"))
	commit(t, s, &batch)
	v := snapshot(t, s)
	defer closeSnapshot(t, v)
	for _, r := range []statebackend.Reader{s, v} {
		expect(t, r, model{"set": "", "append": "", "twice": ""}, "set", "append", "twice", "never there")
	}
}

func testAppend(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "append")
	defer closeStore()
	m := model{}
	for _, changes := range []func(b *statebackend.Batch){
		func(b *statebackend.Batch) { b.Append([]byte("bag"), []byte("to absent,")) },
		func(b *statebackend.Batch) { b.Append([]byte("bag"), []byte("to present,")) },
		func(b *statebackend.Batch) { b.Set([]byte("bag"), []byte("set,")) },
		func(b *statebackend.Batch) {
			b.Append([]byte("bag"), []byte("after set,"))
			b.Append([]byte("bag"), []byte("again,"))
		},
		func(b *statebackend.Batch) { b.Delete([]byte("bag")); b.Append([]byte("bag"), []byte("after delete,")) },
		func(b *statebackend.Batch) {
			b.DeleteRange([]byte("b"), []byte("c"))
			b.Append([]byte("bag"), []byte("after range,"))
		},
		func(b *statebackend.Batch) { b.Append([]byte("bag"), nil) },
		func(b *statebackend.Batch) { b.Append([]byte("bag"), []byte("gone")); b.Delete([]byte("bag")) },
		func(b *statebackend.Batch) { b.Append([]byte("bag"), []byte("new")) },
		func(b *statebackend.Batch) { b.Append([]byte("bag"), []byte("gone")); b.DeleteRange(nil, nil) },
	} {
		var batch statebackend.Batch
		changes(&batch)
		commit(t, s, &batch)
		m.commit(&batch)
		expect(t, s, m, "bag")
	}
	for i := range 3000 {
		var batch statebackend.Batch
		batch.Append([]byte("bag"), fmt.Appendf(nil, "%d,", i))
		commit(t, s, &batch)
		m.commit(&batch)
	}
	expect(t, s, m, "bag")
}

// testOrderInBatch: the last change to a key counts, wherever the others were committed.
func testOrderInBatch(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "order")
	defer closeStore()
	var batch statebackend.Batch
	batch.Set([]byte("b"), []byte("1"))
	batch.DeleteRange([]byte("a"), []byte("c"))
	batch.Set([]byte("a"), []byte("2"))
	batch.Set([]byte("c"), []byte("3"))
	batch.Delete([]byte("c"))
	batch.Set([]byte("c"), []byte("4"))
	batch.DeleteRange([]byte("d"), nil)
	batch.Append([]byte("d"), []byte("5"))
	commit(t, s, &batch)
	expect(t, s, model{"a": "2", "c": "4", "d": "5"}, "a", "b", "c", "d")
	commit(t, s, &batch)
	expect(t, s, model{"a": "2", "c": "4", "d": "5"}, "a", "b", "c", "d")
}

// testEndless: ranges without an end reach the highest of keys.
func testEndless(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "endless")
	defer closeStore()
	high := bytes.Repeat([]byte{0xff}, 300)
	var batch statebackend.Batch
	batch.Set([]byte("a"), nil)
	batch.Set(high, []byte("highest"))
	commit(t, s, &batch)
	expect(t, s, model{"a": "", string(high): "highest"}, string(high))
	batch.Reset()
	batch.Set(append(high, 0xff), []byte("higher in the same batch"))
	batch.DeleteRange([]byte("b"), nil)
	commit(t, s, &batch)
	expect(t, s, model{"a": ""}, string(high))
}

func testLarge(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "large")
	defer closeStore()
	large := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	m := model{}
	for range 2 {
		var batch statebackend.Batch
		batch.Set([]byte("set"), large)
		batch.Append([]byte("append"), large)
		batch.Set(large[:60_000], []byte("of a large key"))
		commit(t, s, &batch)
		m.commit(&batch)
	}
	for _, k := range []string{"set", "append", string(large[:60_000])} {
		if v, err := s.Get([]byte(k)); err != nil || string(v) != m[k] {
			t.Fatalf("value of %.10q: %d bytes and error %v, want %d as they were set", k, len(v), err, len(m[k]))
		}
	}
}

// testCopiesBatch: what a batch is used for next is not what was committed.
func testCopiesBatch(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "copies")
	defer closeStore()
	var batch statebackend.Batch
	key, value := []byte("key"), []byte("value")
	batch.Set(key, value)
	key[0], value[0] = '-', '-'
	commit(t, s, &batch)
	batch.Reset()
	batch.Set([]byte("xyz"), []byte("other"))
	expect(t, s, model{"key": "value"}, "key", "xyz")
}

// testSnapshotsWhileCommitting: snapshots are read while the owner commits, and each shows
// all of a batch or none.
func testSnapshotsWhileCommitting(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "concurrent")
	defer closeStore()
	key := func(i int) []byte { return fmt.Appendf(nil, "%03d", i) }
	var wg sync.WaitGroup
	defer wg.Wait()
	for round := range 40 {
		var batch statebackend.Batch
		for i := range 100 {
			if round%10 == 9 && i == 0 {
				batch.DeleteRange(nil, nil)
			}
			batch.Append(key(i), []byte{byte(round)})
		}
		commit(t, s, &batch)
		v := snapshot(t, s)
		want := make([]byte, 0, 16)
		for r := round; ; r-- {
			want = append([]byte{byte(r)}, want...)
			if r%10 == 9 || r == 0 {
				break
			}
		}
		wg.Go(func() {
			defer func() {
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			}()
			seen := 0
			err := v.Scan(nil, nil, func(k, value []byte) bool {
				got, err := v.Get(k)
				if seen++; err != nil || !bytes.Equal(value, want) || !bytes.Equal(got, want) {
					t.Errorf("snapshot %d, key %s: scan %v, get %v (%v), want %v", round, k, value, got, err, want)
					return false
				}
				return true
			})
			if err != nil || seen != 100 {
				t.Errorf("snapshot %d: %d keys, want 100; %v", round, seen, err)
			}
		})
	}
}

func testStoresAreApart(t *testing.T, b statebackend.Backend) {
	names := []string{"a", "A", "../a", "a/b", "", string([]byte{0, 0xff}), "a b", string(bytes.Repeat([]byte("long"), 200))}
	stores := make([]statebackend.Store, len(names))
	for i, name := range names {
		var closeStore func()
		stores[i], closeStore = openStore(t, b, name)
		defer closeStore()
		var batch statebackend.Batch
		batch.Set([]byte("name"), []byte(name))
		commit(t, stores[i], &batch)
	}
	for i, name := range names {
		expect(t, stores[i], model{"name": name}, "name")
		if _, err := b.Open(name); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("opening %q twice: %v, want it refused", name, err)
		}
	}
}

// testClose: what is closed says so, and nothing is closed under those who use it.
func testClose(t *testing.T, b statebackend.Backend) {
	s, _ := openStore(t, b, "close")
	v := snapshot(t, s)
	invalid := func(what string, err error) {
		t.Helper()
		if fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%s: %v, want an error of class invalid", what, err)
		}
	}
	reads := func(what string, r statebackend.Reader) {
		t.Helper()
		_, err := r.Get([]byte("k"))
		invalid("get from "+what, err)
		invalid("scan of "+what, r.Scan(nil, nil, func(_, _ []byte) bool { return true }))
	}
	invalid("closing a backend with an open store", b.Close())
	invalid("closing a store with an open snapshot", s.Close())
	expect(t, s, model{}, "k")
	closeSnapshot(t, v)
	reads("a closed snapshot", v)
	invalid("closing a snapshot twice", v.Close())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reads("a closed store", s)
	invalid("closing a store twice", s.Close())
	invalid("commit to a closed store", s.Commit(new(statebackend.Batch)))
	_, err := s.Snapshot()
	invalid("snapshot of a closed store", err)
	s, closeStore := openStore(t, b, "close")
	expect(t, s, model{}, "k")
	closeStore()
}
