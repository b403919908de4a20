package portable_test

import (
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// portCoder writes the coder of a source or sink.
func portCoder(t *testing.T, s *plan.Stage, id string) string {
	t.Helper()
	d := s.Exec.Descriptor
	port := &fnpb.RemoteGrpcPort{}
	if err := proto.Unmarshal(d.Transforms[id].GetSpec().GetPayload(), port); err != nil {
		t.Fatal(err)
	}
	return coderText(d.Coders, port.CoderId)
}

func wantCoder(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %s, not %s", what, got, want)
	}
}

func TestUnknownCodersArePrefixedInside(t *testing.T) {
	p := New()
	p.Coder("kvOpaque", urns.CoderKV, Opaque, Bytes)
	p.Coder("groupsOpaque", urns.CoderKV, Opaque, "iterable")
	a := p.ParDo("a", Env, "kvOpaque", p.Impulse("i1"))
	g := p.Transform("gbk", urns.TransformGroupByKey, "", nil, "groupsOpaque", a)
	p.ParDo("b", Env, Bytes, g)
	pl := compile(t, p)
	from, to := stageOf(t, pl, "a"), stageOf(t, pl, "b")
	wantCoder(t, "sink", portCoder(t, from, from.Exec.Sinks[0]), "windowed_value(kv(length_prefix(opaque),bytes),global_window)")
	wantCoder(t, "source", portCoder(t, to, to.Exec.Source), "windowed_value(kv(length_prefix(opaque),iterable(bytes)),global_window)")
	d := from.Exec.Descriptor
	wantCoder(t, "PCollection in the SDK", coderText(d.Coders, d.Pcollections[a].CoderId), "kv(opaque,bytes)")
}

func TestElementsThatAreWindowedValuesAreWindowedOnceMore(t *testing.T) {
	p := New()
	p.Coder("window", urns.CoderGlobalWindow)
	p.Coder("windowedBytes", urns.CoderWindowedValue, Bytes, "window")
	a := p.ParDo("a", Env, "windowedBytes", p.Impulse("i1"))
	p.ParDo("b", Env, Bytes, a)
	p.ParDo("c", Env, Bytes, p.Impulse("i2"), a)
	pl := compile(t, p)
	const want = "windowed_value(windowed_value(bytes,global_window),global_window)"
	from, to := stageOf(t, pl, "a"), stageOf(t, pl, "c")
	for name, s := range map[string]*plan.Stage{"PCollection": from, "side input": to} {
		d := s.Exec.Descriptor
		wantCoder(t, name, coderText(d.Coders, d.Pcollections[a].CoderId), want)
	}
	wantCoder(t, "sink", portCoder(t, from, from.Exec.Sinks[0]), want)
}

func TestPrefixesFollowBothEnds(t *testing.T) {
	p := New()
	p.Coder("varint", urns.CoderVarint) // Other doesn't know it
	a := p.ParDo("a", Env, "varint", p.Impulse("i1"))
	p.ParDo("b", Env, "varint", p.Reshuffle("r1", "varint", a))
	p.ParDo("c", Other, "varint", p.Reshuffle("r2", "varint", p.ParDo("d", Env, "varint", p.Impulse("i2"))))
	pl := compile(t, p)
	b, c := stageOf(t, pl, "b"), stageOf(t, pl, "c")
	wantCoder(t, "within one environment", portCoder(t, b, b.Exec.Source), "windowed_value(varint,global_window)")
	wantCoder(t, "between two", portCoder(t, c, c.Exec.Source), "windowed_value(length_prefix(varint),global_window)")
}

func TestPrefixesAreTheSameForAllThatIsTied(t *testing.T) {
	p := New()
	p.Coder("kvVarint", urns.CoderKV, "varint", Bytes)
	p.Coder("varint", urns.CoderVarint)
	p.Coder("groupsVarint", urns.CoderKV, "varint", "iterable")
	a := p.ParDo("a", Env, "kvVarint", p.Impulse("i1"))
	b := p.ParDo("b", Env, "kvVarint", p.Impulse("i2"))
	g := p.Transform("gbk", urns.TransformGroupByKey, "", nil, "groupsVarint", p.Flatten("both", "kvVarint", a, b))
	p.ParDo("c", Env, Bytes, g)
	p.ParDo("d", Other, Bytes, p.Reshuffle("r", "groupsVarint", g))
	p.ParDo("e", Env, Bytes, p.Impulse("i3"), a)
	pl := compile(t, p)
	for _, name := range []string{"a", "b"} {
		s := stageOf(t, pl, name)
		wantCoder(t, name, portCoder(t, s, s.Exec.Sinks[0]), "windowed_value(kv(length_prefix(varint),bytes),global_window)")
	}
	c, e := stageOf(t, pl, "c"), stageOf(t, pl, "e")
	wantCoder(t, "source", portCoder(t, c, c.Exec.Source), "windowed_value(kv(length_prefix(varint),iterable(bytes)),global_window)")
	wantCoder(t, "side input", coderText(e.Exec.Descriptor.Coders, e.Exec.Descriptor.Pcollections[a].CoderId), "kv(length_prefix(varint),bytes)")
}

func TestWithoutCapabilitiesModelCodersAreKnown(t *testing.T) {
	p := New()
	p.Environment(Env, "localhost:1")
	p.Coder("x", urns.CoderKV, Bytes, "nullable")
	p.Coder("nullable", urns.CoderNullable, Bytes)
	p.ParDo("b", Env, Bytes, p.Reshuffle("r", "x", p.ParDo("a", Env, "x", p.Impulse("i"))))
	s := stageOf(t, compile(t, p), "b")
	wantCoder(t, "source", portCoder(t, s, s.Exec.Source), "windowed_value(kv(bytes,length_prefix(nullable(bytes))),global_window)")
}

func TestSchemasThatAreNotUnderstoodArePrefixed(t *testing.T) {
	p := New()
	p.Environment(Env, "localhost:1", urns.CoderRow, urns.CoderBytes)
	p.Coder("row", urns.CoderRow)
	p.Proto.Components.Coders["row"].Spec.Payload = schemaOfLogicalType(t)
	p.ParDo("b", Env, Bytes, p.Reshuffle("r", "row", p.ParDo("a", Env, "row", p.Impulse("i"))))
	s := stageOf(t, compile(t, p), "b")
	wantCoder(t, "source", portCoder(t, s, s.Exec.Source), "windowed_value(length_prefix(row),global_window)")
}

// schemaOfLogicalType has a field whose encoding only the SDK knows.
func schemaOfLogicalType(t *testing.T) []byte {
	t.Helper()
	data, err := proto.Marshal(&pipepb.Schema{Fields: []*pipepb.Field{{
		Name: "f",
		Type: &pipepb.FieldType{TypeInfo: &pipepb.FieldType_LogicalType{LogicalType: &pipepb.LogicalType{Urn: "test:logical"}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOwnWindows(t *testing.T) {
	for name, test := range map[string]struct {
		capabilities []string
		want         string
	}{
		"known as custom": {[]string{urns.CoderBytes, urns.CoderCustomWindow}, "windowed_value(kv(bytes,bytes),custom_window(length_prefix(opaque)))"},
		"opaque":          {[]string{urns.CoderBytes}, "windowed_value(kv(bytes,bytes),length_prefix(opaque))"},
		"known coder":     {[]string{urns.CoderCustomWindow, urns.CoderVarint}, "windowed_value(kv(bytes,bytes),custom_window(varint))"},
		"custom already":  {[]string{urns.CoderCustomWindow}, "windowed_value(kv(bytes,bytes),custom_window(length_prefix(opaque)))"},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			delete(p.Proto.Components.Environments, Other)
			p.Environment(Env, "localhost:1", test.capabilities...)
			ws := p.Proto.Components.WindowingStrategies[Global]
			ws.WindowFn = &pipepb.FunctionSpec{Urn: "test:windows"}
			ws.WindowCoderId = Opaque
			switch name {
			case "known coder":
				ws.WindowCoderId = p.Coder("varint", urns.CoderVarint)
			case "custom already":
				ws.WindowCoderId = p.Coder("wrapped", urns.CoderCustomWindow, Opaque)
			}
			p.ParDo("b", Env, KV, p.Reshuffle("r", KV, p.ParDo("a", Env, KV, p.Impulse("i"))))
			s := stageOf(t, compile(t, p), "a")
			wantCoder(t, "sink", portCoder(t, s, s.Exec.Sinks[0]), test.want)
			d := s.Exec.Descriptor
			got := coderText(d.Coders, d.WindowingStrategies[Global].WindowCoderId)
			wantCoder(t, "windows in the strategy", "windowed_value(kv(bytes,bytes),"+got+")", test.want)
		})
	}
}

// Only environments that see windows of an SDK's own must know how they are wrapped.
func TestOwnWindowsOfOneEnvironment(t *testing.T) {
	p := New()
	p.Environment(Env, "localhost:1", urns.CoderBytes, urns.CoderCustomWindow)
	p.Environment(Other, "localhost:2", urns.CoderBytes)
	p.ParDo("elsewhere", Other, KV, p.Impulse("j"))
	ws := proto.Clone(p.Proto.Components.WindowingStrategies[Global]).(*pipepb.WindowingStrategy)
	ws.WindowFn = &pipepb.FunctionSpec{Urn: "test:windows"}
	ws.WindowCoderId = Opaque
	p.Proto.Components.WindowingStrategies["own"] = ws
	p.GroupByKey("gbk", p.ParDo("a", Env, KV, p.Impulse("i")))
	for _, id := range []string{"a.out", "gbk.out"} {
		p.Proto.Components.Pcollections[id].WindowingStrategyId = "own"
	}
	s := stageOf(t, compile(t, p), "a")
	wantCoder(t, "sink", portCoder(t, s, s.Exec.Sinks[0]), "windowed_value(kv(bytes,bytes),custom_window(length_prefix(opaque)))")
}

func TestEqualEnvironmentsAreMerged(t *testing.T) {
	p := New()
	hint := func(id, ram, bundles, accelerator string) {
		env := p.Environment(id, "localhost:9", urns.CoderBytes)
		env.ResourceHints = map[string][]byte{urns.HintMinRAMBytes: []byte(ram), urns.HintMaxActiveBundlesPerWorker: []byte(bundles)}
		if accelerator != "" {
			env.ResourceHints[urns.HintAccelerator] = []byte(accelerator)
		}
	}
	hint("e1", "900", "8", "")
	hint("e2", "1000", "4", "")
	hint("e3", "5", "9", "gpu")
	in := p.Impulse("i")
	p.ParDo("c", "e3", Bytes, p.ParDo("b", "e2", Bytes, p.ParDo("a", "e1", Bytes, in)))
	pl := wantShape(t, p, `
s0 impulse
s1 executable a,b <forward s0
s2 executable c <forward s1
`)
	hints := pl.Environments["e1"].ResourceHints
	if ram, bundles := string(hints[urns.HintMinRAMBytes]), string(hints[urns.HintMaxActiveBundlesPerWorker]); ram != "1000" || bundles != "4" {
		t.Errorf("merged hints are %s and %s", ram, bundles)
	}
	if pl.Environments["e2"] != nil || pl.Environments["e3"] == nil {
		t.Errorf("environments %v", pl.Environments)
	}
}

// TestHintsThatAskForNothing pins that a limit of 0, or one that is no number, is not the least.
func TestHintsThatAskForNothing(t *testing.T) {
	for _, nothing := range []string{"0", "-1", "many", ""} {
		for _, hints := range [][2]string{{nothing, "4"}, {"4", nothing}} {
			p := New()
			in := p.Impulse("i")
			for i, id := range []string{"e1", "e2"} {
				p.Environment(id, "localhost:9", urns.CoderBytes).ResourceHints = map[string][]byte{urns.HintMaxActiveBundlesPerWorker: []byte(hints[i])}
				in = p.ParDo("in "+id, id, Bytes, in)
			}
			pl := compile(t, p)
			if got := string(pl.Environments["e1"].GetResourceHints()[urns.HintMaxActiveBundlesPerWorker]); got != "4" {
				t.Errorf("the limits %q are merged to %q", hints, got)
			}
		}
	}
}

func TestPortsHaveFreeIDs(t *testing.T) {
	p := New()
	a := p.ParDo("lintel/source", Env, Bytes, p.Impulse("i"))
	p.ParDo("b", Other, Bytes, a)
	s := stageOf(t, compile(t, p), "lintel/source")
	if s.Exec.Source == "lintel/source" {
		t.Error("the source has the id of a transform")
	}
}

func TestFinalizes(t *testing.T) {
	p := New()
	p.Proto.Requirements = []string{urns.RequirementFinalization}
	p.ParDoWith("a", Env, &pipepb.ParDoPayload{RequestsFinalization: true}, Bytes, p.Impulse("i"))
	if !stageOf(t, compile(t, p), "a").Exec.Finalizes {
		t.Error("the stage doesn't finalise")
	}
}
