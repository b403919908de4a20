package fnapi

import (
	"context"
	"errors"
	"io"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/internal/fault"
)

type controlService struct {
	fnpb.UnimplementedBeamFnControlServer
	s *Server
}

// Control serves the one control stream of a harness; its end is the end of the harness.
func (c controlService) Control(stream fnpb.BeamFnControl_ControlServer) error {
	h, err := c.s.harness(stream.Context())
	if err != nil {
		return err
	}
	if !h.connected.CompareAndSwap(false, true) {
		return status.Errorf(codes.AlreadyExists, "worker %q has a control stream already", h.id)
	}
	if p, ok := peer.FromContext(stream.Context()); ok {
		h.peer = p.Addr
	}
	close(h.ready)
	err = c.s.serve(h.done,
		func() error { return h.readControl(stream) },
		func() error { return h.writeControl(stream) })
	h.streamEnded("control", err)
	return statusOf(err)
}

func (h *Harness) readControl(stream fnpb.BeamFnControl_ControlServer) error {
	for {
		resp := new(fnpb.InstructionResponse)
		if err := data.RecvProto(stream, resp); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		h.answered(resp)
	}
}

func (h *Harness) writeControl(stream fnpb.BeamFnControl_ControlServer) error {
	for {
		select {
		case req := <-h.instructions:
			if err := stream.Send(req); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// answered hands a response to whoever waits for it. It never blocks.
func (h *Harness) answered(resp *fnpb.InstructionResponse) {
	id := resp.GetInstructionId()
	h.mu.Lock()
	b, call := h.bundles[id], h.calls[id]
	delete(h.calls, id)
	h.mu.Unlock()
	switch {
	case b != nil:
		b.respond(resp)
	case call != nil:
		call <- resp
	default:
		h.server.log.Debug("response to an instruction nobody waits for", "worker", h.id, "instruction", id, "error", resp.GetError())
	}
}

// call sends an instruction other than ProcessBundle and waits for its response.
// A response that carries an error gives one of class UserCode.
func (h *Harness) call(ctx context.Context, req *fnpb.InstructionRequest) (*fnpb.InstructionResponse, error) {
	req.InstructionId = h.server.nextID()
	answer := make(chan *fnpb.InstructionResponse, 1)
	h.mu.Lock()
	if h.err != nil {
		h.mu.Unlock()
		return nil, h.lost()
	}
	h.calls[req.InstructionId] = answer
	h.mu.Unlock()

	err := h.instruct(ctx, req)
	if err == nil {
		select {
		case resp := <-answer:
			if text := resp.GetError(); text != "" {
				return nil, fault.New(fault.UserCode, "harness %s: %s", h.id, text)
			}
			return resp, nil
		case <-h.done:
			return nil, h.lost()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	h.mu.Lock()
	delete(h.calls, req.InstructionId)
	h.mu.Unlock()
	return nil, err
}

// instruct queues an instruction for the control stream.
func (h *Harness) instruct(ctx context.Context, req *fnpb.InstructionRequest) error {
	select {
	case h.instructions <- req:
		return nil
	case <-h.done:
		return h.lost()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// GetProcessBundleDescriptor answers from the descriptors of the calling
// harness. The TypeScript SDK calls without its worker id; all are searched then.
func (c controlService) GetProcessBundleDescriptor(ctx context.Context, req *fnpb.GetProcessBundleDescriptorRequest) (*fnpb.ProcessBundleDescriptor, error) {
	id := req.GetProcessBundleDescriptorId()
	if workerID(ctx) != "" {
		h, err := c.s.harness(ctx)
		if err != nil {
			return nil, err
		}
		if d := h.descriptor(id); d != nil {
			return d, nil
		}
	} else if d := c.s.anyDescriptor(id); d != nil {
		return d, nil
	}
	return nil, status.Errorf(codes.NotFound, "no descriptor %q", id)
}

func (s *Server) anyDescriptor(id string) *fnpb.ProcessBundleDescriptor {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, h := range s.harnesses {
		if d := h.descriptor(id); d != nil {
			return d
		}
	}
	return nil
}
