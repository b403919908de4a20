package pebblestate

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/statebackend"
)

var crashes = flag.Int("crashes", 24, "at how many random points a store crashes")

// Fault 6. After a crash at any moment, while an image is written and commits go on, the last image is restored as it
// was, and nothing is there of what the crash left; so too after a crash in the middle of that.
func TestCrashWhileImagesAreTaken(t *testing.T) {
	testkit.Leaks(t)
	cfg := Config{Dir: "state", MemTableBytes: 32 << 10}
	for seed := range uint64(*crashes / 2) { // each while an image is taken, and while it is restored
		rng := rand.New(rand.NewPCG(seed, 2))
		crash := func(fs *vfs.MemFS) *vfs.MemFS {
			return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		}
		fs := vfs.NewCrashableMem()
		b := open(t, cfg, fs)
		s := openStore(t, b, "task")
		files := map[string][]byte{}
		var p statebackend.Part
		var want string
		var writing sync.WaitGroup
		for n := range 20 + rng.IntN(40) {
			commitRandom(t, s, n, rng)
			if n > 0 && rng.IntN(3) > 0 {
				continue
			}
			writing.Wait()
			i, err := s.Image(func(name string) bool { return files[name] != nil })
			if err != nil {
				t.Fatal(err)
			}
			want = contents(t, s)
			writing.Go(func() { p = put(t, i, files) })
		}
		crashed := crash(fs)
		writing.Wait()
		closeAll(t, s, b)

		restoredIs(t, open(t, cfg, crashed), p, want)
		fs = vfs.NewCrashableMem()
		opened, crashAt, half := p, rng.IntN(len(p.Files)), 0
		opened.Open = func(ctx context.Context, f statebackend.File) (io.ReadCloser, error) {
			if half++; half == crashAt+1 {
				crashed = crash(fs)
			}
			return p.Open(ctx, f)
		}
		restoredIs(t, open(t, cfg, fs), opened, want)
		restoredIs(t, open(t, cfg, crashed), p, want)
	}
}

// restoredIs restores an image, lets the store go on, and looks whether anything is left of it.
func restoredIs(t *testing.T, b *Backend, p statebackend.Part, want string) {
	t.Helper()
	r, err := b.Restore(t.Context(), "task", []statebackend.Part{p})
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r); got != want {
		t.Errorf("restored: %.200q, want %.200q", got, want)
	}
	s := r.(*Store)
	set(t, s, "and", "on")
	taken(t, s, map[string][]byte{})
	closeAll(t, s, b)
	if left, err := b.fs.List(b.cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

func commitRandom(t *testing.T, s *Store, n int, rng *rand.Rand) {
	t.Helper()
	var batch statebackend.Batch
	for range rng.IntN(40) {
		key := fmt.Append(nil, "key ", rng.IntN(300))
		switch rng.IntN(20) {
		case 0:
			batch.DeleteRange(key, append(key, '5'))
		case 1, 2, 3:
			batch.Append(key, fmt.Append(nil, "appended ", n))
		default:
			batch.Set(key, fmt.Appendf(nil, "%0*d", rng.IntN(200), n))
		}
	}
	if err := s.Commit(&batch); err != nil {
		t.Fatal(err)
	}
}
