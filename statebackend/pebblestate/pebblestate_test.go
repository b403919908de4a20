package pebblestate

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/statebackendtest"
)

func TestConformance(t *testing.T) {
	statebackendtest.Run(t, func(t *testing.T) statebackend.Backend {
		return open(t, Config{Dir: "state"}, vfs.NewMem())
	})
}

// TestConformanceOfSmallTables has what the suite writes go through files and compactions.
func TestConformanceOfSmallTables(t *testing.T) {
	statebackendtest.Run(t, func(t *testing.T) statebackend.Backend {
		return open(t, Config{Dir: "state", MemTableBytes: 16 << 10, CacheBytes: 1 << 20, OpenFiles: 8}, vfs.NewMem())
	})
}

func Benchmark(b *testing.B) {
	statebackendtest.Benchmark(b, func(b *testing.B) statebackend.Backend {
		return open(b, Config{Dir: b.TempDir()}, vfs.Default)
	})
}

func open(t testing.TB, cfg Config, fs vfs.FS) *Backend {
	t.Helper()
	b, err := newBackend(cfg, fs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// restoreStore opens a store of which images are taken, empty.
func restoreStore(t testing.TB, b *Backend, name string) *Store {
	t.Helper()
	s, err := b.Restore(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Store)
}

func openStore(t testing.TB, b *Backend, name string) *Store {
	t.Helper()
	s, err := b.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Store)
}

func closeAll(t testing.TB, s *Store, b *Backend) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func set(t testing.TB, s *Store, key, value string) {
	t.Helper()
	var batch statebackend.Batch
	batch.Set([]byte(key), []byte(value))
	if err := s.Commit(&batch); err != nil {
		t.Fatal(err)
	}
}

func contents(t testing.TB, r statebackend.Reader) string {
	t.Helper()
	var b strings.Builder
	if err := r.Scan(nil, nil, func(k, v []byte) bool { fmt.Fprintf(&b, "%s=%s ", k, v); return true }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// On a real file system, a store that is kept is there again, and one that is not leaves
// nothing, whether it is closed or was left by a crash.
func TestKeep(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	for _, step := range []struct {
		keep         bool
		before, then string
	}{
		{true, "", "1=x "},
		{true, "1=x ", "1=x 2=x "},
		{false, "", "3=x "}, // as after a crash: files of another time are no use
		{true, "", "4=x "},
	} {
		b, err := New(Config{Dir: dir, Keep: step.keep, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s := openStore(t, b, "task 1/2")
		if got := contents(t, s); got != step.before {
			t.Errorf("%+v: the store begins with %q", step, got)
		}
		set(t, s, strings.Fields(step.then)[strings.Count(step.then, "=")-1][:1], "x")
		if got := contents(t, s); got != step.then {
			t.Errorf("%+v: the store has %q", step, got)
		}
		closeAll(t, s, b)
		left, err := os.ReadDir(dir)
		if err != nil || (len(left) > 0) != step.keep {
			t.Errorf("%+v: left in the folder: %v, %v", step, left, err)
		}
	}
}

// A crash at any moment leaves all of the commits up to one of them, and nothing of the
// next: among them those that had been written to a file.
func TestCrash(t *testing.T) {
	testkit.Leaks(t)
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		cfg := Config{Dir: "state", Keep: true, MemTableBytes: 32 << 10}
		b := open(t, cfg, fs)
		s := openStore(t, b, "task")
		after := []string{contents(t, s)} // each commit
		flushed := 0
		var crashed *vfs.MemFS
		const commits = 60
		crashAt := rng.IntN(commits)
		for i := range commits {
			var batch statebackend.Batch
			if rng.IntN(10) == 0 {
				batch.DeleteRange([]byte{byte('a' + rng.IntN(26))}, nil)
			}
			for range rng.IntN(40) {
				key := []byte{byte('a' + rng.IntN(26))}
				if rng.IntN(3) == 0 {
					batch.Set(key, fmt.Appendf(nil, "set %d;", i))
				} else {
					batch.Append(key, bytes.Repeat([]byte{byte('0' + i%10)}, rng.IntN(100)))
				}
			}
			if err := s.Commit(&batch); err != nil {
				t.Fatal(err)
			}
			after = append(after, contents(t, s))
			if rng.IntN(20) == 0 {
				if err := s.db.Flush(); err != nil {
					t.Fatal(err)
				}
				flushed = i + 1
			}
			if i == crashAt {
				crashed = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				break
			}
		}
		closeAll(t, s, b)

		b = open(t, cfg, crashed)
		s = openStore(t, b, "task")
		got := contents(t, s)
		found := -1
		for i, want := range after {
			if got == want {
				found = i
			}
		}
		if found < flushed {
			t.Errorf("seed %d: after a crash after commit %d, %d being flushed, the state is that after %d: %.200q",
				seed, crashAt+1, flushed, found, got)
		}
		closeAll(t, s, b)
	}
}

// A disk that fails gives errors that say so; what was read before stays right.
func TestFailingDisk(t *testing.T) {
	testkit.Leaks(t)
	mem := vfs.NewMem()
	fails := new(errorfs.Toggle)
	fails.Injector = errorfs.ErrInjected.If(errorfs.Reads)
	b := open(t, Config{Dir: "state", CacheBytes: 1}, errorfs.Wrap(mem, fails))
	s := openStore(t, b, "task")
	for i := range 1000 {
		set(t, s, fmt.Sprint("key ", i), "value")
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	fails.On()
	v, err := s.Get([]byte("key 500"))
	if err == nil || !strings.Contains(err.Error(), `"task"`) {
		t.Errorf("get: %q, %v; want an error that names the store", v, err)
	}
	if err := s.Scan(nil, nil, func(_, _ []byte) bool { return true }); err == nil {
		t.Error("scan: no error")
	}
	fails.Off()
	if v, err := s.Get([]byte("key 500")); err != nil || string(v) != "value" {
		t.Errorf("get when the disk is back: %q, %v", v, err)
	}
	closeAll(t, s, b)
}

// Damaged files are told from failures.
func TestDamagedFile(t *testing.T) {
	testkit.Leaks(t)
	fs := vfs.NewMem()
	b := open(t, Config{Dir: "state", CacheBytes: 1, Keep: true}, fs)
	s := openStore(t, b, "task")
	for i := range 1000 {
		set(t, s, fmt.Sprint("key ", i), strings.Repeat("value", 20))
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	files, err := fs.List(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite(fs.PathJoin(s.dir, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 64), 100); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Scan(nil, nil, func(_, _ []byte) bool { return true }); fault.ClassOf(err) != fault.Corruption {
		t.Errorf("scan: %v, want an error of class corruption", err)
	}
	closeAll(t, s, b)
}

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Dir: "d", CacheBytes: -1},
		{Dir: "d", MemTableBytes: -1},
		{Dir: "d", OpenFiles: -1},
	} {
		if _, err := newBackend(cfg, vfs.NewMem()); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%+v: %v, want it refused", cfg, err)
		}
	}
}

func TestStats(t *testing.T) {
	testkit.Leaks(t)
	b := open(t, Config{Dir: "state"}, vfs.NewMem())
	s := openStore(t, b, "task")
	before := s.Stats()
	set(t, s, "key", strings.Repeat("0123456789", 10_000))
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if after := s.Stats(); after.DiskBytes <= before.DiskBytes || after.MemTableBytes <= 0 {
		t.Errorf("%+v, and %+v after a write", before, after)
	}
	closeAll(t, s, b)
}

func TestConcatenation(t *testing.T) {
	operands := []string{"", "a", strings.Repeat("b", 100), "", "c", strings.Repeat("d", 1000), "e"}
	want := strings.Join(operands, "")
	newer, err := appendMerger.Merge(nil, []byte(operands[0]))
	if err != nil {
		t.Fatal(err)
	}
	older, err := appendMerger.Merge(nil, []byte(operands[len(operands)-1]))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(operands); i++ {
		if err := newer.MergeNewer([]byte(operands[i])); err != nil {
			t.Fatal(err)
		}
		if err := older.MergeOlder([]byte(operands[len(operands)-1-i])); err != nil {
			t.Fatal(err)
		}
	}
	for what, m := range map[string]pebble.ValueMerger{"newer": newer, "older": older} {
		if got, _, err := m.Finish(true); err != nil || string(got) != want {
			t.Errorf("%s: %.50q, %v", what, got, err)
		}
	}
}
