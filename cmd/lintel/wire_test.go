package main

import (
	"log/slog"
	"testing"

	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/tieredstate"
)

// Small states stay in memory, also where no budget is configured.
func TestSmallStatesAreInMemory(t *testing.T) {
	for _, budget := range []int64{0, 64 << 20} {
		b, err := openState(serverConfig{log: slog.New(slog.DiscardHandler), stateBackend: stateTiered, memoryBudget: budget}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.Open("task")
		if err != nil {
			t.Fatal(err)
		}
		var batch statebackend.Batch
		batch.Set([]byte("key"), []byte("value"))
		if err := s.Commit(&batch); err != nil {
			t.Fatal(err)
		}
		if s.(*tieredstate.Store).OnDisk() {
			t.Errorf("with a budget of %d bytes a small state is on disk", budget)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
