package memstate

import (
	"testing"

	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/statebackendtest"
)

func TestConformance(t *testing.T) {
	statebackendtest.Run(t, func(*testing.T) statebackend.Backend { return New() })
}

func Benchmark(b *testing.B) {
	statebackendtest.Benchmark(b, func(*testing.B) statebackend.Backend { return New() })
}
