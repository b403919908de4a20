package worker

import (
	"errors"
	"sync/atomic"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// slowState answers reads when it is let.
type slowState struct {
	asked, answer chan struct{}
	answered      atomic.Bool
}

func (s *slowState) Get(*fnpb.StateKey, []byte) (data, next []byte, err error) {
	close(s.asked)
	<-s.answer
	s.answered.Store(true)
	return []byte("data"), nil, nil
}

func (s *slowState) Append(*fnpb.StateKey, []byte) error { return nil }
func (s *slowState) Clear(*fnpb.StateKey) error          { return nil }

// What state requests read is freed when the gate is closed: not before the last
// request under way has its answer, and none may begin later.
func TestGateWaitsForRequestsUnderWay(t *testing.T) {
	g := &gate{}
	s := &slowState{asked: make(chan struct{}), answer: make(chan struct{})}
	h := gated{g, s}
	read := make(chan error, 1)
	go func() {
		_, _, err := h.Get(nil, nil)
		read <- err
	}()
	<-s.asked
	closed := make(chan bool, 1)
	go func() {
		g.close()
		closed <- s.answered.Load()
	}()
	if g.mu.TryLock() {
		t.Error("the gate can be closed while a request is under way")
		g.mu.Unlock()
	}
	close(s.answer)
	if !<-closed {
		t.Error("the gate was closed before the request had its answer")
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	_, _, err := h.Get(nil, nil)
	for _, err := range []error{err, h.Append(nil, nil), h.Clear(nil)} {
		if !errors.Is(err, errGateClosed) {
			t.Errorf("error %v behind a closed gate", err)
		}
	}
}
