package fnapitest

import (
	"context"
	"errors"
	"strconv"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
)

// stateClient matches the answers on a state stream to their requests.
type stateClient struct {
	stream fnpb.BeamFnState_StateClient
	ctx    context.Context

	mu      sync.Mutex
	next    int
	waiting map[string]chan *fnpb.StateResponse
}

func openState(ctx context.Context, conn *grpc.ClientConn) (*stateClient, error) {
	stream, err := fnpb.NewBeamFnStateClient(conn).State(ctx)
	if err != nil {
		return nil, err
	}
	return &stateClient{stream: stream, ctx: ctx, waiting: map[string]chan *fnpb.StateResponse{}}, nil
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

func (b *Bundle) state(req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	wait, err := b.harness.states.send(req)
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
	clear, err := b.harness.states.send(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}})
	if err != nil {
		return err
	}
	add, err := b.harness.states.send(&fnpb.StateRequest{InstructionId: b.ID, StateKey: key,
		Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: data}}})
	if err != nil {
		return err
	}
	_, errClear := clear()
	_, errAdd := add()
	return errors.Join(errClear, errAdd)
}
