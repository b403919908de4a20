package tieredstate

import (
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
	"github.com/lintelrun/lintel/statebackend/statebackendtest"
)

func open(t testing.TB, budget int64) *Backend {
	t.Helper()
	return New(budget, openDisk(t))
}

func openDisk(t testing.TB) *pebblestate.Backend {
	t.Helper()
	disk, err := pebblestate.New(pebblestate.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

func TestConformance(t *testing.T) {
	for _, budget := range []int64{1000, 1 << 30} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			statebackendtest.Run(t, func(t *testing.T) statebackend.Backend { return open(t, budget) })
		})
	}
}

func Benchmark(b *testing.B) {
	statebackendtest.Benchmark(b, func(b *testing.B) statebackend.Backend { return open(b, 1<<30) })
}

// State goes from every backend to every other and back: by whole images, and by those that cost least where
// neither has to read tables without a disk.
func TestRescaleBetweenBackends(t *testing.T) {
	testkit.Leaks(t)
	backends := []struct {
		name   string
		tables bool // are in its images
		statebackend.Backend
	}{
		{"memory", false, memstate.New()},
		{"disk", true, openDisk(t)},
		{"tiered, in memory", false, open(t, 1<<30)},
		{"tiered, on disk", true, open(t, 1000)},
	}
	for i, first := range backends {
		for j, second := range backends {
			if i == j {
				continue // as in TestConformance
			}
			t.Run(first.name+"/"+second.name, func(t *testing.T) {
				statebackendtest.Rescale(t, first.Backend, second.Backend, true)
				if i > 0 && j > 0 || !first.tables && !second.tables {
					statebackendtest.Rescale(t, first.Backend, second.Backend, false)
				}
			})
		}
	}
	for _, b := range backends {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Large stores go to disk once the budget is used up, small ones stay. What was pinned before
// is seen until it is let go, and then its memory is free again.
func TestStoresMoveOnceTheyAreLarge(t *testing.T) {
	b := open(t, 100_000)
	stores := map[string]*Store{}
	for _, name := range []string{"large", "small"} {
		s, err := b.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		stores[name] = s.(*Store)
	}
	write := func(s *Store, from, to int) {
		t.Helper()
		var batch statebackend.Batch
		for i := from; i < to; i++ {
			batch.Set(fmt.Append(nil, "key", i), []byte("value"))
		}
		if err := s.Commit(&batch); err != nil {
			t.Fatal(err)
		}
	}
	count := func(r statebackend.Reader) (n int) {
		t.Helper()
		if err := r.Scan(nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	large, small := stores["large"], stores["small"]
	write(large, 0, 500)
	v, err := large.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if large.OnDisk() {
		t.Fatal("it has moved before the budget is used up")
	}
	write(large, 500, 2000)
	write(small, 0, 10)
	if !large.OnDisk() || small.OnDisk() {
		t.Errorf("on disk: large %v, small %v", large.OnDisk(), small.OnDisk())
	}
	if count(v) != 500 || count(large) != 2000 || count(small) != 10 {
		t.Errorf("%d, %d and %d keys, want 500, 2000 and 10", count(v), count(large), count(small))
	}
	before := b.used.Load()
	if err := v.Close(); err != nil || b.used.Load() >= before || b.used.Load() != small.used {
		t.Errorf("%d bytes of memory are in use after %d, %v", b.used.Load(), before, err)
	}
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := b.Close(); err != nil || b.used.Load() != 0 {
		t.Errorf("%d bytes are in use at the end; %v", b.used.Load(), err)
	}
}
