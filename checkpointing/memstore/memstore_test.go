package memstore

import (
	"testing"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
)

func TestStore(t *testing.T) {
	checkpointingtest.Run(t, func(*testing.T) checkpointing.Store { return new(Store) })
}
