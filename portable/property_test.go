package portable_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// draw makes a random pipeline, and the order in which its transforms were added.
func draw(t *rapid.T) (*Pipeline, []string) {
	p := New()
	p.Coder("varint", urns.CoderVarint)
	var names, all, kvs []string
	pick := func(from []string) string { return rapid.SampledFrom(from).Draw(t, "input") }
	for i := range rapid.IntRange(1, 25).Draw(t, "transforms") {
		name := fmt.Sprintf("t%02d", i)
		names = append(names, name)
		env := rapid.SampledFrom([]string{Env, Other}).Draw(t, "environment")
		coder := rapid.SampledFrom([]string{Bytes, KV, Opaque, "varint"}).Draw(t, "coder")
		kind := rapid.SampledFrom([]string{"impulse", "pardo", "pardo", "pardo", "sdf", "stateful", "gbk", "flatten", "flatten", "reshuffle", "combine"}).Draw(t, "kind")
		if len(all) == 0 || len(kvs) == 0 && (kind == "gbk" || kind == "combine" || kind == "stateful") {
			kind = "impulse"
		}
		switch kind {
		case "impulse":
			all = append(all, p.Impulse(name))
			continue
		case "gbk":
			all = append(all, p.GroupByKey(name, pick(kvs)))
			continue
		case "reshuffle":
			p.Reshuffle(name, coder, pick(all))
		case "combine":
			coder = KV
			p.Combine(name, env, pick(kvs))
		case "flatten":
			p.Flatten(name, coder, rapid.SliceOfN(rapid.SampledFrom(all), 0, 4).Draw(t, "inputs")...)
		default:
			payload, from := &pipepb.ParDoPayload{}, all
			switch kind {
			case "sdf":
				payload.RestrictionCoderId = Opaque
			case "stateful":
				payload, from = counting(), kvs
			}
			p.ParDoWith(name, env, payload, coder, pick(from), rapid.SliceOfN(rapid.SampledFrom(all), 0, 2).Draw(t, "sides")...)
		}
		all = append(all, name+".out")
		if coder == KV {
			kvs = append(kvs, name+".out")
		}
	}
	return p, names
}

// weight makes a number of a transform. What transforms do to a PCollection is
// modelled as multiplication by their weights, and Flatten as addition, so that
// numbers are equal only if all elements come the same ways.
func weight(transform string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(transform))
	return h.Sum64() | 1
}

// meaning computes the numbers of all PCollections from the pipeline.
func meaning(p *Pipeline, names []string) map[string]uint64 {
	of := map[string]uint64{}
	for _, name := range names {
		t := p.Get(name)
		out := name + ".out"
		switch t.Spec.Urn {
		case urns.TransformImpulse:
			of[out] = weight(name)
		case urns.TransformFlatten:
			of[out] = 0
			for _, in := range t.Inputs {
				of[out] += of[in]
			}
		case urns.TransformReshuffle:
			of[out] = of[t.Inputs["i0"]]
		default:
			of[out] = of[t.Inputs["i0"]] * weight(name)
		}
	}
	return of
}

// run computes them from a plan.
func run(p *plan.Plan) map[string]uint64 {
	of := map[string]uint64{}
	for _, s := range p.Stages {
		var in uint64
		for _, e := range s.In {
			if e.Kind != plan.Broadcast {
				in += of[e.PCollection]
			}
		}
		switch s.Kind {
		case plan.Impulse:
			in = weight(s.Transforms[0])
		case plan.GroupByKey:
			if t := p.Components.Transforms[s.Transforms[0]]; t.GetSpec().GetUrn() == urns.TransformGroupByKey {
				in *= weight(s.Transforms[0]) // else it is a part of a combine
			}
		case plan.Executable:
			runStage(p, s, in, of)
			continue
		}
		for _, e := range s.Out {
			of[e.PCollection] = in
		}
	}
	return of
}

func runStage(p *plan.Plan, s *plan.Stage, in uint64, of map[string]uint64) {
	d := s.Exec.Descriptor
	here := map[string]uint64{d.Transforms[s.Exec.Source].Outputs["i0"]: in}
	for _, id := range s.Exec.Transforms {
		t := d.Transforms[id]
		var out uint64
		if t.Spec.Urn == urns.TransformFlatten {
			for _, in := range t.Inputs {
				out += here[in]
			}
		} else {
			out = here[t.Inputs["i0"]]
		}
		switch t.Spec.Urn {
		case urns.TransformParDo, urns.TransformSDFProcessSized:
			out *= weight(id)
		case urns.TransformCombinePrecombine:
			out *= weight(p.Origins[id])
		}
		for _, pc := range t.Outputs {
			here[pc] = out
		}
	}
	for pc, n := range here {
		of[pc] = n
	}
}

// allOptions are those by which plans must mean the same.
var allOptions = []portable.Options{{}, {SeparateStages: true}, {OneTask: true}, {Checkpoints: true}, {Checkpoints: true, SeparateStages: true}}

func TestPlansMeanWhatPipelinesMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, names := draw(t)
		for _, opts := range allOptions {
			pl, err := portable.Compile(context.Background(), p.Proto, opts)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, pl)
			checkSnapshots(t, pl, opts)
			want, got := meaning(p, names), run(pl)
			for pc, n := range got {
				if w, ok := want[pc]; ok && w != n {
					t.Errorf("PCollection %q has other elements than in the pipeline\n%s", pc, pl.Text())
				}
			}
			checkComplete(t, p, names, pl)
		}
	})
}

// checkComplete checks that all that harnesses must run is run once, and that
// all side inputs have all elements.
func checkComplete(t *rapid.T, p *Pipeline, names []string, pl *plan.Plan) {
	runs := map[string]int{}
	for _, s := range pl.Stages {
		if s.Exec == nil {
			continue
		}
		for _, id := range s.Exec.Transforms {
			if urn := s.Exec.Descriptor.Transforms[id].Spec.Urn; urn == urns.TransformCombineExtractOutputs {
				id = pl.Origins[id]
			}
			runs[id]++
		}
	}
	want, of := meaning(p, names), run(pl)
	for _, name := range names {
		if urn := p.Get(name).Spec.Urn; (urn == urns.TransformParDo || urn == urns.TransformCombinePerKey) && runs[name] != 1 {
			t.Errorf("%q runs %d times", name, runs[name])
		}
	}
	for _, s := range pl.Stages {
		if s.Exec == nil {
			continue
		}
		for _, ref := range s.Exec.SideInputs {
			var sum uint64
			for _, e := range ref.Stage.In {
				sum += of[e.PCollection]
			}
			if sum != want[s.Exec.Descriptor.Transforms[ref.Transform].Inputs[ref.Name]] {
				t.Errorf("side input %q of %q is not what the pipeline says", ref.Name, ref.Transform)
			}
		}
	}
}

func TestCompileIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _ := draw(t)
		opts := rapid.SampledFrom(allOptions).Draw(t, "options")
		var first *plan.Plan
		for range 3 {
			pl, err := portable.Compile(context.Background(), proto.Clone(p.Proto).(*pipepb.Pipeline), opts)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = pl
			}
			if pl.Text() != first.Text() || pl.Dot() != first.Dot() {
				t.Fatalf("plans differ:\n%s\n%s", first.Text(), pl.Text())
			}
			for i, s := range pl.Stages {
				if s.Exec != nil && !proto.Equal(s.Exec.Descriptor, first.Stages[i].Exec.Descriptor) {
					t.Fatalf("descriptors of %s differ", s.ID)
				}
			}
		}
	})
}
