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
const maxSources = 1_000_000

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

// Encoding returns the id of the coder in which the elements of a PCollection
// travel. SDKs encode and decode what they exchange with the runner by any coder
// that they are given, so it may be another than the PCollection's own.
func (g *Graph) Encoding(pcollection string) string {
	if coder, ok := g.encoding[pcollection]; ok {
		return coder
	}
	return g.PCollection(pcollection).GetCoderId()
}

// Encode chooses encodings, so that what the runner makes is encoded as its
// readers expect. It adds an identity in an SDK where a Flatten or a
// redistribution wants another encoding than what the runner has.
func (g *Graph) Encode() error {
	g.encoding = map[string]string{}
	touched := g.environmentsOf()
	runners := map[string]bool{} // PCollections with elements that come straight out of the runner
	return g.rewrite(func(t *Transform) ([]*Transform, error) {
		switch t.Kind {
		case Impulse:
			out := only(t.Proto.GetOutputs())
			runners[out] = true
			if g.Components.Coders[g.Encoding(out)].GetSpec().GetUrn() != urns.CoderBytes {
				g.encoding[out] = g.addCoder(t.ID+"/Bytes", urns.CoderBytes)
			}
		case GroupByKey:
			out := only(t.Proto.GetOutputs())
			runners[out] = true
			return []*Transform{t}, g.encodeGroups(t, out, touched, runners[t.Main[0].PCollection])
		case Flatten, Redistribute:
			return g.reencode(t, runners)
		case TestStream:
			return g.encodeTest(t)
		}
		return []*Transform{t}, nil
	})
}

// encodeGroups makes the groups that come out of a GroupByKey be encoded like
// what goes in. SDKs may declare other coders for them: Python's for keys are
// deterministic only on the way in, which is what counts.
func (g *Graph) encodeGroups(t *Transform, out string, touched map[string]map[string]bool, fixed bool) error {
	in := t.Main[0].PCollection
	key, value, ok := g.kv(g.Encoding(in))
	if !ok {
		return fault.New(fault.Invalid, "%v groups PCollection %q, whose coder is no KV", t, in)
	}
	wantKey, wantValue, ok := g.grouped(g.PCollection(out).GetCoderId())
	if !ok {
		return fault.New(fault.Invalid, "%v makes PCollection %q, whose coder is no KV<K, iterable<V>>", t, out)
	}
	if !g.sameWindows(in, out) {
		return fault.New(fault.Invalid, "%v: the windows of PCollections %q and %q have different coders", t, in, out)
	}
	if g.SameCoder(key, wantKey) && g.SameCoder(value, wantValue) {
		return nil
	}
	for env := range touched[out] {
		if !touched[in][env] && !fixed {
			// The reader may not know the producer's coders; what it declares is between the two.
			g.encoding[in] = g.addCoder(t.ID+"/Ungrouped", urns.CoderKV, wantKey, wantValue)
			return nil
		}
	}
	g.encoding[out] = g.addCoder(t.ID+"/Grouped", urns.CoderKV, key, g.addCoder(t.ID+"/Values", urns.CoderIterable, value))
	return nil
}

// environmentsOf returns the environments whose transforms make or read each PCollection.
func (g *Graph) environmentsOf() map[string]map[string]bool {
	of := map[string]map[string]bool{}
	touch := func(pcollection, env string) {
		if of[pcollection] == nil {
			of[pcollection] = map[string]bool{}
		}
		of[pcollection][env] = true
	}
	for _, t := range g.Transforms {
		if t.Kind != SDK {
			continue
		}
		for in := range t.Inputs() {
			touch(in, t.Environment)
		}
		for out := range t.Outputs() {
			touch(out, t.Environment)
		}
	}
	return of
}

// reencode makes all inputs of a Flatten or redistribution that have elements
// of the runner's be encoded like its output.
func (g *Graph) reencode(t *Transform, runners map[string]bool) ([]*Transform, error) {
	out := only(t.Proto.GetOutputs())
	var added []*Transform
	changed := *t
	changed.Main = slices.Clone(t.Main)
	for i, in := range t.Main {
		if !runners[in.PCollection] {
			continue
		}
		if g.SameCoder(g.Encoding(in.PCollection), g.Encoding(out)) && g.sameWindows(in.PCollection, out) {
			runners[out] = true
			continue
		}
		identity, err := g.identity(t, in, out)
		if err != nil {
			return nil, err
		}
		added = append(added, identity)
		changed.Main[i].PCollection = only(identity.Proto.Outputs)
	}
	return append(added, &changed), nil
}

// identity makes a transform of the SDK that re-encodes an input of t, for PCollection out.
func (g *Graph) identity(t *Transform, in Input, out string) (*Transform, error) {
	env := g.nearbyEnvironment(t, in.PCollection)
	if env == "" {
		return nil, fault.New(fault.Unsupported, "%v: input %q is encoded differently than the output, and no environment is near to re-encode it", t, in.Local)
	}
	name := "/Transcode/" + in.Local
	encoded := g.addPCollection(t.ID+name, g.PCollection(out), g.PCollection(out).GetCoderId())
	return g.addTransform(t.ID+name, &Transform{
		Origin:      t.Origin,
		Kind:        SDK,
		Environment: env,
		Main:        []Input{{"i0", in.PCollection}},
		Proto: &pipepb.PTransform{
			UniqueName:    t.Proto.GetUniqueName() + name,
			Spec:          &pipepb.FunctionSpec{Urn: urns.TransformFlatten},
			Inputs:        map[string]string{"i0": in.PCollection},
			Outputs:       map[string]string{"i0": encoded},
			EnvironmentId: env,
		},
	}), nil
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
