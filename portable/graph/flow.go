package graph

import (
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// Source is a PCollection that a transform of the SDK, an Impulse or a
// GroupByKey produces, and whose elements reach another PCollection.
type Source struct {
	PCollection string
	// Rebalance is true where they are redistributed on the way.
	Rebalance bool
}

// maxSources bounds what chains of Flattens can multiply to.
const maxSources = 100_000

// TraceSources follows Flattens and redistributions back from all PCollections,
// so that Sources can tell what they stand for.
func (g *Graph) TraceSources() error {
	total := 0
	for _, t := range g.Transforms {
		for out := range t.Outputs() {
			if t.Kind != Flatten && t.Kind != Redistribute {
				g.sources[out] = []Source{{PCollection: out}}
				continue
			}
			var sources []Source
			for _, in := range t.Main {
				if total += len(g.sources[in.PCollection]); total > maxSources {
					return fault.New(fault.Unsupported, "%v: the pipeline's Flattens come to more than %d paths", t, maxSources)
				}
				sources = append(sources, g.sources[in.PCollection]...)
			}
			if t.Kind == Redistribute {
				sources = slices.Clone(sources)
				for i := range sources {
					sources[i].Rebalance = true
				}
			}
			g.sources[out] = sources
		}
	}
	return nil
}

// Sources returns where the elements of a PCollection come from, one entry for
// each time that they come. It is empty for a Flatten of nothing. The slice is
// not to be changed.
func (g *Graph) Sources(pcollection string) []Source { return g.sources[pcollection] }

// Transcode makes sure that what is merged is encoded alike: where an input of
// a Flatten, redistribution or GroupByKey is encoded differently than its
// output wants, an identity in an SDK re-encodes it.
func (g *Graph) Transcode() error {
	return g.rewrite(func(t *Transform) ([]*Transform, error) {
		out := only(t.Proto.GetOutputs())
		switch t.Kind {
		case Flatten, Redistribute:
			return g.transcodeInputs(t, out, g.PCollection(out).GetCoderId())
		case GroupByKey:
			in := t.Main[0].PCollection
			key, value, ok := g.kv(g.PCollection(in).GetCoderId())
			if !ok {
				return nil, fault.New(fault.Invalid, "%v groups PCollection %q, whose coder is no KV", t, in)
			}
			wantKey, wantValue, ok := g.grouped(g.PCollection(out).GetCoderId())
			if !ok {
				return nil, fault.New(fault.Invalid, "%v makes PCollection %q, whose coder is no KV<K, iterable<V>>", t, out)
			}
			want := g.PCollection(in).GetCoderId()
			if !g.SameCoder(key, wantKey) || !g.SameCoder(value, wantValue) {
				want = g.addCoder(t.ID+"/Ungrouped", urns.CoderKV, wantKey, wantValue)
			}
			return g.transcodeInputs(t, out, want)
		}
		return []*Transform{t}, nil
	})
}

// transcodeInputs makes all inputs of t have the coder want, and the windows of like.
func (g *Graph) transcodeInputs(t *Transform, like, want string) ([]*Transform, error) {
	var added []*Transform
	changed := *t
	changed.Main = slices.Clone(t.Main)
	for i, in := range t.Main {
		if g.SameCoder(g.PCollection(in.PCollection).GetCoderId(), want) &&
			g.SameCoder(g.Strategy(in.PCollection).GetWindowCoderId(), g.Strategy(like).GetWindowCoderId()) {
			continue
		}
		env := g.nearbyEnvironment(t, in.PCollection)
		if env == "" {
			return nil, fault.New(fault.Unsupported, "%v: input %q is encoded differently than the output, and no environment is near to re-encode it", t, in.Local)
		}
		encoded := g.addPCollection(t.ID+"/Transcode/"+in.Local, g.PCollection(in.PCollection), want)
		g.Components.Pcollections[encoded].WindowingStrategyId = g.PCollection(like).GetWindowingStrategyId()
		added = append(added, g.addTransform(t.ID+"/Transcode/"+in.Local, &Transform{
			Origin:      t.Origin,
			Kind:        SDK,
			Environment: env,
			Main:        []Input{{"i0", in.PCollection}},
			Proto: &pipepb.PTransform{
				UniqueName:    t.Proto.GetUniqueName() + "/Transcode/" + in.Local,
				Spec:          &pipepb.FunctionSpec{Urn: urns.TransformFlatten},
				Inputs:        map[string]string{"i0": in.PCollection},
				Outputs:       map[string]string{"i0": encoded},
				EnvironmentId: env,
			},
		}))
		changed.Main[i].PCollection = encoded
	}
	return append(added, &changed), nil
}

// nearbyEnvironment returns an environment that knows the elements of a
// PCollection: that of its producer, or if this is the runner, of a transform
// further up, or that of the reader.
func (g *Graph) nearbyEnvironment(reader *Transform, pcollection string) string {
	seen := map[*Transform]bool{}
	for next := []string{pcollection}; len(next) > 0; {
		p := g.producers[next[0]]
		next = next[1:]
		if p == nil || seen[p] {
			continue
		}
		seen[p] = true
		if p.Kind == SDK {
			return p.Environment
		}
		for _, in := range p.Main {
			next = append(next, in.PCollection)
		}
	}
	if env := reader.Proto.GetEnvironmentId(); env != "" {
		return g.environmentAlias[env]
	}
	for _, t := range g.Transforms {
		if t.Kind == SDK && slices.Contains(t.Main, Input{t.Main[0].Local, only(reader.Proto.GetOutputs())}) {
			return t.Environment
		}
	}
	return ""
}
