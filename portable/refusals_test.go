package portable_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// broken makes a small good pipeline, breaks it, and wants an error of a class
// that mentions all that is needed to find the fault.
func broken(t *testing.T, name string, class fault.Class, change func(p *Pipeline), mention ...string) {
	t.Run(name, func(t *testing.T) {
		p := New()
		a := p.ParDo("a", Env, KV, p.Impulse("impulse"))
		p.ParDo("b", Env, Bytes, p.GroupByKey("gbk", a), a)
		if _, err := portable.Compile(context.Background(), p.Proto, portable.Options{}); err != nil {
			t.Fatalf("unbroken: %v", err)
		}
		change(p)
		_, err := portable.Compile(context.Background(), p.Proto, portable.Options{})
		if err == nil {
			t.Fatal("no error")
		}
		if got := fault.ClassOf(err); got != class {
			t.Errorf("class %v, not %v: %v", got, class, err)
		}
		for _, m := range mention {
			if !strings.Contains(err.Error(), m) {
				t.Errorf("the error doesn't mention %q: %v", m, err)
			}
		}
	})
}

func TestInvalid(t *testing.T) {
	bad := func(name string, change func(p *Pipeline), mention ...string) {
		broken(t, name, fault.Invalid, change, mention...)
	}
	bad("no such root", func(p *Pipeline) { p.Proto.RootTransformIds = []string{"x"} }, `"x"`)
	bad("no such subtransform", func(p *Pipeline) { p.Composite("c", "", nil, nil, "a", "x") }, `"x"`)
	bad("part of itself", func(p *Pipeline) { p.Composite("c", "", nil, nil, "a", "c") }, `"c"`)
	bad("two parents", func(p *Pipeline) { p.Composite("c", "", nil, nil, "a"); p.Composite("d", "", nil, nil, "a") }, `"a"`)
	bad("no such PCollection", func(p *Pipeline) { p.Get("b").Inputs["i0"] = "x" }, `"b"`, `"x"`)
	bad("no producer", func(p *Pipeline) { p.PCollection("x", Bytes); p.Get("b").Inputs["i0"] = "x" }, `"b"`, `"x"`)
	bad("two producers", func(p *Pipeline) { p.Get("b").Outputs["o"] = "a.out" }, `"a"`, `"b"`)
	bad("two main inputs", func(p *Pipeline) { p.Get("a").Inputs["j"] = "impulse.out" }, `"a"`)
	bad("no main input", func(p *Pipeline) { p.Get("gbk").Inputs = nil }, `"gbk"`)
	bad("impulse with an input", func(p *Pipeline) { p.Get("impulse").Inputs["i"] = "a.out" }, `"impulse"`)
	bad("two outputs of a GroupByKey", func(p *Pipeline) { p.PCollection("x", Groups); p.Get("gbk").Outputs["j"] = "x" }, `"gbk"`)
	bad("no environment", func(p *Pipeline) { p.Get("a").EnvironmentId = "x" }, `"a"`, `"x"`)
	bad("no coder", func(p *Pipeline) { p.PCollection("a.out", "x") }, `"a.out"`, `"x"`)
	bad("merging in no environment", func(p *Pipeline) {
		p.Coder("interval", urns.CoderIntervalWindow)
		ws := windowed(p, "own", &pipepb.FunctionSpec{Urn: "test:windows"}, "interval")
		ws.MergeStatus, ws.EnvironmentId = pipepb.MergeStatus_NEEDS_MERGE, "gone"
		in(p, "own", "a.out", "gbk.out")
	}, `"own"`, `"gone"`)
	bad("no component coder", func(p *Pipeline) { p.Coder("y", urns.CoderKV, "x") }, `"x"`)
	bad("no strategy", func(p *Pipeline) { p.PCollection("a.out", KV).WindowingStrategyId = "x" }, `"a.out"`, `"x"`)
	bad("no window coder", func(p *Pipeline) { p.Proto.Components.WindowingStrategies[Global].WindowCoderId = "x" }, `"x"`)
	bad("coder of itself", func(p *Pipeline) { p.Coder("x", urns.CoderKV, "y", "y"); p.Coder("y", urns.CoderIterable, "x") }, `"x"`)
	bad("payload", func(p *Pipeline) { p.Get("a").Spec.Payload = []byte{0xff} }, `"a"`)
	bad("side input that is none", func(p *Pipeline) { delete(p.Get("b").Inputs, "i1") }, `"b"`, `"i1"`)
	bad("restriction coder", func(p *Pipeline) {
		p.ParDoWith("x", Env, &pipepb.ParDoPayload{RestrictionCoderId: "y"}, Bytes, "a.out")
	}, `"x"`, `"y"`)
	bad("grouping what is no KV", func(p *Pipeline) { p.PCollection("a.out", Bytes) }, `"gbk"`, `"a.out"`)
	bad("grouping into what is no iterable", func(p *Pipeline) { p.PCollection("gbk.out", KV) }, `"gbk"`, `"gbk.out"`)
	bad("combining what is no KV", func(p *Pipeline) { p.Combine("c", Env, "impulse.out") }, `"c"`)
	bad("cycle", func(p *Pipeline) { p.Get("a").Inputs["i0"] = "b.out" }, "cycle")
	bad("cycle by side input", func(p *Pipeline) {
		p.ParDo("c", Env, Bytes, "impulse.out", "b.out")
		p.Get("a").Inputs["i0"] = "c.out"
	}, "cycle")
	bad("multimap of what is no KV", func(p *Pipeline) {
		multimap := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{"i1": {AccessPattern: &pipepb.FunctionSpec{Urn: urns.SideInputMultimap}}}}
		p.Transform("c", urns.TransformParDo, Env, multimap, Bytes, "a.out", "impulse.out")
	}, `"c"`, `"i1"`)
}

func TestUnsupported(t *testing.T) {
	not := func(name string, change func(p *Pipeline), mention ...string) {
		broken(t, name, fault.Unsupported, change, mention...)
	}
	strategy := func(change func(ws *pipepb.WindowingStrategy)) func(p *Pipeline) {
		return func(p *Pipeline) { change(p.Proto.Components.WindowingStrategies[Global]) }
	}
	not("requirement", func(p *Pipeline) { p.Proto.Requirements = []string{"beam:requirement:x:v1"} }, "beam:requirement:x:v1")
	not("leaf", func(p *Pipeline) { p.Transform("x", "beam:transform:x:v1", Env, nil, Bytes) }, `"x"`, "beam:transform:x:v1")
	not("read", func(p *Pipeline) { p.Transform("x", urns.TransformRead, "", nil, Bytes) }, `"x"`, urns.TransformRead)
	not("environment", func(p *Pipeline) { p.Proto.Components.Environments[Env].Urn = "beam:env:x:v1" }, `"a"`, "beam:env:x:v1")
	not("access pattern", func(p *Pipeline) {
		payload := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{"i1": {AccessPattern: &pipepb.FunctionSpec{Urn: "x"}}}}
		p.Transform("c", urns.TransformParDo, Env, payload, Bytes, "a.out", "impulse.out")
	}, `"c"`, `"i1"`)
	not("retracting", strategy(func(ws *pipepb.WindowingStrategy) { ws.AccumulationMode = pipepb.AccumulationMode_RETRACTING }), `"gbk"`, "RETRACTING")
	not("windows that end who knows when", strategy(func(ws *pipepb.WindowingStrategy) {
		ws.WindowFn = &pipepb.FunctionSpec{Urn: "x"}
		ws.WindowCoderId = Opaque
	}), `"a.out"`, "end", `"env"`, urns.CoderCustomWindow)
}

func TestHostileSizes(t *testing.T) {
	for name, format := range map[string]string{"deep coder": "c%d", "deep coder in order": "c%06d"} {
		broken(t, name, fault.Invalid, func(p *Pipeline) {
			p.Coder(fmt.Sprintf(format, 0), urns.CoderBytes)
			for i := range 100_000 {
				p.Coder(fmt.Sprintf(format, i+1), urns.CoderIterable, fmt.Sprintf(format, i))
			}
		}, "coder")
	}
	broken(t, "coder that doubles", fault.Invalid, func(p *Pipeline) {
		p.Coder("c00", urns.CoderBytes)
		for i := range 60 {
			p.Coder(fmt.Sprintf("c%02d", i+1), urns.CoderKV, fmt.Sprintf("c%02d", i), fmt.Sprintf("c%02d", i))
		}
	}, "coder")
	broken(t, "flattens that double", fault.Unsupported, func(p *Pipeline) {
		in := "impulse.out"
		for i := range 60 {
			in = p.Flatten(fmt.Sprintf("f%d", i), Bytes, in, in)
		}
	}, "Flatten")
}

func TestDeepPipelinesCompile(t *testing.T) {
	p := New()
	in, id := p.ParDo("p", Env, Bytes, p.Impulse("i")), "p"
	for i := range 20_000 {
		c := fmt.Sprintf("c%d", i)
		p.Proto.Components.Transforms[c] = &pipepb.PTransform{Subtransforms: []string{id}}
		id = c
	}
	p.Proto.RootTransformIds = []string{"i", id}
	for i := range 20_000 {
		env := []string{Env, Other}[i%2]
		in = p.ParDo(fmt.Sprintf("p%d", i), env, Bytes, in)
	}
	pl := compile(t, p)
	if n := len(pl.Stages); n != 1+20_000 { // the first two ParDos fuse
		t.Errorf("%d stages", n)
	}
}
