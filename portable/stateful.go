package portable

import (
	"fmt"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/graph"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// stateful reads what n's root, t, declares of state and timers.
func (a *assembler) stateful(n *node, t *graph.Transform) (*plan.StatefulSpec, error) {
	in, err := a.wire.compile(n.input)
	if err != nil {
		return nil, err
	}
	if !in.Keyed() {
		return nil, fault.New(fault.Invalid, "%v keeps state, sets timers or wants its input sorted, but its input %q has no keys", t, n.input)
	}
	ws, err := a.wire.endingWindows(n.input)
	if err != nil {
		return nil, err
	}
	spec := &plan.StatefulSpec{
		Transform:  t.ID,
		Name:       t.Proto.GetUniqueName(),
		Layout:     coders.NewTimers(in.Element().Components()[0], in.Window()),
		Windowing:  ws,
		TimeSorted: t.ParDo.GetRequiresTimeSortedInput(),
		Expiration: t.ParDo.GetOnWindowExpirationTimerFamilySpec(),
		States:     map[string]plan.State{},
	}
	families := t.ParDo.GetTimerFamilySpecs()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := plan.TimerFamily{Name: name}
		switch d := families[name].GetTimeDomain(); d {
		case pipepb.TimeDomain_EVENT_TIME:
		case pipepb.TimeDomain_PROCESSING_TIME:
			f.ProcessingTime = true
		default:
			return nil, fault.New(fault.Unsupported, "%v: timer family %q is of the time domain %v", t, name, d)
		}
		if f.ProcessingTime && name == spec.Expiration {
			return nil, fault.New(fault.Invalid, "%v: timer family %q is to fire when windows expire, which is no processing time", t, name)
		}
		spec.Timers = append(spec.Timers, f)
	}
	return spec, a.states(spec, t)
}

// states reads the states that t declares.
func (a *assembler) states(spec *plan.StatefulSpec, t *graph.Transform) error {
	states := t.ParDo.GetStateSpecs()
	for _, name := range slices.Sorted(maps.Keys(states)) {
		var s plan.State
		for _, id := range stateCoders(states[name]) {
			if a.g.Components.Coders[id] == nil {
				return fault.New(fault.Invalid, "%v: there is no coder %q, which state %q needs", t, id, name)
			}
			var err error
			if s.Value, err = coders.Compile(id, a.g.Components.Coders); err != nil {
				s.Value = nil // an SDK's own, or one that it will complain about itself
			}
		}
		spec.States[name] = s
	}
	return nil
}

// wireTimers makes the root of n write timers with the keys and windows that its
// elements have on the wire, and adds the coders of its state.
func (d *descriptor) wireTimers(n *node) error {
	t := n.fused.Transforms[0]
	w := d.a.wire
	key, _, ok := w.keyValue(w.element(n.input))
	if !ok {
		return fault.New(fault.Internal, "%v: its input has no keys on the wire", t)
	}
	timer := w.add("timer:"+key, urns.CoderTimer, nil, key, w.window(w.g.Strategy(n.input).GetWindowCoderId()))
	payload := proto.Clone(t.ParDo).(*pipepb.ParDoPayload)
	for _, f := range payload.GetTimerFamilySpecs() {
		f.TimerFamilyCoderId = timer
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(payload)
	if err != nil {
		return fmt.Errorf("%v: payload: %w", t, err)
	}
	d.d.Transforms[t.ID].Spec = &pipepb.FunctionSpec{Urn: t.URN(), Payload: b}
	d.addCoder(timer)
	for _, s := range payload.GetStateSpecs() {
		for _, id := range stateCoders(s) {
			d.addCoder(id)
		}
	}
	return nil
}

// stateCoders are the coders that a state spec refers to, that of the values last.
func stateCoders(s *pipepb.StateSpec) []string {
	switch spec := s.GetSpec().(type) {
	case *pipepb.StateSpec_ReadModifyWriteSpec:
		return []string{spec.ReadModifyWriteSpec.GetCoderId()}
	case *pipepb.StateSpec_BagSpec:
		return []string{spec.BagSpec.GetElementCoderId()}
	case *pipepb.StateSpec_CombiningSpec:
		return []string{spec.CombiningSpec.GetAccumulatorCoderId()}
	case *pipepb.StateSpec_MapSpec:
		return []string{spec.MapSpec.GetKeyCoderId(), spec.MapSpec.GetValueCoderId()}
	case *pipepb.StateSpec_SetSpec:
		return []string{spec.SetSpec.GetElementCoderId()}
	case *pipepb.StateSpec_OrderedListSpec:
		return []string{spec.OrderedListSpec.GetElementCoderId()}
	case *pipepb.StateSpec_MultimapSpec:
		return []string{spec.MultimapSpec.GetKeyCoderId(), spec.MultimapSpec.GetValueCoderId()}
	}
	return nil
}
