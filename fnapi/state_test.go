package fnapi_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
)

// memory is a StateHandler that pages its answers and notices overlapping calls.
type memory struct {
	busy sync.Mutex
	bags map[string]string
}

func (m *memory) enter() func() {
	if !m.busy.TryLock() {
		panic("calls of one bundle overlap")
	}
	return m.busy.Unlock
}

func bag(name string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{UserStateId: name}}}
}

func (m *memory) Get(key *fnpb.StateKey, token []byte) ([]byte, []byte, error) {
	defer m.enter()()
	if key.GetBagUserState().GetUserStateId() == "broken" {
		return nil, nil, errors.New("disk on fire")
	}
	all := m.bags[key.GetBagUserState().GetUserStateId()]
	at := len(token)
	end := min(at+3, len(all))
	var next []byte
	if end < len(all) {
		next = []byte(strings.Repeat("+", end))
	}
	return []byte(all[at:end]), next, nil
}

func (m *memory) Append(key *fnpb.StateKey, data []byte) error {
	defer m.enter()()
	m.bags[key.GetBagUserState().GetUserStateId()] += string(data)
	return nil
}

func (m *memory) Clear(key *fnpb.StateKey) error {
	defer m.enter()()
	delete(m.bags, key.GetBagUserState().GetUserStateId())
	return nil
}

func TestState(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			for i := range 50 {
				if err := b.StateReplace(bag("a"), fmt.Appendf(nil, "value %d", i)); err != nil {
					return err
				}
				got, err := b.StateGet(bag("a"))
				if err != nil {
					return err
				}
				if want := fmt.Sprintf("value %d", i); string(got) != want {
					return fmt.Errorf("read %q after writing %q", got, want)
				}
			}
			if err := b.StateAppend(bag("a"), []byte("!")); err != nil {
				return err
			}
			if _, err := b.StateGet(bag("broken")); err == nil || err.Error() != "disk on fire" {
				return fmt.Errorf("got error %w from a broken state", err)
			}
			return b.Drain()
		},
	})
	var all sync.WaitGroup
	for i := range 8 {
		state := &memory{bags: map[string]string{}}
		spec := plain
		spec.Descriptor = []string{"plain", "go"}[i%2]
		spec.State = state
		b := newBundle(t, h, spec)
		all.Go(func() {
			feed(t, b)
			if _, err := collect(deadline(t), b); err != nil {
				t.Errorf("Recv: %v", err)
			}
			if got := state.bags["a"]; got != "value 49!" {
				t.Errorf("state holds %q in the end", got)
			}
		})
	}
	all.Wait()
}

func TestStateWithoutHandlerIsAnError(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error { return b.StateClear(bag("a")) },
	})
	b := newBundle(t, h, plain)
	feed(t, b)
	if err := wantFailure(t, b, fault.UserCode); !strings.Contains(err.Error(), "no state") {
		t.Errorf("got %v", err)
	}
}

func TestStateOfAnEndedBundleIsAnError(t *testing.T) {
	refused := make(chan error, 1)
	aborted := make(chan struct{})
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			<-aborted
			_, err := b.StateGet(bag("a"))
			refused <- err
			return err
		},
	})
	spec := plain
	spec.State = &memory{bags: map[string]string{}}
	b := newBundle(t, h, spec)
	b.Abort(nil)
	close(aborted)
	if err := <-refused; err == nil {
		t.Error("an aborted bundle still has state")
	}
}
