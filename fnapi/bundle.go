package fnapi

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/internal/fault"
)

// TimerFamily names a timer family of a transform.
type TimerFamily struct{ Transform, Family string }

// BundleSpec says what a bundle executes and what will come out of it.
type BundleSpec struct {
	// Descriptor is the id of a descriptor given to AddDescriptor.
	Descriptor string
	// Source is the transform id of the descriptor's data source.
	Source string
	// Sinks are the transform ids of all its data sinks.
	Sinks []string
	// Timers are all its timer families; each is an input and an output.
	Timers []TimerFamily
	// State serves its state requests; nil answers all of them with an error.
	State StateHandler
	// CacheTokens say which of what the harness has cached of state it may still use: what it
	// read under the same token of the same transform and state.
	CacheTokens []*fnpb.ProcessBundleRequest_CacheToken
}

// Output is a chunk of what a bundle puts out.
type Output struct {
	// Transform is the sink, or the transform whose timers these are.
	Transform string
	// Timer is the timer family, empty for data.
	Timer string
	// Data belongs to the caller. It may share its backing array, not its
	// bytes, with other chunks. An element may go on in the next chunk of the
	// same sink, though SDKs cut between elements.
	Data []byte
}

// Bundle is one ProcessBundle on one harness. Every bundle must be read to the
// end with Recv, or aborted. Methods are safe for concurrent use, except that
// Recv is for one goroutine at a time, and CloseSend comes after every Send.
type Bundle struct {
	harness *Harness
	id      string
	spec    BundleSpec

	over chan struct{} // closed when the bundle has ended, well or not
	wake chan struct{} // for Recv: something has changed

	slowState atomic.Bool // its last state call took long

	mu         sync.Mutex
	ended      bool  // over is closed
	err        error // why it ended, nil if well
	sealed     bool  // CloseSend was called, or end has done its work
	answered   bool  // the harness has responded, well or not
	splitAsked bool
	held       []data.Message // input that has not been sent
	heldBytes  int
	response   *fnpb.ProcessBundleResponse
	monitoring []data.MonitoringData // of the response
	outputs    []output
	open       int // outputs not yet terminated
	queue      chunks
	calls      []stateCall
	answering  bool // a goroutine is answering a state call
}

// output is one sink or timer family.
type output struct {
	data.Target
	ended bool
}

// NewBundle sends the ProcessBundleRequest. It does not wait for the harness to connect.
func (h *Harness) NewBundle(spec BundleSpec) (*Bundle, error) {
	if spec.Source == "" {
		return nil, fault.New(fault.Internal, "fnapi: bundle of descriptor %q without a source", spec.Descriptor)
	}
	b := &Bundle{
		harness: h,
		id:      h.server.nextID(),
		spec:    spec,
		over:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
	}
	for _, sink := range spec.Sinks {
		b.outputs = append(b.outputs, output{Target: data.Target{Transform: sink}})
	}
	for _, t := range spec.Timers {
		b.outputs = append(b.outputs, output{Target: data.Target(t)})
	}
	b.open = len(b.outputs)

	h.mu.Lock()
	switch {
	case h.err != nil:
		h.mu.Unlock()
		return nil, h.lost()
	case h.descriptors[spec.Descriptor] == nil:
		h.mu.Unlock()
		return nil, fault.New(fault.Internal, "fnapi: harness %s was given no descriptor %q", h.id, spec.Descriptor)
	}
	h.bundles[b.id] = b
	h.mu.Unlock()

	err := h.instruct(&fnpb.InstructionRequest{
		InstructionId: b.id,
		Request: &fnpb.InstructionRequest_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleRequest{
			ProcessBundleDescriptorId: spec.Descriptor,
			CacheTokens:               spec.CacheTokens,
		}},
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// ID is the instruction id, unique in the life of the server.
func (b *Bundle) ID() string { return b.id }

// BatchBytes is how much input of a bundle Send gathers, so that it goes out at once. A bundle with
// less is fed without waiting for anything.
const BatchBytes = 64 << 10

// Send passes a chunk of input to the source: whole encoded elements, 64 KB to
// 2 MB of them where possible. Less than BatchBytes are kept until more comes or
// CloseSend is called, so call it as soon as there is no more to send. With more
// it waits while the harness takes none, and returns the error of the bundle
// once that has failed. The chunk is not copied: it must not be changed before
// the bundle has ended, and after a failure or Abort not at all, as it may still
// be on its way out. Input that comes after the end of a bundle that the runner
// has split is dropped.
func (b *Bundle) Send(chunk []byte) error {
	return b.send(data.Target{Transform: b.spec.Source}, chunk)
}

// SendTimers passes fired timers to a family of the descriptor. Otherwise it is as Send.
func (b *Bundle) SendTimers(t TimerFamily, chunk []byte) error {
	return b.send(data.Target(t), chunk)
}

func (b *Bundle) send(to data.Target, chunk []byte) error {
	if len(chunk) > math.MaxInt32-1<<20 {
		return fault.New(fault.Unsupported, "%d bytes for transform %q: messages of the Fn API hold less than 2 GiB", len(chunk), to.Transform)
	}
	if len(chunk) == 0 {
		return nil
	}
	if b.isOver() {
		return b.failure()
	}
	message := data.NewMessage(b.id, to, chunk)
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return b.failure()
	}
	b.held = append(b.held, message)
	if b.heldBytes += len(chunk); b.heldBytes < BatchBytes || b.harness.worker.WholeBundles {
		b.mu.Unlock()
		return nil
	}
	held := b.held
	b.held, b.heldBytes = nil, 0
	b.mu.Unlock()
	if !b.harness.input.send(b, held...) {
		return b.failure()
	}
	return nil
}

// CloseSend ends the input: the terminators of the source and of every timer
// family go out together, after the input that has been kept. It does not wait.
func (b *Bundle) CloseSend() error {
	b.mu.Lock()
	sealed, held := b.sealed, b.held
	b.sealed, b.held = true, nil
	b.mu.Unlock()
	if sealed {
		return b.failure()
	}
	last := append(held, b.terminators())
	if b.harness.worker.WholeBundles {
		last = []data.Message{data.Join(last...)}
	}
	if b.isOver() {
		b.releaseHarness()
		return b.failure()
	}
	b.harness.input.sendLast(last...)
	return nil
}

// terminators is the message that ends the input.
func (b *Bundle) terminators() data.Message {
	targets := make([]data.Target, 0, len(b.spec.Timers)+1)
	for _, t := range b.spec.Timers {
		targets = append(targets, data.Target(t))
	}
	return data.NewTerminators(b.id, append(targets, data.Target{Transform: b.spec.Source}))
}

// releaseHarness ends the input of a bundle that failed on our side, lest the
// harness wait for more of it for ever.
func (b *Bundle) releaseHarness() {
	b.mu.Lock()
	answered := b.answered
	b.mu.Unlock()
	if !answered {
		b.harness.input.sendLast(b.terminators())
	}
}

func (b *Bundle) isOver() bool {
	select {
	case <-b.over:
		return true
	default:
		return false
	}
}

func (b *Bundle) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Recv returns the next chunk of output, of which some may be kept back until the
// bundle has ended. The order of chunks is kept within a
// sink and within a timer family. After the last chunk comes io.EOF: the
// response and every terminator have arrived, and Response is set. A bundle
// that fails returns its error, and what was still queued is dropped: class
// UserCode with the SDK's whole error text, Retryable if the harness was lost,
// Invalid if its output was against the protocol, or what Abort was given.
// The error of ctx leaves the bundle as it is.
func (b *Bundle) Recv(ctx context.Context) (Output, error) {
	for {
		b.mu.Lock()
		out, ok := b.queue.pop()
		err, ended := b.err, b.ended
		b.mu.Unlock()
		switch {
		case ok:
			b.harness.unqueue(len(out.Data))
			return out, nil
		case err != nil:
			return Output{}, err
		case ended:
			return Output{}, io.EOF
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return Output{}, ctx.Err()
		}
	}
}

// Response is the harness's response once Recv has returned io.EOF, without what Recv has returned of
// it and what Metrics does. Nil before.
func (b *Bundle) Response() *fnpb.ProcessBundleResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		return nil
	}
	return b.response
}

// Abort drops the bundle: Send and Recv that wait return err, output still
// queued or still to come is dropped. Beam has no way to cancel a bundle: the
// harness is told that the input has ended, so that it doesn't wait for ever,
// and goes on with what it has; its state requests get errors. Abort of a
// bundle that has been read to its end does nothing.
func (b *Bundle) Abort(err error) {
	if err == nil {
		err = errors.New("bundle aborted")
	}
	b.mu.Lock()
	dropped := 0
	if b.ended && !b.queue.empty() { // it went well, but nobody will read it
		dropped = b.drop()
		b.err = err
	}
	b.mu.Unlock()
	b.harness.unqueue(dropped)
	b.end(err)
}

// end ends the bundle, well if err is nil. The first end counts.
func (b *Bundle) end(err error) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return
	}
	b.ended, b.err, b.held = true, err, nil
	dropped := 0
	if err != nil {
		dropped = b.drop()
	}
	release := err != nil && !b.sealed
	b.sealed = true
	close(b.over)
	b.mu.Unlock()
	b.harness.unqueue(dropped)
	if release {
		b.releaseHarness()
	}
	b.harness.forget(b)
	signal(b.wake)
}
