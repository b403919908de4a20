package fnapi

import (
	"fmt"
	"sync"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi/data"
)

// stateQueue bounds the state requests of one harness that wait for an answer.
const stateQueue = 4096

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

// atOnce bounds the answers that are written by whoever reads the requests; slow is how
// long a call takes after which the next of its bundle gets a goroutine of its own.
const (
	atOnce = 16 << 10
	slow   = 500 * time.Microsecond
)

// stateCall is a request and the stream on which it came.
type stateCall struct {
	request *fnpb.StateRequest
	stream  *stateStream
}

// stateStream is one of a harness's. Requests are answered by whoever reads them, which
// spares most of the switches between goroutines that a request costs, unless others of
// their bundle are waiting or that would keep other bundles waiting.
type stateStream struct {
	fnpb.BeamFnState_StateServer
	sending sync.Mutex               // held to write
	slots   chan struct{}            // taken from reading until writing: answers never overflows
	answers chan *fnpb.StateResponse // for the writer
}

type stateService struct {
	fnpb.UnimplementedBeamFnStateServer
	s *Server
}

// State serves a state stream. A harness may have several.
func (s stateService) State(stream fnpb.BeamFnState_StateServer) error {
	h, err := s.s.harness(stream.Context())
	if err != nil {
		return err
	}
	st := &stateStream{
		BeamFnState_StateServer: stream,
		slots:                   make(chan struct{}, stateQueue),
		answers:                 make(chan *fnpb.StateResponse, stateQueue),
	}
	err = s.s.serve(h.done,
		func() error { return h.readState(st) },
		st.write)
	if statusOf(err) != nil {
		h.streamEnded("state", err)
	}
	return statusOf(err)
}

func (h *Harness) readState(s *stateStream) error {
	for {
		req := new(fnpb.StateRequest)
		if err := data.RecvProto(s, req); err != nil {
			return err
		}
		select {
		case s.slots <- struct{}{}:
		case <-s.Context().Done():
			return nil
		}
		call := stateCall{req, s}
		b := h.bundle([]byte(req.GetInstructionId()))
		var err error
		switch {
		case b == nil:
			call.refuse(nobodys)
		case b.claim(call):
			err = s.reply(b.answer(call))
			b.released()
		}
		if err != nil {
			return err
		}
	}
}

// reply writes an answer at once, or leaves it to the writer where it might have to wait.
func (s *stateStream) reply(resp *fnpb.StateResponse) error {
	if len(s.answers) > 0 || len(resp.GetGet().GetData()) > atOnce || !s.sending.TryLock() {
		s.answers <- resp
		return nil
	}
	defer s.sending.Unlock()
	return s.send(resp)
}

func (s *stateStream) send(resp *fnpb.StateResponse) error {
	<-s.slots
	return s.Send(resp)
}

func (s *stateStream) write() error {
	for {
		select {
		case resp := <-s.answers:
			s.sending.Lock()
			err := s.send(resp)
			s.sending.Unlock()
			if err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

const nobodys = "the bundle has ended, or never was"

func (c stateCall) refuse(format string, args ...any) { c.stream.answers <- c.refusal(format, args...) }

func (c stateCall) refusal(format string, args ...any) *fnpb.StateResponse {
	return &fnpb.StateResponse{Id: c.request.GetId(), Error: fmt.Sprintf(format, args...)}
}

// claim tells whether the caller is to answer a call at once, and to say when it has done so.
// Otherwise the call is answered behind the earlier ones of the bundle.
func (b *Bundle) claim(call stateCall) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.answering && !b.slowState.Load() {
		b.answering = true
		return true
	}
	b.calls = append(b.calls, call)
	if !b.answering {
		b.answering = true
		b.harness.server.loops.Go(b.answerCalls)
	}
	return false
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

// answerCalls works through the calls of the bundle until there are none.
func (b *Bundle) answerCalls() {
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
		call.stream.answers <- b.answer(call)
	}
}

// answer answers a call of the bundle. Only one goroutine at a time does.
func (b *Bundle) answer(call stateCall) *fnpb.StateResponse {
	switch {
	case b.isOver():
		return call.refusal(nobodys)
	case b.spec.State == nil:
		return call.refusal("the descriptor %s has no state", b.spec.Descriptor)
	}
	began := time.Now()
	resp := answer(b.spec.State, call.request)
	b.slowState.Store(time.Since(began) > slow)
	return resp
}

func answer(state StateHandler, req *fnpb.StateRequest) *fnpb.StateResponse {
	resp := &fnpb.StateResponse{Id: req.GetId()}
	var err error
	switch r := req.GetRequest().(type) {
	case *fnpb.StateRequest_Get:
		get := &fnpb.StateGetResponse{}
		get.Data, get.ContinuationToken, err = state.Get(req.GetStateKey(), r.Get.GetContinuationToken())
		resp.Response = &fnpb.StateResponse_Get{Get: get}
	case *fnpb.StateRequest_Append:
		err = state.Append(req.GetStateKey(), r.Append.GetData())
		resp.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
	case *fnpb.StateRequest_Clear:
		err = state.Clear(req.GetStateKey())
		resp.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
	default:
		err = fmt.Errorf("state request of a kind unknown here (%T)", r)
	}
	if err != nil {
		resp.Response, resp.Error = nil, err.Error()
		if resp.Error == "" {
			resp.Error = "state request failed"
		}
	}
	return resp
}
