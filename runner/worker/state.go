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
	// pins is nil in stages without side inputs that change.
	pins *pins
}

// Get is part of fnapi.StateHandler.
func (s *stateHandler) Get(key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_Runner_:
		return s.e.readLarge(k.Runner.GetKey(), token)
	case *fnpb.StateKey_IterableSideInput_:
		i := k.IterableSideInput
		err = s.readSide(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), func(v *sideinput.View) error {
			data, next, err = v.Iterable(i.GetWindow(), token, pageBytes)
			return err
		})
		return data, next, err
	case *fnpb.StateKey_MultimapSideInput_:
		i := k.MultimapSideInput
		err = s.readSide(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), func(v *sideinput.View) error {
			data, next, err = v.Values(i.GetWindow(), i.GetKey(), token, pageBytes)
			return err
		})
		return data, next, err
	case *fnpb.StateKey_MultimapKeysSideInput_:
		i := k.MultimapKeysSideInput
		err = s.readSide(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), func(v *sideinput.View) error {
			data, next, err = v.Keys(i.GetWindow(), token, pageBytes)
			return err
		})
		return data, next, err
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		i := k.MultimapKeysValuesSideInput
		err = s.readSide(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), func(v *sideinput.View) error {
			data, next, err = v.KeysValues(i.GetWindow(), token, pageBytes)
			return err
		})
		return data, next, err
	}
	if s.keyed == nil {
		return nil, nil, unsupportedState(key)
	}
	err = s.keyed.serve(func() error {
		data, next, err = s.keyed.get(key, token)
		return err
	})
	return data, next, err
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
