package fnapitest

import (
	"errors"
	"strconv"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
)

// stateClient matches the answers on a state stream to their requests.
type stateClient struct {
	conn   *grpc.ClientConn
	stream fnpb.BeamFnState_StateClient

	mu      sync.Mutex
	next    int
	waiting map[string]chan *fnpb.StateResponse
}

// stateAt returns the state stream to an endpoint, which all bundles share.
func (h *Harness) stateAt(endpoint string) (*stateClient, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.states[endpoint]; c != nil {
		return c, nil
	}
	if err := h.ctx.Err(); err != nil { // Kill has closed all
		return nil, err
	}
	conn, err := Dial(endpoint)
	if err != nil {
		return nil, err
	}
	stream, err := fnpb.NewBeamFnStateClient(conn).State(h.ctx)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := &stateClient{conn: conn, stream: stream, waiting: map[string]chan *fnpb.StateResponse{}}
	h.states[endpoint] = c
	h.loops.Go(c.read)
	return c, nil
}

func (c *stateClient) read() {
	for {
		resp, err := c.stream.Recv()
		if err != nil {
			return
		}
		c.mu.Lock()
		answer := c.waiting[resp.GetId()]
		delete(c.waiting, resp.GetId())
		c.mu.Unlock()
		if answer != nil {
			answer <- resp
		}
	}
}

// send sends a request; the function it returns waits for the answer.
func (c *stateClient) send(req *fnpb.StateRequest) (func() (*fnpb.StateResponse, error), error) {
	answer := make(chan *fnpb.StateResponse, 1)
	c.mu.Lock()
	defer c.mu.Unlock() // while sending: one sender at a time
	c.next++
	req.Id = strconv.Itoa(c.next)
	c.waiting[req.Id] = answer
	if err := c.stream.Send(req); err != nil {
		return nil, err
	}
	return func() (*fnpb.StateResponse, error) {
		select {
		case resp := <-answer:
			if resp.GetError() != "" {
				return nil, errors.New(resp.GetError())
			}
			return resp, nil
		case <-c.stream.Context().Done():
			return nil, c.stream.Context().Err()
		}
	}, nil
}

// states is the stream for the bundle's state.
func (b *Bundle) states() (*stateClient, error) {
	endpoint := b.Descriptor.GetStateApiServiceDescriptor().GetUrl()
	if endpoint == "" {
		return nil, errors.New("fnapitest: the descriptor names no endpoint for state")
	}
	return b.harness.stateAt(endpoint)
}

func (b *Bundle) state(req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	states, err := b.states()
	if err != nil {
		return nil, err
	}
	wait, err := states.send(req)
	if err != nil {
		return nil, err
	}
	return wait()
}

// StateGet reads state, all its pages.
func (b *Bundle) StateGet(key *fnpb.StateKey) ([]byte, error) {
	var all, token []byte
	for {
		page, next, err := b.StatePage(key, token)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if token = next; len(token) == 0 {
			return all, nil
		}
	}
}

// StatePage reads one page, and returns the token of the next, if there is one.
func (b *Bundle) StatePage(key *fnpb.StateKey, token []byte) (page, next []byte, err error) {
	resp, err := b.state(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: token}}})
	return resp.GetGet().GetData(), resp.GetGet().GetContinuationToken(), err
}

// StateAppend appends to state and waits for the answer.
func (b *Bundle) StateAppend(key *fnpb.StateKey, data []byte) error {
	_, err := b.state(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: data}}})
	return err
}

// StateClear clears state and waits for the answer.
func (b *Bundle) StateClear(key *fnpb.StateKey) error {
	_, err := b.state(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}})
	return err
}

// StateReplace clears state and appends to it without waiting in between, as
// SDKs do, then waits for both answers.
func (b *Bundle) StateReplace(key *fnpb.StateKey, data []byte) error {
	states, err := b.states()
	if err != nil {
		return err
	}
	clear, err := states.send(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}})
	if err != nil {
		return err
	}
	add, err := states.send(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: data}}})
	if err != nil {
		return err
	}
	_, errClear := clear()
	_, errAdd := add()
	return errors.Join(errClear, errAdd)
}
