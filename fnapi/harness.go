package fnapi

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
)

// Worker is what the server must know of a harness before it connects.
type Worker struct {
	// Provision is what GetProvisionInfo answers. The server fills in the
	// endpoints that are nil (not the status endpoint) and the runner
	// capabilities; the message itself is not changed. May be nil.
	Provision *fnpb.ProvisionInfo
	// Log gets the harness's log entries, one at a time, from one goroutine. It
	// may be slow (entries beyond a bounded queue are then counted and dropped)
	// but must return, and must not call Harness.Close or Server.Stop. May be nil.
	Log func(*fnpb.LogEntry)
	// Capabilities are those of the environment, for Harness.Supports.
	Capabilities []string
	// RunnerCapabilities are advertised beside the server's own.
	RunnerCapabilities []string
	// WholeBundles sends the input of a bundle in one message, once CloseSend has
	// been called: for SDKs that mix up messages in a row.
	WholeBundles bool
}

// Harness is one SDK worker process. Safe for concurrent use.
type Harness struct {
	server *Server
	id     string
	worker Worker

	connected  atomic.Bool   // the control stream has come
	peer       net.Addr      // of the control stream; set before ready is closed
	ready      chan struct{} // closed by the control stream
	done       chan struct{} // closed when the harness is lost
	closed     chan struct{} // closed by Close
	closing    sync.Once
	logging    sync.WaitGroup
	logs       chan *fnpb.LogEntry
	logsMissed atomic.Int64
	// logsWaiting is the length in bytes of the entries that wait in logs.
	logsWaiting atomic.Int64

	instructions instructions
	hasData      atomic.Bool // a data stream has come
	input        inputStream
	queued       atomic.Int64 // bytes of output that wait for Bundle.Recv

	infosMu sync.RWMutex
	infos   map[string]*pipepb.MonitoringInfo // by short id, without payload

	mu          sync.RWMutex // held for map accesses only
	err         error
	descriptors map[string]*fnpb.ProcessBundleDescriptor
	bundles     map[string]*Bundle                        // by instruction id, while they run
	calls       map[string]chan *fnpb.InstructionResponse // other instructions under way
}

// Expect announces a harness before its process is launched. Its worker id
// must not be in use. Calls with worker ids nobody expects are refused.
func (s *Server) Expect(workerID string, w Worker) (*Harness, error) {
	if workerID == "" {
		return nil, fault.New(fault.Internal, "fnapi: a harness needs a worker id")
	}
	h := &Harness{
		server:      s,
		id:          workerID,
		worker:      w,
		ready:       make(chan struct{}),
		done:        make(chan struct{}),
		closed:      make(chan struct{}),
		logs:        make(chan *fnpb.LogEntry, logQueue),
		input:       inputStream{opened: make(chan struct{})},
		infos:       map[string]*pipepb.MonitoringInfo{},
		descriptors: map[string]*fnpb.ProcessBundleDescriptor{},
		bundles:     map[string]*Bundle{},
		calls:       map[string]chan *fnpb.InstructionResponse{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, fault.New(fault.Retryable, "fnapi: the server has been stopped")
	}
	if s.harnesses[workerID] != nil {
		return nil, fault.New(fault.Internal, "fnapi: worker id %q is in use", workerID)
	}
	s.harnesses[workerID] = h
	if w.Log != nil {
		h.logging.Go(h.deliverLogs)
	}
	return h, nil
}

// Peer is the harness's end of the connection of its control stream, nil before Ready.
func (h *Harness) Peer() net.Addr {
	select {
	case <-h.ready:
		return h.peer
	default:
		return nil
	}
}

// ID is the worker id.
func (h *Harness) ID() string { return h.id }

// Supports says whether the harness's environment declares a capability.
func (h *Harness) Supports(urn string) bool { return slices.Contains(h.worker.Capabilities, urn) }

// Ready waits until the harness has connected its control stream. The data
// stream comes later, with the first bundle. The error is that of ctx, or Err
// if the harness is lost.
func (h *Harness) Ready(ctx context.Context) error {
	select {
	case <-h.done:
		return h.Err()
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the harness is lost: its control stream has ended, it
// broke the protocol, or Close was called. All its bundles have failed then.
func (h *Harness) Done() <-chan struct{} { return h.done }

// Err says why the harness is lost: class Invalid if it broke the protocol,
// otherwise Retryable. It is nil before Done is closed.
func (h *Harness) Err() error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.err
}

// Close ends the streams of the harness and forgets its worker id. It returns
// after the last call of Worker.Log. A process that sees its control stream
// end is supposed to exit. Idempotent.
func (h *Harness) Close() {
	h.lose(fault.New(fault.Retryable, "harness %s has been closed", h.id))
	h.server.mu.Lock()
	if h.server.harnesses[h.id] == h {
		delete(h.server.harnesses, h.id)
	}
	h.server.mu.Unlock()
	h.closing.Do(func() { close(h.closed) })
	h.logging.Wait()
}

// lose ends the harness for a reason; the first one counts.
func (h *Harness) lose(err error) {
	h.mu.Lock()
	if h.err != nil {
		h.mu.Unlock()
		return
	}
	h.err = err
	bundles := h.bundles
	h.bundles, h.calls = nil, nil
	close(h.done)
	h.mu.Unlock()
	for _, b := range bundles {
		b.end(h.lost())
	}
}

// lost is the error of everything that was under way when the harness was lost.
func (h *Harness) lost() error {
	return fault.New(fault.Retryable, "harness %s is lost: %w", h.id, h.Err())
}

// streamEnded loses the harness because a stream it cannot do without has ended.
func (h *Harness) streamEnded(name string, err error) {
	class := fault.Retryable
	if fault.ClassOf(err) == fault.Invalid {
		class = fault.Invalid
	}
	if err == nil {
		err = errors.New("closed")
	}
	h.lose(fault.New(class, "%s stream of harness %s: %w", name, h.id, err))
}

// AddDescriptor makes a descriptor known to GetProcessBundleDescriptor. SDKs
// cache it for good by its id: from now on it must not change, and no other
// descriptor of this harness may have its id.
func (h *Harness) AddDescriptor(d *fnpb.ProcessBundleDescriptor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.descriptors[d.GetId()] = d
}

func (h *Harness) descriptor(id string) *fnpb.ProcessBundleDescriptor {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.descriptors[id]
}

// bundle finds a running bundle by its instruction id.
func (h *Harness) bundle(id []byte) *Bundle {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.bundles[string(id)] // no allocation
}

// busy reports whether bundles are running, unless the harness is lost already.
func (h *Harness) busy() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.bundles) > 0
}

func (h *Harness) forget(b *Bundle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.bundles, b.id)
}
