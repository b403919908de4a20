package fnapi

import (
	"fmt"

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

// stateCall is a request and the way back for its answer.
type stateCall struct {
	request *fnpb.StateRequest
	reply   func(*fnpb.StateResponse)
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
	answers := make(chan *fnpb.StateResponse, stateQueue)
	slots := make(chan struct{}, stateQueue) // taken from reading until writing: answers never overflows
	err = s.s.serve(h.done,
		func() error { return h.readState(stream, slots, answers) },
		func() error { return writeState(stream, slots, answers) })
	if statusOf(err) != nil {
		h.streamEnded("state", err)
	}
	return statusOf(err)
}

func (h *Harness) readState(stream fnpb.BeamFnState_StateServer, slots chan<- struct{}, answers chan<- *fnpb.StateResponse) error {
	reply := func(resp *fnpb.StateResponse) { answers <- resp }
	for {
		req := new(fnpb.StateRequest)
		if err := data.RecvProto(stream, req); err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-stream.Context().Done():
			return nil
		}
		call := stateCall{req, reply}
		if b := h.bundle([]byte(req.GetInstructionId())); b != nil {
			b.enqueue(call)
		} else {
			call.refuse(nobodys)
		}
	}
}

func writeState(stream fnpb.BeamFnState_StateServer, slots <-chan struct{}, answers <-chan *fnpb.StateResponse) error {
	for {
		select {
		case resp := <-answers:
			<-slots
			if err := stream.Send(resp); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

const nobodys = "the bundle has ended, or never was"

func (c stateCall) refuse(format string, args ...any) {
	c.reply(&fnpb.StateResponse{Id: c.request.GetId(), Error: fmt.Sprintf(format, args...)})
}

// enqueue adds a call behind the earlier ones of the bundle.
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
		ended := b.ended
		b.mu.Unlock()
		switch {
		case ended:
			call.refuse(nobodys)
		case b.spec.State == nil:
			call.refuse("the descriptor %s has no state", b.spec.Descriptor)
		default:
			call.reply(answer(b.spec.State, call.request))
		}
	}
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
