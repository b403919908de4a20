package portable

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
)

// Description is what another pipeline has to agree with where it goes on with the state of a
// transform.
type Description struct {
	// Name is the one by which state is kept: the transform's unique name, or that of a part
	// of it that the plan groups by.
	Name, URN string
	// Coder and Windowing are those of the main input, printed: of coders the URNs and components, since
	// what an SDK says of a coder of its own can't be compared.
	Coder, Windowing string
	// Keeps is true where a checkpoint has something of the transform.
	Keeps  bool
	States []DescribedState // by ID
	Timers []DescribedTimer // by Family
}

// DescribedState is a state that a transform declares.
type DescribedState struct{ ID, Kind, Coder string }

// DescribedTimer is a timer family that a transform declares, and its time domain.
type DescribedTimer struct{ Family, Domain string }

// Describe describes all transforms of a plan, by name. It is the same for equal pipelines.
func Describe(p *plan.Plan) []Description {
	d := &describer{p: p, c: p.Components, all: map[string]*Description{}}
	for _, s := range p.Stages {
		for _, id := range s.Transforms {
			d.transform(id)
		}
		d.stage(s)
	}
	out := make([]Description, 0, len(d.all))
	for _, name := range slices.Sorted(maps.Keys(d.all)) {
		out = append(out, *d.all[name])
	}
	return out
}

type describer struct {
	p   *plan.Plan
	c   *pipepb.Components
	all map[string]*Description
}

// get returns the description by a name, new if need be.
func (d *describer) get(name string) *Description {
	if d.all[name] == nil {
		d.all[name] = &Description{Name: name}
	}
	return d.all[name]
}

// transform describes what the pipeline says of a transform.
func (d *describer) transform(id string) *Description {
	t := d.c.GetTransforms()[id]
	out := d.get(cmp.Or(t.GetUniqueName(), id))
	out.URN = t.GetSpec().GetUrn()
	if main := mainInput(t); main != "" {
		out.Coder, out.Windowing = d.pcollection(main)
	}
	return out
}

// stage adds what a stage keeps.
func (d *describer) stage(s *plan.Stage) {
	switch {
	case s.Kind == plan.Impulse, s.Kind == plan.TestStream:
		for _, id := range s.Transforms {
			d.transform(id).Keeps = true
		}
	case s.Group != nil:
		d.group(s, s.Group)
	case s.Side != nil && s.Side.Group != nil:
		d.group(s, s.Side.Group)
	case s.Exec != nil && s.Exec.Stateful != nil:
		d.stateful(s.Exec.Stateful)
	case s.Exec != nil && s.Exec.Splittable && len(s.Exec.Transforms) > 0:
		root := s.Exec.Transforms[0]
		t := d.transform(cmp.Or(d.p.Origins[root], root))
		t.Keeps = true
		payload := &pipepb.ParDoPayload{}
		if proto.Unmarshal(d.c.GetTransforms()[cmp.Or(d.p.Origins[root], root)].GetSpec().GetPayload(), payload) == nil {
			t.Coder += " with restrictions " + d.coder(payload.GetRestrictionCoderId(), 0)
		}
	}
}

// group describes what is grouped by key and window.
func (d *describer) group(s *plan.Stage, g *plan.GroupSpec) {
	out := d.get(cmp.Or(g.Name, s.Name))
	out.Keeps = true
	if out.URN == "" {
		out.URN = urns.TransformGroupByKey
	}
	if s.Side != nil {
		out.URN = "side input"
	}
	if out.Coder == "" && len(s.In) > 0 {
		out.Coder, out.Windowing = d.pcollection(s.In[0].PCollection)
	}
	if out.Coder == "" {
		out.Coder = d.accumulator(s)
	}
	// What is kept is as on the wire.
	out.Coder = strings.TrimSpace(out.Coder + " as " + plan.Layout(g.Input))
	if out.Windowing == "" {
		out.Windowing = d.originWindowing(s)
	}
}

// accumulator prints the coder of what a combine groups that the planner has taken apart, "" where
// the stage groups something else.
func (d *describer) accumulator(s *plan.Stage) string {
	for _, id := range s.Transforms {
		payload := &pipepb.CombinePayload{}
		if proto.Unmarshal(d.c.GetTransforms()[id].GetSpec().GetPayload(), payload) == nil && d.c.GetCoders()[payload.GetAccumulatorCoderId()] != nil {
			return "accumulators " + d.coder(payload.GetAccumulatorCoderId(), 0)
		}
	}
	return ""
}

// originWindowing is the windowing of what a stage reads that no PCollection of the pipeline is: parts of a
// transform that has one.
func (d *describer) originWindowing(s *plan.Stage) string {
	for _, id := range s.Transforms {
		if main := mainInput(d.c.GetTransforms()[id]); main != "" {
			_, w := d.pcollection(main)
			return w
		}
	}
	return ""
}

func (d *describer) stateful(spec *plan.StatefulSpec) {
	out := d.get(spec.Name)
	out.Keeps = true
	payload := &pipepb.ParDoPayload{}
	origin := cmp.Or(d.p.Origins[spec.Transform], spec.Transform)
	if proto.Unmarshal(d.c.GetTransforms()[origin].GetSpec().GetPayload(), payload) != nil {
		return // planned, so it can be read
	}
	for _, id := range slices.Sorted(maps.Keys(payload.GetStateSpecs())) {
		spec := payload.GetStateSpecs()[id]
		var printed []string
		for _, c := range stateCoders(spec) {
			printed = append(printed, d.coder(c, 0))
		}
		out.States = append(out.States, DescribedState{id, stateKind(spec), strings.Join(printed, ",")})
	}
	for _, id := range slices.Sorted(maps.Keys(payload.GetTimerFamilySpecs())) {
		domain := strings.ToLower(payload.GetTimerFamilySpecs()[id].GetTimeDomain().String())
		out.Timers = append(out.Timers, DescribedTimer{id, domain})
	}
}

// stateKind is the name of the kind of state in StateSpec.
func stateKind(s *pipepb.StateSpec) string {
	m := s.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")); f != nil {
		return strings.TrimSuffix(string(f.Name()), "_spec")
	}
	return "none"
}

// mainInput returns the PCollection that a transform reads, "" if it has none or several.
func mainInput(t *pipepb.PTransform) string {
	sides := map[string]bool{}
	payload := &pipepb.ParDoPayload{}
	if t.GetSpec().GetUrn() == urns.TransformParDo && proto.Unmarshal(t.GetSpec().GetPayload(), payload) == nil {
		for name := range payload.GetSideInputs() {
			sides[name] = true
		}
	}
	main := ""
	for name, id := range t.GetInputs() {
		if sides[name] {
			continue
		}
		if main != "" {
			return ""
		}
		main = id
	}
	return main
}

// pcollection prints the coder and windowing of a PCollection of the pipeline; both "" if it has none
// of that id.
func (d *describer) pcollection(id string) (coder, windowing string) {
	pc := d.c.GetPcollections()[id]
	if pc == nil {
		return "", ""
	}
	return d.coder(pc.GetCoderId(), 0), d.windowing(pc.GetWindowingStrategyId())
}

// maxCoderDepth ends coders that contain themselves.
const maxCoderDepth = 100

// coder prints a coder.
func (d *describer) coder(id string, depth int) string {
	c := d.c.GetCoders()[id]
	if c == nil || depth > maxCoderDepth {
		return "?"
	}
	urn := c.GetSpec().GetUrn()
	s := strings.TrimSuffix(strings.TrimPrefix(urn, "beam:coder:"), ":v1")
	if payload := c.GetSpec().GetPayload(); len(payload) > 0 && coders.Known(urn) {
		s += "{" + digest(urn, payload) + "}"
	}
	if len(c.GetComponentCoderIds()) == 0 {
		return s
	}
	parts := make([]string, len(c.GetComponentCoderIds()))
	for i, part := range c.GetComponentCoderIds() {
		parts[i] = d.coder(part, depth+1)
	}
	return s + "<" + strings.Join(parts, ",") + ">"
}

// digest stands for the payload of one of the model's coders. Of a schema, what names it is left out:
// SDKs make that up anew each time.
func digest(urn string, payload []byte) string {
	schema := &pipepb.Schema{}
	if urn == urns.CoderRow && proto.Unmarshal(payload, schema) == nil {
		anonymous(schema.ProtoReflect())
		if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(schema); err == nil {
			payload = b
		}
	}
	sum := sha256.Sum256(payload)
	return fmt.Sprintf("%x", sum[:6])
}

// anonymous clears the ids of a schema and of those within it.
func anonymous(m protoreflect.Message) {
	if s, ok := m.Interface().(*pipepb.Schema); ok {
		s.Id = ""
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				anonymous(v.List().Get(i).Message())
			}
		default:
			anonymous(v.Message())
		}
		return true
	})
}

// windowing prints a windowing strategy: what of it decides which panes there are.
func (d *describer) windowing(id string) string {
	ws := d.c.GetWindowingStrategies()[id]
	if ws == nil {
		return "?"
	}
	name := func(s fmt.Stringer) string { return strings.ToLower(s.String()) }
	return fmt.Sprintf("%s in %s, %s, trigger %s, %s, %d ms late, on time %s, closing %s, at %s",
		windowFn(ws.GetWindowFn()), d.coder(ws.GetWindowCoderId(), 0), name(ws.GetMergeStatus()), compactJSON(ws.GetTrigger()),
		name(ws.GetAccumulationMode()), ws.GetAllowedLateness(), name(ws.GetOnTimeBehavior()), name(ws.GetClosingBehavior()), name(ws.GetOutputTime()))
}

// windowFn prints a window function; what an SDK says of one of its own can't be compared.
func windowFn(f *pipepb.FunctionSpec) string {
	s := strings.TrimSuffix(strings.TrimPrefix(f.GetUrn(), "beam:window_fn:"), ":v1")
	payloads := map[string]proto.Message{
		urns.WindowFnFixed: &pipepb.FixedWindowsPayload{}, urns.WindowFnSliding: &pipepb.SlidingWindowsPayload{}, urns.WindowFnSession: &pipepb.SessionWindowsPayload{},
	}
	if m := payloads[f.GetUrn()]; m != nil && proto.Unmarshal(f.GetPayload(), m) == nil {
		s += compactJSON(m)
	}
	return s
}

// compactJSON prints a message, the same way each time.
func compactJSON(m proto.Message) string {
	b, err := protojson.Marshal(m)
	var out bytes.Buffer
	if err != nil || json.Compact(&out, b) != nil {
		return "?"
	}
	return out.String()
}
