package fnapi

import (
	"context"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/fnapi/h2"
	"github.com/lintelrun/lintel/internal/fault"
)

const (
	controlMethod    = "/org.apache.beam.model.fn_execution.v1.BeamFnControl/Control"
	descriptorMethod = "/org.apache.beam.model.fn_execution.v1.BeamFnControl/GetProcessBundleDescriptor"
	dataMethod       = "/org.apache.beam.model.fn_execution.v1.BeamFnData/Data"
)

// bundleService serves BeamFnControl and BeamFnData on an endpoint of their own, and BeamFnState
// to those who ask there.
type bundleService struct{ s *Server }

// Open is part of h2.Handler.
func (b bundleService) Open(method string, header h2.Header, stream *h2.Stream) (h2.Receiver, error) {
	id := header.Get("worker_id")
	switch method {
	case descriptorMethod:
		return b.openDescriptors(id, stream)
	case stateMethod:
		return stateService(b).Open(method, header, stream)
	case controlMethod, dataMethod:
	default:
		return nil, status.Errorf(codes.Unimplemented, "there is no method %q on the endpoint of bundles", method)
	}
	h, err := b.s.worker(id)
	if err != nil {
		return nil, err
	}
	if method == dataMethod {
		return openData(h, stream)
	}
	return openControl(h, stream)
}

// controlStream is the one control stream of a harness; its end is the end of the harness.
type controlStream struct {
	harness *Harness
	closed  chan struct{}
}

func openControl(h *Harness, stream *h2.Stream) (h2.Receiver, error) {
	if !h.connected.CompareAndSwap(false, true) {
		return nil, status.Errorf(codes.AlreadyExists, "worker %q has a control stream already", h.id)
	}
	h.peer = stream.Peer()
	c := &controlStream{harness: h, closed: make(chan struct{})}
	h.endWith(stream, c.closed)
	h.instructions.open(stream)
	close(h.ready)
	return c, nil
}

// Receive is part of h2.Receiver.
func (c *controlStream) Receive(message []byte) error {
	resp, monitoring, err := data.ReadResponse(message)
	if err != nil {
		c.harness.streamEnded("control", err)
		return statusOf(err)
	}
	c.harness.answered(resp, monitoring)
	return nil
}

// Closed is part of h2.Receiver.
func (c *controlStream) Closed() {
	close(c.closed)
	c.harness.streamEnded("control", nil)
}

// endWith ends a stream when the harness is lost.
func (h *Harness) endWith(stream *h2.Stream, closed <-chan struct{}) {
	h.server.loops.Go(func() {
		select {
		case <-h.done:
			stream.End(statusOf(h.Err()))
		case <-closed:
		}
	})
}

// instructions is the sending side of a control stream.
type instructions struct {
	mu      sync.Mutex
	stream  *h2.Stream
	waiting [][]byte // for the stream
}

func (i *instructions) open(stream *h2.Stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stream = stream
	for _, m := range i.waiting {
		stream.Queue(m)
	}
	i.waiting = nil
}

func (i *instructions) send(message []byte) {
	i.mu.Lock()
	stream := i.stream
	if stream == nil {
		i.waiting = append(i.waiting, message)
	}
	i.mu.Unlock()
	if stream != nil {
		stream.Send(message)
	}
}

// answered hands a response to whoever waits for it. It never blocks.
func (h *Harness) answered(resp *fnpb.InstructionResponse, monitoring []data.MonitoringData) {
	id := resp.GetInstructionId()
	h.mu.Lock()
	b, call := h.bundles[id], h.calls[id]
	delete(h.calls, id)
	h.mu.Unlock()
	switch {
	case b != nil:
		b.respond(resp, monitoring)
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

	err := h.instruct(req)
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

// instruct sends an instruction, or leaves it to the control stream that is to come.
func (h *Harness) instruct(req *fnpb.InstructionRequest) error {
	message, err := proto.Marshal(req)
	if err != nil {
		return fault.New(fault.Internal, "fnapi: instruction: %w", err)
	}
	h.instructions.send(message)
	return nil
}

// descriptorCall is a call of GetProcessBundleDescriptor.
type descriptorCall struct {
	find   func(id string) *fnpb.ProcessBundleDescriptor
	stream *h2.Stream
}

// openDescriptors answers from the descriptors of the calling
// harness. The TypeScript SDK calls without its worker id; all are searched then.
func (b bundleService) openDescriptors(worker string, stream *h2.Stream) (h2.Receiver, error) {
	if worker == "" {
		return descriptorCall{b.s.anyDescriptor, stream}, nil
	}
	h, err := b.s.worker(worker)
	if err != nil {
		return nil, err
	}
	return descriptorCall{h.descriptor, stream}, nil
}

// Receive is part of h2.Receiver.
func (c descriptorCall) Receive(message []byte) error {
	req := new(fnpb.GetProcessBundleDescriptorRequest)
	if err := proto.Unmarshal(message, req); err != nil {
		return status.Errorf(codes.InvalidArgument, "malformed GetProcessBundleDescriptorRequest: %v", err)
	}
	d := c.find(req.GetProcessBundleDescriptorId())
	if d == nil {
		return status.Errorf(codes.NotFound, "no descriptor %q", req.GetProcessBundleDescriptorId())
	}
	answer, err := proto.Marshal(d)
	if err != nil {
		return err
	}
	c.stream.Queue(answer)
	return nil
}

// Closed is part of h2.Receiver.
func (c descriptorCall) Closed() {}

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
