package worker

import (
	"errors"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi"
)

// gate stands before what the state requests of a job read. One may still be
// under way when its bundle has been aborted: close waits for it and lets no
// other pass.
type gate struct {
	mu     sync.RWMutex // held while a request is served
	closed bool
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

var errGateClosed = errors.New("the job has ended")

// gated is a StateHandler behind the gate.
type gated struct {
	gate *gate
	next fnapi.StateHandler
}

func (g gated) Get(key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	g.gate.mu.RLock()
	defer g.gate.mu.RUnlock()
	if g.gate.closed {
		return nil, nil, errGateClosed
	}
	return g.next.Get(key, token)
}

func (g gated) Append(key *fnpb.StateKey, data []byte) error {
	g.gate.mu.RLock()
	defer g.gate.mu.RUnlock()
	if g.gate.closed {
		return errGateClosed
	}
	return g.next.Append(key, data)
}

func (g gated) Clear(key *fnpb.StateKey) error {
	g.gate.mu.RLock()
	defer g.gate.mu.RUnlock()
	if g.gate.closed {
		return errGateClosed
	}
	return g.next.Clear(key)
}
