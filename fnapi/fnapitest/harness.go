// Package fnapitest is a scripted SDK harness: it runs in the process of a
// test and speaks the Fn API over real gRPC, with Beam's own generated client.
package fnapitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Script says how the harness behaves. Its functions run on goroutines of
// their own, so they may be called concurrently; nil ones have defaults.
type Script struct {
	// Process executes a bundle. What it puts out and how it responds are up to
	// it: when it returns nil, the harness adds the terminators that are still
	// missing and the response, unless the script has sent one. An error
	// becomes the error of the response. The default reads the input and puts
	// out nothing.
	Process func(b *Bundle) error
	// Progress answers progress requests for running bundles; default an empty response.
	Progress func(b *Bundle) *fnpb.ProcessBundleProgressResponse
	// Split answers split requests for running bundles; default an empty response.
	Split func(b *Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse
	// RefuseSplit returns the error that answers a split request, nil for Split's answer.
	RefuseSplit func(b *Bundle) error
	// Finalize is called with the instruction id of the bundle to finalize.
	Finalize func(bundle string) error
	// Infos are the monitoring infos by short id, for MonitoringInfosMetadata.
	Infos map[string]*pipepb.MonitoringInfo
}

// Harness is a running fake harness.
type Harness struct {
	id     string
	script Script
	conn   *grpc.ClientConn // of control and data
	other  *grpc.ClientConn
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	client   fnpb.BeamFnControlClient
	control  fnpb.BeamFnControl_ControlClient
	responds sync.Mutex // one sender on a stream at a time
	data     fnpb.BeamFnData_DataClient
	sends    sync.Mutex

	mu      sync.Mutex
	states  map[string]*stateClient // by endpoint
	bundles map[string]*Bundle
	asked   []*fnpb.InstructionRequest
	inputs  int
}

// Start connects a harness to a server: to the one endpoint for control and data, to the other
// for logging and provision. The worker id must have
// been announced to the server. The harness ends with the test, or with Kill.
func Start(t testing.TB, control, logging, workerID string, script Script) *Harness {
	t.Helper()
	h, err := start(control, logging, workerID, script)
	if err != nil {
		t.Fatalf("fnapitest: starting harness %s: %v", workerID, err)
	}
	t.Cleanup(h.Kill)
	return h
}

func start(control, logging, workerID string, script Script) (*Harness, error) {
	conn, err := Dial(control)
	if err != nil {
		return nil, err
	}
	other, err := Dial(logging)
	if err != nil {
		conn.Close()
		return nil, err
	}
	h := &Harness{id: workerID, script: script, conn: conn, other: other, bundles: map[string]*Bundle{}, states: map[string]*stateClient{}}
	h.ctx, h.cancel = context.WithCancel(WithWorkerID(context.Background(), workerID))
	if err := h.open(); err != nil {
		h.Kill()
		return nil, err
	}
	return h, nil
}

// Dial connects to a server of the Fn API without limits on message sizes.
func Dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(math.MaxInt32)))
}

// WithWorkerID adds the metadata that tells the server which harness calls.
func WithWorkerID(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "worker_id", id)
}

func (h *Harness) open() (err error) {
	h.client = fnpb.NewBeamFnControlClient(h.conn)
	if h.control, err = h.client.Control(h.ctx); err != nil {
		return err
	}
	if h.data, err = fnpb.NewBeamFnDataClient(h.conn).Data(h.ctx); err != nil {
		return err
	}
	h.loops.Go(h.readControl)
	h.loops.Go(h.readData)
	return nil
}

// Kill breaks all connections at once, as the death of a process does, and
// returns when nothing of the harness runs any more. Scripts that wait for
// input or state are woken with an error; others must end by themselves.
func (h *Harness) Kill() {
	h.cancel()
	h.conn.Close()
	h.other.Close()
	h.mu.Lock()
	for _, b := range h.bundles {
		b.input.fail(context.Canceled)
	}
	for _, s := range h.states {
		s.conn.Close()
	}
	h.mu.Unlock()
	h.loops.Wait()
}

// Log sends log entries on a logging stream of their own and returns once the
// server has read them all.
func (h *Harness) Log(entries ...*fnpb.LogEntry) error {
	stream, err := fnpb.NewBeamFnLoggingClient(h.other).Logging(h.ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&fnpb.LogEntry_List{LogEntries: entries}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("fnapitest: logging stream: %w", err)
	}
	return nil
}

// Provision asks for the harness's provision info.
func (h *Harness) Provision() (*fnpb.ProvisionInfo, error) {
	resp, err := fnpb.NewProvisionServiceClient(h.other).GetProvisionInfo(h.ctx, &fnpb.GetProvisionInfoRequest{})
	return resp.GetInfo(), err
}

// Descriptor fetches a descriptor.
func (h *Harness) Descriptor(id string) (*fnpb.ProcessBundleDescriptor, error) {
	return h.client.GetProcessBundleDescriptor(h.ctx, &fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: id})
}

// Asked returns the instructions the harness has been sent so far.
func (h *Harness) Asked() []*fnpb.InstructionRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*fnpb.InstructionRequest(nil), h.asked...)
}

// Messages returns how many messages of input the harness has been sent so far.
func (h *Harness) Messages() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inputs
}

func (h *Harness) readControl() {
	for {
		req, err := h.control.Recv()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.asked = append(h.asked, req)
		h.mu.Unlock()
		if req.GetProcessBundle() != nil {
			h.bundle(req.GetInstructionId()) // known to the instructions that follow
		}
		h.loops.Go(func() { h.obey(req) })
	}
}

// obey carries out one instruction.
func (h *Harness) obey(req *fnpb.InstructionRequest) {
	resp := &fnpb.InstructionResponse{InstructionId: req.GetInstructionId()}
	switch r := req.GetRequest().(type) {
	case *fnpb.InstructionRequest_ProcessBundle:
		b := h.bundle(req.GetInstructionId())
		b.CacheTokens = r.ProcessBundle.GetCacheTokens()
		h.process(b, r.ProcessBundle.GetProcessBundleDescriptorId())
		return
	case *fnpb.InstructionRequest_ProcessBundleProgress:
		answer := &fnpb.ProcessBundleProgressResponse{}
		if b := h.running(r.ProcessBundleProgress.GetInstructionId()); b != nil && h.script.Progress != nil {
			answer = h.script.Progress(b)
		}
		resp.Response = &fnpb.InstructionResponse_ProcessBundleProgress{ProcessBundleProgress: answer}
	case *fnpb.InstructionRequest_ProcessBundleSplit:
		answer := &fnpb.ProcessBundleSplitResponse{}
		b := h.running(r.ProcessBundleSplit.GetInstructionId())
		if b != nil && h.script.RefuseSplit != nil {
			if err := h.script.RefuseSplit(b); err != nil {
				resp.Error = err.Error()
				break
			}
		}
		if b != nil && h.script.Split != nil {
			answer = h.script.Split(b, r.ProcessBundleSplit)
		}
		resp.Response = &fnpb.InstructionResponse_ProcessBundleSplit{ProcessBundleSplit: answer}
	case *fnpb.InstructionRequest_FinalizeBundle:
		if h.script.Finalize != nil {
			if err := h.script.Finalize(r.FinalizeBundle.GetInstructionId()); err != nil {
				resp.Error = err.Error()
			}
		}
		resp.Response = &fnpb.InstructionResponse_FinalizeBundle{FinalizeBundle: &fnpb.FinalizeBundleResponse{}}
	case *fnpb.InstructionRequest_MonitoringInfos:
		infos := map[string]*pipepb.MonitoringInfo{}
		for _, id := range r.MonitoringInfos.GetMonitoringInfoId() {
			if info := h.script.Infos[id]; info != nil {
				infos[id] = info
			}
		}
		resp.Response = &fnpb.InstructionResponse_MonitoringInfos{MonitoringInfos: &fnpb.MonitoringInfosMetadataResponse{MonitoringInfo: infos}}
	default:
		resp.Error = fmt.Sprintf("fnapitest: instruction of kind %T is not supported", r)
	}
	h.Respond(resp)
}

// Respond sends a response as it is, for instance one that nobody waits for.
func (h *Harness) Respond(resp *fnpb.InstructionResponse) error {
	h.responds.Lock()
	defer h.responds.Unlock()
	return h.control.Send(resp)
}

// Send sends elements as they are on the data stream.
func (h *Harness) Send(elements *fnpb.Elements) error {
	h.sends.Lock()
	defer h.sends.Unlock()
	return h.data.Send(elements)
}

func (h *Harness) readData() {
	for {
		elements, err := h.data.Recv()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.inputs++
		h.mu.Unlock()
		for _, d := range elements.GetData() {
			h.bundle(d.GetInstructionId()).input.add(Input{Transform: d.GetTransformId(), Data: d.GetData()}, d.GetIsLast())
		}
		for _, t := range elements.GetTimers() {
			h.bundle(t.GetInstructionId()).input.add(Input{Transform: t.GetTransformId(), Timer: t.GetTimerFamilyId(), Data: t.GetTimers()}, t.GetIsLast())
		}
	}
}

// bundle finds a bundle or makes it: its input may come before the request.
func (h *Harness) bundle(id string) *Bundle {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[id]
	if b == nil {
		b = newBundle(h, id)
		h.bundles[id] = b
		if h.ctx.Err() != nil {
			b.input.fail(h.ctx.Err())
		}
	}
	return b
}

func (h *Harness) running(id string) *Bundle {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bundles[id]
}
