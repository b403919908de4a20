package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/rpc"
)

// noArtifacts is the retrieval token that keeps SDK boot programs from asking
// the legacy artifact service, as they do when they are given no dependencies.
const noArtifacts = "__no_artifacts_staged__"

// workerSerial makes worker ids unique in this process.
var workerSerial atomic.Uint64

// pool is the harnesses of one environment of a job.
type pool struct {
	name  string
	ready chan struct{} // closed when all have connected

	mu        sync.Mutex // protects the counts in harnesses
	harnesses []*harness
}

type harness struct {
	*fnapi.Harness
	worker  environment.Worker
	bundles int // in flight
}

// openPools launches the harnesses of all environments at once. A harness that
// does not connect, or dies, fails the group.
func (e *execution) openPools(ctx context.Context, g *errgroup.Group) error {
	for _, s := range e.d.Plan.Stages {
		if s.Exec == nil || e.envs[s.Exec.Environment] != nil {
			continue
		}
		env := e.d.Plan.Environments[s.Exec.Environment]
		if env == nil {
			return fault.New(fault.Invalid, "stage %s needs environment %q, which the pipeline does not have", s.Name, s.Exec.Environment)
		}
		p := &pool{name: s.Exec.Environment, ready: make(chan struct{})}
		e.envs[s.Exec.Environment] = p
		for range e.harnesses(env) {
			h, err := e.launch(ctx, p.name, env)
			if err != nil {
				return err
			}
			p.harnesses = append(p.harnesses, h)
		}
		g.Go(func() error { return e.connect(ctx, p) })
	}
	return nil
}

// harnesses is how many processes an environment gets: one where a process uses
// all cores, or where starting more would not start processes.
func (e *execution) harnesses(env *pipepb.Environment) int {
	if slices.Contains(env.GetCapabilities(), urns.CapabilityMultiCoreBundleProcessing) || env.GetUrn() == urns.EnvironmentExternal {
		return 1
	}
	return e.d.Harnesses
}

func (e *execution) launch(ctx context.Context, name string, env *pipepb.Environment) (*harness, error) {
	id := fmt.Sprintf("%s-%s-%d", e.d.JobID, name, workerSerial.Add(1))
	token := e.d.RetrievalToken
	if len(e.d.Dependencies[name]) == 0 {
		token = noArtifacts
	}
	fn, err := e.cfg.Server.Expect(id, fnapi.Worker{
		Provision: &fnpb.ProvisionInfo{
			PipelineOptions: e.d.Options,
			RetrievalToken:  token,
			Dependencies:    e.d.Dependencies[name],
		},
		Capabilities:       env.GetCapabilities(),
		RunnerCapabilities: []string{urns.RunnerMultimapKeysValuesSideInput},
		Log:                e.harnessLog(id),
	})
	if err != nil {
		return nil, err
	}
	for _, s := range e.d.Plan.Stages {
		if s.Exec != nil && s.Exec.Environment == name {
			d, err := e.descriptor(s)
			if err != nil {
				fn.Close()
				return nil, err
			}
			fn.AddDescriptor(d)
		}
	}
	at := e.cfg.Server.Endpoint()
	w, err := e.cfg.Launcher.Launch(ctx, environment.Request{
		WorkerID:    id,
		Environment: env,
		Endpoints:   environment.Endpoints{Control: at, Logging: at, Artifact: at, Provision: at},
		Output: func(line string) {
			e.d.Log(rpc.Message{Severity: rpc.Info, Source: id, Harness: true, Text: line})
		},
	})
	if err != nil {
		fn.Close()
		return nil, fmt.Errorf("environment %s: %w", name, err)
	}
	return &harness{Harness: fn, worker: w}, nil
}

// connect waits for the pool's harnesses and then watches them.
func (e *execution) connect(ctx context.Context, p *pool) error {
	wait, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	defer cancel()
	g, wait := errgroup.WithContext(wait)
	for _, h := range p.harnesses {
		g.Go(func() error {
			ready := make(chan error, 1)
			go func() { ready <- h.Ready(wait) }()
			select {
			case err := <-ready:
				if err != nil && ctx.Err() == nil && wait.Err() != nil {
					return fault.New(fault.Retryable, "environment %s: harness %s did not connect to %s within %v", p.name, h.ID(), e.cfg.Server.Endpoint(), e.cfg.ConnectTimeout)
				}
				return err
			case <-h.worker.Done():
				return fmt.Errorf("environment %s: harness %s ended before it connected: %w", p.name, h.ID(), h.worker.Err())
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	close(p.ready)
	return nil
}

// acquire returns the harness with the fewest bundles in flight, once the pool
// is ready. A lost harness is not chosen while there is another.
func (p *pool) acquire(ctx context.Context) (*harness, error) {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *harness
	for _, h := range p.harnesses {
		if h.lost() == nil && (best == nil || h.bundles < best.bundles) {
			best = h
		}
	}
	if best == nil {
		return nil, fmt.Errorf("environment %s has no harness left: %w", p.name, p.harnesses[0].lost())
	}
	best.bundles++
	return best, nil
}

func (p *pool) release(h *harness) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.bundles--
}

// lost returns why a harness is gone, or nil. What its process said last says
// more than a broken stream.
func (h *harness) lost() error {
	select {
	case <-h.worker.Done():
		if err := h.worker.Err(); err != nil {
			return err
		}
	default:
	}
	select {
	case <-h.Done():
		return fault.New(fault.Retryable, "harness %s lost: %w", h.ID(), h.Err())
	default:
		return nil
	}
}

// explain replaces an error that a lost harness caused by the better reason. The
// process may need a moment to be seen dead after its streams broke.
func (h *harness) explain(ctx context.Context, err error) error {
	select {
	case <-h.Done():
	default:
		return err
	}
	select {
	case <-h.worker.Done():
	case <-ctx.Done():
	case <-time.After(500 * time.Millisecond):
	}
	if cause := h.lost(); cause != nil {
		return cause
	}
	return err
}

// stopHarnesses ends all harnesses, side by side, and waits for their processes.
func (e *execution) stopHarnesses() {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range e.envs {
		for _, h := range p.harnesses {
			wg.Go(func() {
				h.Close()
				if err := h.worker.Stop(ctx); err != nil {
					e.log.Warn("harness not stopped", "harness", h.ID(), "error", err)
				}
			})
		}
	}
	wg.Wait()
}

// descriptor completes the plan's descriptor with its id and our endpoints. The
// id holds the job's, since harnesses cache descriptors for ever.
func (e *execution) descriptor(s *plan.Stage) (*fnpb.ProcessBundleDescriptor, error) {
	d := proto.Clone(s.Exec.Descriptor).(*fnpb.ProcessBundleDescriptor)
	at := &pipepb.ApiServiceDescriptor{Url: e.cfg.Server.Endpoint()}
	d.Id = e.descriptorID(s)
	d.StateApiServiceDescriptor = at
	d.TimerApiServiceDescriptor = at
	for _, id := range append([]string{s.Exec.Source}, s.Exec.Sinks...) {
		spec := d.Transforms[id].GetSpec()
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(spec.GetPayload(), &port); err != nil {
			return nil, fmt.Errorf("stage %s: port %s: %w", s.ID, id, err)
		}
		port.ApiServiceDescriptor = at
		b, err := proto.Marshal(&port)
		if err != nil {
			return nil, fmt.Errorf("stage %s: port %s: %w", s.ID, id, err)
		}
		spec.Payload = b
	}
	return d, nil
}

func (e *execution) descriptorID(s *plan.Stage) string { return e.d.JobID + "/" + s.ID }

// harnessLog hands a harness's log entries to the job's log.
func (e *execution) harnessLog(id string) func(*fnpb.LogEntry) {
	return func(l *fnpb.LogEntry) {
		m := rpc.Message{Severity: rpc.Debug, Source: id, Harness: true, Text: l.GetMessage()}
		switch sev := l.GetSeverity(); {
		// Clients take an error in the job's log for the job's failure, and a
		// logged error is none: the bundle may still succeed.
		case sev >= fnpb.LogEntry_Severity_WARN:
			m.Severity = rpc.Warn
		case sev >= fnpb.LogEntry_Severity_INFO:
			m.Severity = rpc.Info
		}
		if t := l.GetTransformId(); t != "" {
			m.Source += " " + t
		}
		if l.GetTrace() != "" {
			m.Text += "\n" + l.GetTrace()
		}
		e.d.Log(m)
	}
}
