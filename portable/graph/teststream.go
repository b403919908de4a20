package graph

import (
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// parseTest reads the payload of a TestStream and checks that its events are for outputs
// that it has.
func (g *Graph) parseTest(t *Transform) error {
	t.Test = &pipepb.TestStreamPayload{}
	if err := proto.Unmarshal(t.Proto.GetSpec().GetPayload(), t.Test); err != nil {
		return fault.New(fault.Invalid, "%v: payload is no TestStreamPayload: %w", t, err)
	}
	if g.Components.Coders[t.Test.GetCoderId()] == nil {
		return fault.New(fault.Invalid, "%v: there is no coder %q", t, t.Test.GetCoderId())
	}
	for out := range t.Outputs() {
		if urn := g.Components.Coders[g.Strategy(out).GetWindowCoderId()].GetSpec().GetUrn(); urn != urns.CoderGlobalWindow {
			return fault.New(fault.Invalid, "%v: PCollection %q is in windows encoded with %s; a TestStream makes global ones", t, out, urn)
		}
	}
	tags := t.Tags()
	for i, e := range t.Test.GetEvents() {
		var tag string
		switch e := e.GetEvent().(type) {
		case *pipepb.TestStreamPayload_Event_ElementEvent:
			tag = e.ElementEvent.GetTag()
		case *pipepb.TestStreamPayload_Event_WatermarkEvent:
			tag = e.WatermarkEvent.GetTag()
		case *pipepb.TestStreamPayload_Event_ProcessingTimeEvent:
			continue
		default:
			return fault.New(fault.Unsupported, "%v: event %d is of the unknown type %T", t, i, e)
		}
		if _, ok := tags[tag]; !ok {
			return fault.New(fault.Invalid, "%v: event %d is for output %q, which it does not have", t, i, tag)
		}
	}
	return nil
}

// mainTag is what Python calls the output of a TestStream that has no name.
const mainTag = "None"

// Tags are the outputs of a TestStream by the tags of the events that are for them: their
// local names, and none for the main one.
func (t *Transform) Tags() map[string]string {
	tags := maps.Clone(t.Proto.GetOutputs())
	main, ok := tags[mainTag]
	if len(tags) == 1 {
		main, ok = only(tags), true
	}
	if _, named := tags[""]; !named && ok {
		tags[""] = main
	}
	return tags
}

// testCoder is the coder of a TestStream's elements. Go names one without the length prefix
// that it writes, and can't read that one.
func (g *Graph) testCoder(t *Transform) string {
	id := t.Test.GetCoderId()
	for out := range t.Outputs() {
		of := g.PCollection(out).GetCoderId()
		c := g.Components.Coders[of]
		if c.GetSpec().GetUrn() == urns.CoderLengthPrefix && slices.Contains(c.GetComponentCoderIds(), id) {
			return of
		}
	}
	return id
}

// Delimited tells whether the elements of a TestStream are encoded alike in nested and
// outer context.
func (g *Graph) Delimited(t *Transform) bool {
	return g.Components.Coders[g.testCoder(t)].GetSpec().GetUrn() == urns.CoderLengthPrefix
}

// encodeTest makes the elements of a TestStream travel as they are, with a length prefix
// unless they have one, to identities in SDKs that encode them as their readers expect:
// they are encoded in the outer context, where the runner can't tell a key from a value.
func (g *Graph) encodeTest(t *Transform) ([]*Transform, error) {
	changed := *t
	changed.Proto = proto.Clone(t.Proto).(*pipepb.PTransform)
	own := g.testCoder(t)
	coder := own
	if !g.Delimited(t) {
		coder = g.addCoder(t.ID+"/Prefixed", urns.CoderLengthPrefix, coder)
	}
	all := []*Transform{&changed}
	for _, local := range sortedKeys(t.Proto.GetOutputs()) {
		out := t.Proto.Outputs[local]
		env := g.readingEnvironment(out)
		if env == "" {
			return nil, fault.New(fault.Unsupported, "%v: no transform of an SDK reads PCollection %q, so that nobody can encode its elements", t, out)
		}
		raw := g.addPCollection(t.ID+"/Raw/"+local, g.PCollection(out), own)
		g.encoding[raw] = coder
		changed.Proto.Outputs[local] = raw
		name := "/Encode/" + local
		all = append(all, g.addTransform(t.ID+name, &Transform{
			Origin:      t.Origin,
			Kind:        SDK,
			Environment: env,
			Main:        []Input{{"i0", raw}},
			Proto: &pipepb.PTransform{
				UniqueName:    t.Proto.GetUniqueName() + name,
				Spec:          &pipepb.FunctionSpec{Urn: urns.TransformFlatten},
				Inputs:        map[string]string{"i0": raw},
				Outputs:       map[string]string{"i0": out},
				EnvironmentId: env,
			},
		}))
	}
	return all, nil
}

// readingEnvironment returns the environment of a transform that a PCollection reaches, or
// else of any, or "" if there is none.
func (g *Graph) readingEnvironment(pcollection string) string {
	reached := map[string]bool{pcollection: true}
	for _, t := range g.Transforms {
		for in := range t.Inputs() {
			if !reached[in] {
				continue
			}
			if t.Kind == SDK {
				return t.Environment
			}
			for out := range t.Outputs() {
				reached[out] = true
			}
		}
	}
	for _, t := range g.Transforms {
		if t.Kind == SDK {
			return t.Environment
		}
	}
	return ""
}
