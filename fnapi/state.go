package fnapi

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/fnapi/h2"
)

const (
	stateMethod = "/org.apache.beam.model.fn_execution.v1.BeamFnState/State"
	// stateQueue bounds the state requests of one stream that wait for an answer.
	stateQueue = 4096
	// slow is how long a call takes after which the next of its bundle gets a goroutine of its own.
	slow = 500 * time.Microsecond
)

// StateHandler serves the state requests of one bundle: user state and side
// inputs. The calls of a bundle come one at a time, in the order in which the
// harness sent them, as SDKs send a clear and the appends after it without
// waiting; those of different bundles are concurrent. A call may still be
// running when Abort returns; none begins after it. Key and data belong to the
// callee during the call only. The text of an error goes to the SDK, which
// fails the bundle with it.
type StateHandler interface {
	// Get returns what is stored under key, or a page of it: a next that isn't
	// empty is the token to ask for the page after it with. The first call has no token.
	Get(key *fnpb.StateKey, token []byte) (data, next []byte, err error)
	// Append adds data at the end.
	Append(key *fnpb.StateKey, data []byte) error
	// Clear removes all that is stored under key.
	Clear(key *fnpb.StateKey) error
}

// stateService serves BeamFnState: on an endpoint of its own, and where BeamFnData is, since
// Go's SDK asks there for the values of large groups, whatever the descriptor says.
type stateService struct{ s *Server }

// stateStream is one of a harness's. Requests are answered by whoever reads them, which
// spares the switches between goroutines that a request costs, unless others of
// their bundle are waiting or that would keep other bundles waiting.
type stateStream struct {
	harness *Harness
	stream  *h2.Stream
	closed  chan struct{}
	slots   chan struct{}    // taken by the calls that wait
	reader  data.StateReader // of the reading goroutine, as is head
	head    []byte           // scratch
}

// stateCall is a request that waits, and the stream on which it came.
type stateCall struct {
	request []byte
	stream  *stateStream
}

// Open begins a state stream. A harness may have several.
func (st stateService) Open(method string, header h2.Header, stream *h2.Stream) (h2.Receiver, error) {
	if method != stateMethod {
		return nil, status.Errorf(codes.Unimplemented, "there is no method %q on the endpoint of state", method)
	}
	h, err := st.s.worker(header.Get("worker_id"))
	if err != nil {
		return nil, err
	}
	s := &stateStream{harness: h, stream: stream, closed: make(chan struct{}), slots: make(chan struct{}, stateQueue)}
	h.endWith(stream, s.closed)
	return s, nil
}

// Closed is part of h2.Receiver.
func (s *stateStream) Closed() { close(s.closed) }

// Receive answers a request, or leaves it to the goroutine that answers those of its bundle.
func (s *stateStream) Receive(message []byte) error {
	req, err := s.reader.Read(message)
	if err != nil {
		s.harness.streamEnded("state", err)
		return statusOf(err)
	}
	b := s.harness.bundle(req.Instruction)
	switch {
	case b == nil:
		s.stream.Queue(data.AppendStateError(nil, req.ID, nobodys))
	case b.claim():
		var body []byte
		s.head, body = b.answer(s.head[:0], req)
		s.stream.Queue(s.head, body)
		b.released()
	default:
		select {
		case s.slots <- struct{}{}:
			b.enqueue(stateCall{bytes.Clone(message), s})
		case <-s.closed:
		case <-s.harness.done:
		}
	}
	return nil
}

const nobodys = "the bundle has ended, or never was"

// claim tells whether the caller is to answer a call at once, and to say when it has done so.
// Otherwise the call is to be answered behind the earlier ones of the bundle.
func (b *Bundle) claim() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answering || b.slowState.Load() {
		return false
	}
	b.answering = true
	return true
}

// released ends a claim.
func (b *Bundle) released() {
	b.mu.Lock()
	more := len(b.calls) > 0 // from another stream of the harness
	if more {
		b.harness.server.loops.Go(b.answerCalls)
	}
	b.answering = more
	b.mu.Unlock()
	if !more {
		b.settle()
	}
}

// enqueue leaves a call to a goroutine.
func (b *Bundle) enqueue(call stateCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, call)
	if !b.answering {
		b.answering = true
		b.harness.server.loops.Go(b.answerCalls)
	}
}

// answerCalls works through the calls of the bundle until there are none.
func (b *Bundle) answerCalls() {
	var reader data.StateReader
	for {
		b.mu.Lock()
		if len(b.calls) == 0 {
			b.answering = false
			b.mu.Unlock()
			b.settle()
			return
		}
		call := b.calls[0]
		b.calls = b.calls[1:]
		b.mu.Unlock()
		if req, err := reader.Read(call.request); err == nil { // as it was when it was received
			head, body := b.answer(nil, req)
			call.stream.stream.Send(head, body)
		}
		<-call.stream.slots
	}
}

// answer appends the answer to a call of the bundle to head, up to the body that is to
// follow. Only one goroutine at a time does.
func (b *Bundle) answer(head []byte, req *data.StateRequest) (_, body []byte) {
	switch {
	case b.isOver():
		return data.AppendStateError(head, req.ID, nobodys), nil
	case b.spec.State == nil:
		return data.AppendStateError(head, req.ID, fmt.Sprintf("the descriptor %s has no state", b.spec.Descriptor)), nil
	}
	began := time.Now()
	head, body = answer(head, b.spec.State, req)
	if now := time.Since(began) > slow; now != b.slowState.Load() {
		b.slowState.Store(now)
	}
	return head, body
}

func answer(head []byte, state StateHandler, req *data.StateRequest) (_, body []byte) {
	var next []byte
	var err error
	switch req.Kind {
	case data.StateGet:
		body, next, err = state.Get(req.Key, req.Payload)
	case data.StateAppend:
		err = state.Append(req.Key, req.Payload)
	case data.StateClear:
		err = state.Clear(req.Key)
	default:
		err = fmt.Errorf("state request of a kind unknown here")
	}
	switch {
	case err != nil:
		return data.AppendStateError(head, req.ID, cmp.Or(err.Error(), "state request failed")), nil
	case req.Kind == data.StateGet:
		return data.AppendStatePage(head, req.ID, len(body), next), body
	}
	return data.AppendStateDone(head, req.ID, req.Kind), nil
}
