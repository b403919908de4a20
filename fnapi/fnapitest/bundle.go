package fnapitest

import (
	"fmt"
	"iter"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	sourceURN = "beam:runner:source:v1"
	sinkURN   = "beam:runner:sink:v1"
	parDoURN  = "beam:transform:pardo:v1"
)

// Bundle is a bundle as the script sees it. Safe for concurrent use.
type Bundle struct {
	// ID is the instruction id.
	ID string
	// Descriptor is what the harness got from GetProcessBundleDescriptor.
	Descriptor *fnpb.ProcessBundleDescriptor
	// CacheTokens of the request.
	CacheTokens []*fnpb.ProcessBundleRequest_CacheToken

	harness *Harness
	sinks   []string
	timers  [][2]string // transform, family
	input   *inputQueue

	mu         sync.Mutex
	terminated map[[2]string]bool
	responded  bool
}

// Input is a chunk of a bundle's input.
type Input struct {
	Transform, Timer string // the source, or the transform and family of timers
	Data             []byte
}

func newBundle(h *Harness, id string) *Bundle {
	return &Bundle{ID: id, harness: h, terminated: map[[2]string]bool{}, input: newInputQueue()}
}

// process runs the script for a bundle and responds.
func (h *Harness) process(b *Bundle, descriptor string) {
	defer func() {
		h.mu.Lock()
		delete(h.bundles, b.ID)
		h.mu.Unlock()
	}()
	d, err := h.Descriptor(descriptor)
	if err == nil {
		err = b.describe(d)
	}
	if err == nil {
		if h.script.Process != nil {
			err = h.script.Process(b)
		} else {
			err = b.Drain()
		}
	}
	if err != nil {
		b.respond(&fnpb.InstructionResponse{InstructionId: b.ID, Error: err.Error()})
		return
	}
	b.Terminate()
	b.Respond(&fnpb.ProcessBundleResponse{})
}

// describe finds the sources, sinks and timer families of the descriptor.
func (b *Bundle) describe(d *fnpb.ProcessBundleDescriptor) error {
	b.Descriptor = d
	terminators := 0
	for id, t := range d.GetTransforms() {
		switch t.GetSpec().GetUrn() {
		case sourceURN:
			terminators++
		case sinkURN:
			b.sinks = append(b.sinks, id)
		case parDoURN:
			var parDo pipepb.ParDoPayload
			if err := proto.Unmarshal(t.GetSpec().GetPayload(), &parDo); err != nil {
				return fmt.Errorf("fnapitest: payload of transform %s: %w", id, err)
			}
			for family := range parDo.GetTimerFamilySpecs() {
				b.timers = append(b.timers, [2]string{id, family})
				terminators++
			}
		}
	}
	b.input.expect(terminators)
	return nil
}

// Input yields the chunks of the input, timers included, until all of it has
// been terminated. The error tells that the harness was killed meanwhile.
func (b *Bundle) Input() iter.Seq2[Input, error] {
	return func(yield func(Input, error) bool) {
		for {
			in, ok, err := b.input.take()
			if err != nil {
				yield(Input{}, err)
				return
			}
			if !ok || !yield(in, nil) {
				return
			}
		}
	}
}

// Drain reads the input to its end.
func (b *Bundle) Drain() error {
	for _, err := range b.Input() {
		if err != nil {
			return err
		}
	}
	return nil
}

// Emit sends a chunk of output for a sink.
func (b *Bundle) Emit(sink string, chunk []byte) error {
	return b.harness.Send(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: b.ID, TransformId: sink, Data: chunk}}})
}

// EmitTimers sends encoded timers of a family.
func (b *Bundle) EmitTimers(transform, family string, chunk []byte) error {
	return b.harness.Send(&fnpb.Elements{Timers: []*fnpb.Elements_Timers{{
		InstructionId: b.ID, TransformId: transform, TimerFamilyId: family, Timers: chunk}}})
}

// Terminate sends the terminators of all sinks and timer families, except
// those already sent by Terminate.
func (b *Bundle) Terminate() error {
	b.mu.Lock()
	elements := &fnpb.Elements{}
	for _, sink := range b.sinks {
		if key := [2]string{sink}; !b.terminated[key] {
			b.terminated[key] = true
			elements.Data = append(elements.Data, &fnpb.Elements_Data{InstructionId: b.ID, TransformId: sink, IsLast: true})
		}
	}
	for _, t := range b.timers {
		if !b.terminated[t] {
			b.terminated[t] = true
			elements.Timers = append(elements.Timers, &fnpb.Elements_Timers{
				InstructionId: b.ID, TransformId: t[0], TimerFamilyId: t[1], IsLast: true})
		}
	}
	b.mu.Unlock()
	if len(elements.Data)+len(elements.Timers) == 0 {
		return nil
	}
	return b.harness.Send(elements)
}

// Respond sends the response to the bundle; only the first one counts. If it
// embeds elements, the harness sends no terminators.
func (b *Bundle) Respond(resp *fnpb.ProcessBundleResponse) error {
	if resp.GetElements() != nil {
		b.mu.Lock()
		b.sinks, b.timers = nil, nil
		b.mu.Unlock()
	}
	return b.respond(&fnpb.InstructionResponse{
		InstructionId: b.ID,
		Response:      &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: resp},
	})
}

func (b *Bundle) respond(resp *fnpb.InstructionResponse) error {
	b.mu.Lock()
	done := b.responded
	b.responded = true
	b.mu.Unlock()
	if done {
		return nil
	}
	return b.harness.Respond(resp)
}

// inputQueue is unbounded, so that one bundle never holds up another.
type inputQueue struct {
	mu    sync.Mutex
	cond  *sync.Cond
	list  []Input
	ends  int
	wants int // -1 until the descriptor is known
	err   error
}

func newInputQueue() *inputQueue {
	q := &inputQueue{wants: -1}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *inputQueue) expect(terminators int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wants = terminators
	q.cond.Broadcast()
}

func (q *inputQueue) add(in Input, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// As in the Python SDK, what comes with a terminator is lost.
	if last {
		q.ends++
	} else {
		q.list = append(q.list, in)
	}
	q.cond.Broadcast()
}

func (q *inputQueue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
	q.cond.Broadcast()
}

func (q *inputQueue) take() (Input, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.err != nil:
			return Input{}, false, q.err
		case len(q.list) > 0:
			in := q.list[0]
			q.list = q.list[1:]
			return in, true, nil
		case q.ends == q.wants:
			return Input{}, false, nil
		}
		q.cond.Wait()
	}
}
