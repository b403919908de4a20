package worker

import (
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/sideinput"
)

// pageBytes is about how much one state response carries.
const pageBytes = 1 << 20

// stateHandler serves the state requests of one bundle.
type stateHandler struct {
	e    *execution
	spec *plan.ExecutableSpec
	// keyed is nil in stages without user state.
	keyed *keyedAttempt
}

// Get is part of fnapi.StateHandler.
func (s *stateHandler) Get(key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_Runner_:
		return s.e.readLarge(k.Runner.GetKey(), token)
	case *fnpb.StateKey_IterableSideInput_:
		i := k.IterableSideInput
		v, err := s.view(i.GetTransformId(), i.GetSideInputId())
		if err != nil {
			return nil, nil, err
		}
		return v.Iterable(i.GetWindow(), token, pageBytes)
	case *fnpb.StateKey_MultimapSideInput_:
		i := k.MultimapSideInput
		v, err := s.view(i.GetTransformId(), i.GetSideInputId())
		if err != nil {
			return nil, nil, err
		}
		return v.Values(i.GetWindow(), i.GetKey(), token, pageBytes)
	case *fnpb.StateKey_MultimapKeysSideInput_:
		i := k.MultimapKeysSideInput
		v, err := s.view(i.GetTransformId(), i.GetSideInputId())
		if err != nil {
			return nil, nil, err
		}
		return v.Keys(i.GetWindow(), token, pageBytes)
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		i := k.MultimapKeysValuesSideInput
		v, err := s.view(i.GetTransformId(), i.GetSideInputId())
		if err != nil {
			return nil, nil, err
		}
		return v.KeysValues(i.GetWindow(), token, pageBytes)
	}
	if s.keyed == nil {
		return nil, nil, unsupportedState(key)
	}
	err = s.keyed.serve(func() error {
		data, err = s.keyed.get(key)
		return err
	})
	return data, nil, err
}

// Append is part of fnapi.StateHandler.
func (s *stateHandler) Append(key *fnpb.StateKey, data []byte) error {
	if s.keyed == nil {
		return unsupportedState(key)
	}
	return s.keyed.serve(func() error { return s.keyed.add(key, data) })
}

// Clear is part of fnapi.StateHandler.
func (s *stateHandler) Clear(key *fnpb.StateKey) error {
	if s.keyed == nil {
		return unsupportedState(key)
	}
	return s.keyed.serve(func() error { return s.keyed.clear(key) })
}

func unsupportedState(key *fnpb.StateKey) error {
	return fault.New(fault.Unsupported, "state request for a key of type %T", key.GetType())
}

func (s *stateHandler) view(transform, name string) (*sideinput.View, error) {
	for _, ref := range s.spec.SideInputs {
		if ref.Transform != transform || ref.Name != name {
			continue
		}
		if v := s.e.sides[ref.Stage.Index].Load(); v != nil {
			return v, nil
		}
		return nil, fault.New(fault.Internal, "side input %s of %s is not ready", name, transform)
	}
	return nil, fault.New(fault.Invalid, "transform %q has no side input %q in this stage", transform, name)
}
