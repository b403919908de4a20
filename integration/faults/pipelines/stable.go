package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/runnerlib"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
	"google.golang.org/protobuf/proto"
)

// drawn is an id and what was drawn for it, which is another number whenever that is done again.
type drawn struct {
	ID   int64
	Draw uint64
}

func (d drawn) String() string { return fmt.Sprintf("%d:%d", d.ID, d.Draw) }

// stable draws a number for each id, and has sinks that want their input to be stable tell a file what they see of that: it has
// to be the same in each attempt.
//
//	drawn ID:DRAW           a bundle has drawn it
//	finalised ID:DRAW       that bundle is durable; the SDK tells few, as it forgets callbacks of plans that it has used before
//	sunk ID:DRAW            a sink has seen it
//	fired KEY N ID:DRAW...  a timer of a key, the Nth, has seen what came since the one before
func stable(s beam.Scope) {
	o := oracle{Start: time.Now().UnixMilli(), Every: every.Milliseconds(), N: *n, Shards: *shards, Keys: *keys}
	var parts []beam.PCollection
	for shard := range o.Shards {
		s := s.Scope(fmt.Sprintf("shard%d", shard))
		sequence := beam.Create(s, periodic.SequenceDefinition{Interval: *every, Start: o.Start, End: o.Start + o.N*o.Every})
		ids := beam.ParDo(s, &name{Shard: shard, oracle: o}, periodic.Sequence(s, sequence))
		parts = append(parts, beam.ParDo(s, &draw{notes: notes{File: *observed}}, ids))
	}
	all := beam.Flatten(s, parts...)
	sinks := s.Scope(wantStable)
	beam.ParDo0(sinks, &sink{notes{File: *observed}}, all)
	beam.ParDo0(sinks, newGather(*observed), all)
}

// wantStable is the scope of transforms that require stable input.
const wantStable = "stable input"

// submitStable submits a pipeline as the universal runner does, with what the Go SDK has no way to say.
func submitStable(ctx context.Context, p *beam.Pipeline) error {
	edges, _, err := p.Build()
	if err != nil {
		return err
	}
	environment, err := graphx.CreateEnvironment(ctx, jobopts.GetEnvironmentUrn(ctx), jobopts.GetEnvironmentConfig)
	if err != nil {
		return err
	}
	pipeline, err := graphx.Marshal(edges, &graphx.Options{Environment: environment})
	if err != nil {
		return err
	}
	if err := requireStable(pipeline); err != nil {
		return err
	}
	endpoint, err := jobopts.GetEndpoint()
	if err != nil {
		return err
	}
	_, err = runnerlib.Execute(ctx, pipeline, endpoint, &runnerlib.JobOptions{Name: jobopts.GetJobName(), Worker: *jobopts.WorkerBinary}, *jobopts.Async)
	return err
}

func requireStable(p *pipepb.Pipeline) error {
	p.Requirements = append(p.Requirements, "beam:requirement:pardo:stable_input:v1")
	for _, t := range p.GetComponents().GetTransforms() {
		if !strings.HasPrefix(t.GetUniqueName(), wantStable+"/") || t.GetSpec().GetUrn() != "beam:transform:pardo:v1" {
			continue
		}
		var payload pipepb.ParDoPayload
		if err := proto.Unmarshal(t.GetSpec().GetPayload(), &payload); err != nil {
			return err
		}
		payload.RequiresStableInput = true
		var err error
		if t.Spec.Payload, err = proto.Marshal(&payload); err != nil {
			return err
		}
	}
	return nil
}

// notes are lines of a file that several processes add to.
type notes struct {
	File string
	out  *os.File
}

func (f *notes) Setup() (err error) {
	f.out, err = os.OpenFile(f.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return err
}

func (f *notes) Teardown() error { return f.out.Close() }

func (f *notes) note(what ...any) error {
	_, err := fmt.Fprintln(f.out, what...)
	return err
}

// draw draws, and says so again once what it has drawn is durable.
type draw struct{ notes }

func (f *draw) ProcessElement(durable beam.BundleFinalization, key, id int64, emit func(int64, drawn)) error {
	d := drawn{id, rand.Uint64()}
	durable.RegisterCallback(time.Minute, func() error { return f.note("finalised", d) })
	emit(key, d)
	return f.note("drawn", d)
}

// sink sees each by itself.
type sink struct{ notes }

func (f *sink) ProcessElement(_ int64, d drawn) error { return f.note("sunk", d) }

// gather sees together what comes of a key while a timer runs.
type gather struct {
	notes
	Bag   state.Bag[drawn]
	Fired state.Value[int64]
	Soon  timers.ProcessingTime
}

func newGather(file string) *gather {
	return &gather{
		notes: notes{File: file}, Bag: state.MakeBagState[drawn]("bag"), Fired: state.MakeValueState[int64]("fired"), Soon: timers.InProcessingTime("soon"),
	}
}

func (f *gather) ProcessElement(p state.Provider, t timers.Provider, _ int64, d drawn) error {
	f.Soon.Set(t, time.Now().Add(20*time.Millisecond))
	return f.Bag.Add(p, drawn{d.ID, d.Draw ^ rand.Uint64()}) // its state is to be stable too
}

func (f *gather) OnTimer(_ context.Context, p state.Provider, _ timers.Provider, key int64, _ timers.Context) error {
	all, _, err := f.Bag.Read(p)
	if err != nil {
		return err
	}
	n, _, err := f.Fired.Read(p)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b drawn) int { return int(a.ID - b.ID) })
	line := []any{"fired", key, n}
	for _, d := range all {
		line = append(line, d)
	}
	if err := f.note(line...); err != nil {
		return err
	}
	if err := f.Bag.Clear(p); err != nil {
		return err
	}
	return f.Fired.Write(p, n+1)
}

func init() {
	beam.RegisterType(typeOf(drawn{}))
	register.DoFn4x1[beam.BundleFinalization, int64, int64, func(int64, drawn), error](&draw{})
	register.DoFn2x1[int64, drawn, error](&sink{})
	register.DoFn4x1[state.Provider, timers.Provider, int64, drawn, error](&gather{})
	register.Emitter2[int64, drawn]()
}
