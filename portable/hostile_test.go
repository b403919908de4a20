package portable_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	. "github.com/lintelrun/lintel/portable/portabletest"
)

// compileHostile compiles what may be anything: there may be an error, but it
// must say whose fault it is.
func compileHostile(t interface {
	failer
	Fatal(...any)
}, p *pipepb.Pipeline) {
	for _, opts := range []portable.Options{{}, {Checkpoints: true}} {
		pl, err := portable.Compile(context.Background(), p, opts)
		if err != nil {
			if class := fault.ClassOf(err); class != fault.Invalid && class != fault.Unsupported {
				t.Errorf("class %v: %v", class, err)
			}
			continue
		}
		checkPlan(t, pl)
		checkSnapshots(t, pl, opts)
		portable.Describe(pl)
		if _, err := pl.JSON(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	p := New()
	a := p.ParDoWith("a", Env, &pipepb.ParDoPayload{RestrictionCoderId: Opaque}, KV, p.Impulse("i"))
	p.Combine("c", Other, p.Flatten("f", KV, a, a))
	p.ParDo("b", Env, Opaque, p.GroupByKey("g", a), a)
	data, err := proto.Marshal(p.Proto)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &pipepb.Pipeline{}
		if proto.Unmarshal(data, p) == nil {
			compileHostile(t, p)
		}
	})
}

// TestMutatedPipelines changes fields of good pipelines, so that errors of all depths are met.
func TestMutatedPipelines(t *testing.T) {
	real := pipelines(t)
	names := slices.Sorted(maps.Keys(real))
	rapid.Check(t, func(t *rapid.T) {
		var p *pipepb.Pipeline
		if i := rapid.IntRange(0, len(names)).Draw(t, "pipeline"); i < len(names) {
			p = proto.Clone(real[names[i]]).(*pipepb.Pipeline)
		} else {
			made, _ := draw(t)
			p = made.Proto
		}
		for range rapid.IntRange(1, 4).Draw(t, "mutations") {
			var m mutations
			m.walk(p.ProtoReflect())
			if len(m.change) > 0 {
				m.change[rapid.IntRange(0, len(m.change)-1).Draw(t, "field")](rapid.SampledFrom(m.texts).Draw(t, "text"))
			}
		}
		compileHostile(t, p)
	})
}

// mutations are the ways to change one field of a message. They take a text
// that is elsewhere in the message, to put it where a text is wanted.
type mutations struct {
	texts  []string
	change []func(text string)
}

func (m *mutations) walk(msg protoreflect.Message) {
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !msg.Has(f) {
			continue
		}
		m.change = append(m.change, func(string) { msg.Clear(f) })
		switch {
		case f.IsMap():
			m.walkMap(msg.Get(f).Map(), f.MapValue().Kind())
		case f.IsList():
			m.walkList(msg.Get(f).List(), f.Kind())
		case f.Kind() == protoreflect.MessageKind:
			m.walk(msg.Get(f).Message())
		case f.Kind() == protoreflect.StringKind:
			m.text(msg.Get(f).String(), func(text string) { msg.Set(f, protoreflect.ValueOfString(text)) })
		case f.Kind() == protoreflect.EnumKind:
			m.change = append(m.change, func(text string) { msg.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(len(text)%4))) })
		}
	}
}

func (m *mutations) text(is string, set func(string)) {
	m.texts = append(m.texts, is)
	m.change = append(m.change, set)
}

func (m *mutations) walkMap(values protoreflect.Map, kind protoreflect.Kind) {
	var keys []protoreflect.MapKey
	values.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	for _, k := range keys {
		m.texts = append(m.texts, k.String())
		m.change = append(m.change, func(string) { values.Clear(k) })
		switch kind {
		case protoreflect.MessageKind:
			m.walk(values.Get(k).Message())
		case protoreflect.StringKind:
			m.text(values.Get(k).String(), func(text string) { values.Set(k, protoreflect.ValueOfString(text)) })
		}
	}
}

func (m *mutations) walkList(values protoreflect.List, kind protoreflect.Kind) {
	for i := range values.Len() {
		switch kind {
		case protoreflect.MessageKind:
			m.walk(values.Get(i).Message())
		case protoreflect.StringKind:
			m.text(values.Get(i).String(), func(text string) { values.Set(i, protoreflect.ValueOfString(text)) })
		}
	}
}
