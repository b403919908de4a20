package worker

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/parts"
)

// testStreamTask is a task that acts the events of a TestStream (TestStreamPayload), each when all that
// the ones before have caused is done. At the end, which is also that of a job that is
// drained, watermarks go to the end of time.
type testStreamTask struct {
	*task
	inStore
	turns chan testTurn
	acted int // events
	ended bool
	// before is how many events were acted before it was restored, and over tells that all were.
	before int
	over   bool
	// silent tells that those who read have its final watermark.
	silent bool
}

// testTurn is an event, when it is its turn; the end of all if it is nil.
type testTurn struct {
	event *pipepb.TestStreamPayload_Event
	err   error // no turn, but what failed
}

func (t *task) runTestStream(ctx context.Context, from *restored) error {
	ctx, cancel := context.WithCancel(ctx)
	x := &testStreamTask{task: t, turns: make(chan testTurn)}
	if from != nil {
		if err := x.restore(from); err != nil {
			cancel()
			return err
		}
	}
	if err := t.arrive(ctx); err != nil {
		cancel()
		return err
	}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() { x.wait(ctx) })
	return loop(ctx, t, x)
}

// wait hands over one event after the other: an endpoint may let us wait for it, and then
// all else must be idle.
func (x *testStreamTask) wait(ctx context.Context) {
	live, stop := x.e.untilDrained(ctx)
	defer stop()
	events, err := x.testEvents(live)
	for n := 0; n < x.before && err == nil; n++ {
		_, err = events()
	}
	for over := x.over; !over; {
		var next testTurn
		if err == nil {
			next.event, err = events()
		}
		switch {
		case errors.Is(err, io.EOF) || x.e.drained():
			next.event, err, over = nil, nil, true
		case err != nil:
			next.err, over = err, true
		}
		if next.err == nil && x.e.clock.turn(ctx) != nil {
			return
		}
		if next.event != nil && x.e.drained() {
			next.event, over = nil, true
		}
		select {
		case x.turns <- next:
		case <-ctx.Done():
			return
		}
	}
}

func (x *testStreamTask) act(context.Context) (next time.Time, done bool, err error) {
	if x.ended && !x.silent {
		err = x.outbox.Watermark(frame.MaxTimestamp)
	}
	return next, x.ended, err
}

// reports is where turns come, as long as the task does not hold back.
func (x *testStreamTask) reports() <-chan testTurn {
	if x.holding != 0 {
		return nil
	}
	return x.turns
}

func (x *testStreamTask) hold(bool) {}

func (x *testStreamTask) atRest() bool { return true }

func (x *testStreamTask) reported(turn testTurn) error {
	switch {
	case turn.err != nil:
		return turn.err
	case turn.event == nil:
		x.e.clock.streamEnded()
		x.ended = true
		return nil
	}
	x.acted++
	return x.actEvent(turn.event)
}

func (x *testStreamTask) deliver(exchange.Message) error { return nil } // it has no channels

func (x *testStreamTask) drain() {} // wait does

func (x *testStreamTask) durable(uint64) {}

func (x *testStreamTask) snapshot(s *snapshot) error {
	s.stream = &parts.Stream{Acted: x.acted, Now: x.e.clock.Now().UnixMilli(), Ended: x.ended}
	s.input, s.output = frame.MinTimestamp, frame.MinTimestamp // each output has its own
	if x.ended {
		s.input, s.output = frame.MaxTimestamp, frame.MaxTimestamp
	}
	return nil
}

// restore goes on behind the events that were acted.
func (x *testStreamTask) restore(r *restored) error {
	p := r.one(protocol.Position)
	if p == nil {
		return r.corrupt("it does not say how far the TestStream %q is", r.Stage)
	}
	b, err := r.bytes(p)
	if err != nil {
		return err
	}
	s, err := parts.DecodeStream(b)
	if err != nil {
		return err
	}
	x.acted, x.before, x.ended, x.over = s.Acted, s.Acted, s.Ended, s.Ended
	x.silent = s.Ended && r.heir == nil
	x.e.clock.restore(time.UnixMilli(s.Now))
	if s.Ended {
		x.e.clock.streamEnded()
	}
	return nil
}

// testEvents returns what yields one event after the other, and io.EOF after the last.
func (t *task) testEvents(ctx context.Context) (func() (*pipepb.TestStreamPayload_Event, error), error) {
	spec := t.stage.Test
	if spec.Endpoint != nil {
		return fnapi.TestStreamEvents(ctx, spec.Endpoint, outputIDs(spec))
	}
	next := 0
	return func() (*pipepb.TestStreamPayload_Event, error) {
		if next == len(spec.Events) {
			return nil, io.EOF
		}
		next++
		return spec.Events[next-1], nil
	}, nil
}

// outputIDs are the names of a TestStream's outputs, sorted. The main one, which events may
// also name by an empty tag, has one of its own.
func outputIDs(spec *plan.TestStreamSpec) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(spec.Outputs)) {
		if id != "" || len(spec.Outputs) == 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

func (t *task) actEvent(event *pipepb.TestStreamPayload_Event) error {
	switch e := event.GetEvent().(type) {
	case *pipepb.TestStreamPayload_Event_ElementEvent:
		routes, err := t.tagged(e.ElementEvent.GetTag())
		if err != nil {
			return err
		}
		return t.sendTest(routes, e.ElementEvent.GetElements())
	case *pipepb.TestStreamPayload_Event_WatermarkEvent:
		routes, err := t.tagged(e.WatermarkEvent.GetTag())
		if err != nil {
			return err
		}
		return t.watermark(routes, e.WatermarkEvent.GetNewWatermark())
	case *pipepb.TestStreamPayload_Event_ProcessingTimeEvent:
		t.e.clock.advance(time.Duration(e.ProcessingTimeEvent.GetAdvanceDuration()) * time.Millisecond)
		return nil
	}
	return fault.New(fault.Unsupported, "a TestStream event of type %T", event.GetEvent())
}

// tagged returns the routes of the PCollection that events of a tag are for.
func (t *task) tagged(tag string) (routes []route, err error) {
	out, ok := t.stage.Test.Outputs[tag]
	if !ok {
		return nil, fault.New(fault.Invalid, "an event of a TestStream is for output %q, which it does not have", tag)
	}
	for _, r := range t.routes {
		if r.edge.PCollection == out {
			routes = append(routes, r)
		}
	}
	return routes, nil
}

// watermark sends the watermark of one output. Elements may have the last timestamps of
// all, so that none is the end of time before the TestStream has ended.
func (t *task) watermark(routes []route, ts int64) error {
	for _, r := range routes {
		for i := range r.tasks {
			if err := t.outbox.WatermarkOn(r.first+i, min(ts, frame.MaxTimestamp-1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendTest sends elements in the global window, of which the plan has it that they are
// length-prefixed on the wire.
func (t *task) sendTest(routes []route, elements []*pipepb.TestStreamPayload_TimestampedElement) error {
	f := frame.Frame{Elements: len(elements), MinTimestamp: frame.MaxTimestamp}
	for _, el := range elements {
		f.Data = coders.AppendHeader(f.Data, el.GetTimestamp(), 1, nil, []byte{coders.PaneNoFiring})
		if t.stage.Test.Delimited {
			f.Data = append(f.Data, el.GetEncodedElement()...)
		} else {
			f.Data = coders.AppendBytes(f.Data, el.GetEncodedElement())
		}
		f.MinTimestamp = min(f.MinTimestamp, el.GetTimestamp())
	}
	if f.Elements == 0 {
		return nil
	}
	t.e.spans.input(t.stage)
	if err := t.sendOn(routes, f); err != nil {
		return err
	}
	t.e.stats.made(t, f)
	return nil
}
