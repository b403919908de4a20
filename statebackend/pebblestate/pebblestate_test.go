package pebblestate

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/statebackendtest"
)

func TestConformance(t *testing.T) {
	statebackendtest.Run(t, func(t *testing.T) statebackend.Backend {
		return open(t, Config{Dir: "state"}, vfs.NewMem())
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

func Benchmark(b *testing.B) {
	statebackendtest.Benchmark(b, func(b *testing.B) statebackend.Backend {
		return open(b, Config{Dir: b.TempDir()}, vfs.Default)
	})
}
