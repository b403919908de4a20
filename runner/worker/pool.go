package worker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/rpc"
)

// noArtifacts is the retrieval token that keeps SDK boot programs from asking
// the legacy artifact service, as they do when they are given no dependencies.
const noArtifacts = "__no_artifacts_staged__"

// workerSerial makes worker ids unique in this process.
var workerSerial atomic.Uint64

// pool is the harnesses of one environment of a job. Each has a keeper, which
// starts it, watches it and replaces it when it is lost.
type pool struct {
	name  string
	env   *pipepb.Environment
	limit int // of bundles in flight on each harness

	mu        sync.Mutex    // protects what follows, and harness.bundles
	harnesses []*harness    // that are connected
	keepers   int           // that have a harness or are about to
	connected bool          // whether any ever was
	losses    int           // since a bundle was done well
	lost      error         // why the last one was lost
	changed   chan struct{} // closed, and made anew, when something has changed
}

type harness struct {
	*fnapi.Harness
	worker  environment.Worker
	bundles int // in flight

	process func() (Process, error) // that has it: looked for once

	gone  chan struct{} // closed once cause is known
	cause error         // why it was lost
}

// makePools makes the pools of all environments, which wait for their keepers.
func (e *execution) makePools() error {
	for _, s := range e.d.Plan.Stages {
		if s.Exec == nil {
			continue
		}
		if err := e.makePool(s.Exec.Environment, "stage "+s.Name); err != nil {
			return err
		}
	}
	for _, c := range e.d.Plan.Calls {
		if err := e.makePool(c.Environment, c.Name); err != nil {
			return err
		}
	}
	return nil
}

// makePool makes the pool of an environment, which someone needs, unless there is one.
func (e *execution) makePool(name, who string) error {
	if e.envs[name] != nil {
		return nil
	}
	env := e.d.Plan.Environments[name]
	if env == nil {
		return fault.New(fault.Invalid, "%s needs environment %q, which the pipeline does not have", who, name)
	}
	e.envs[name] = &pool{name: name, env: env, limit: e.bundleLimit(name, env), keepers: e.harnesses(env), changed: make(chan struct{})}
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

// bundleLimit is how many bundles a harness of an environment may have in flight: what its
// resource hint says, which merged environments have the least of. DoFns that need much memory
// or a device ask for it. A hint that can't be followed is said to be ignored.
func (e *execution) bundleLimit(name string, env *pipepb.Environment) int {
	hint, ok := env.GetResourceHints()[urns.HintMaxActiveBundlesPerWorker]
	if !ok {
		return math.MaxInt
	}
	if n, err := strconv.ParseFloat(string(hint), 64); err == nil && n >= 1 {
		return int(min(n, math.MaxInt32))
	}
	e.d.Log(rpc.Message{Severity: rpc.Warn, Source: "environment " + name, Text: fmt.Sprintf(
		"resource hint %s is %.40q and limits nothing: want a number of at least 1", urns.HintMaxActiveBundlesPerWorker, hint)})
	return math.MaxInt
}

// wholeBundles tells an SDK that must get the input of a bundle in one message. The
// TypeScript worker handles messages side by side: when it has been busy with one for
// 100 ms it takes the next, and if that ends the input, it drops the rest of the first
// and reports success. It is the only SDK that does not declare any progress reporting.
func wholeBundles(env *pipepb.Environment) bool {
	return !slices.Contains(env.GetCapabilities(), urns.CapabilityProgressReportingV0) &&
		!slices.Contains(env.GetCapabilities(), urns.CapabilityProgressReporting)
}

// launch starts a harness, without waiting for it to connect.
func (e *execution) launch(ctx context.Context, p *pool) (*harness, error) {
	id := fmt.Sprintf("%s-%s-%d", e.d.JobID, p.name, workerSerial.Add(1))
	token := e.d.RetrievalToken
	if len(e.d.Dependencies[p.name]) == 0 {
		token = noArtifacts
	}
	fn, err := e.cfg.Server.Expect(id, fnapi.Worker{
		Provision: &fnpb.ProvisionInfo{
			PipelineOptions: e.d.Options,
			RetrievalToken:  token,
			Dependencies:    e.d.Dependencies[p.name],
		},
		Capabilities:       p.env.GetCapabilities(),
		RunnerCapabilities: []string{urns.RunnerMultimapKeysValuesSideInput},
		Log:                e.harnessLog(id),
		WholeBundles:       wholeBundles(p.env),
	})
	if err != nil {
		return nil, err
	}
	for _, s := range e.d.Plan.Stages {
		if s.Exec != nil && s.Exec.Environment == p.name {
			ds, err := e.descriptors(s)
			if err != nil {
				fn.Close()
				return nil, err
			}
			for _, d := range ds {
				fn.AddDescriptor(d)
			}
		}
	}
	for _, c := range e.d.Plan.Calls {
		if c.Environment != p.name {
			continue
		}
		d, err := e.complete(c.Descriptor, e.callID(c), []string{c.Source, c.Sink})
		if err != nil {
			fn.Close()
			return nil, err
		}
		fn.AddDescriptor(d)
	}
	at := e.cfg.Server.Endpoint()
	w, err := e.cfg.Launcher.Launch(ctx, environment.Request{
		WorkerID:    id,
		Environment: p.env,
		Endpoints:   environment.Endpoints{Control: e.cfg.Server.BundleEndpoint(), Logging: at, Artifact: at, Provision: at},
		Output: func(line string) {
			e.d.Log(rpc.Message{Severity: rpc.Info, Source: id, Harness: true, Text: line})
		},
	})
	if err != nil {
		fn.Close()
		return nil, fmt.Errorf("environment %s: %w", p.name, err)
	}
	return &harness{Harness: fn, worker: w, process: sync.OnceValues(func() (Process, error) { return e.processOf(fn) }), gone: make(chan struct{})}, nil
}

// acquire returns the harness with the fewest bundles in flight. If there is none, or
// all have as many as they may, it waits, unless none will come any more.
func (p *pool) acquire(ctx context.Context) (*harness, error) {
	for {
		h, changed, err := p.pick()
		if h != nil || err != nil {
			return h, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *pool) pick() (*harness, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *harness
	for _, h := range p.harnesses {
		if !h.lost() && h.bundles < p.limit && (best == nil || h.bundles < best.bundles) {
			best = h
		}
	}
	switch {
	case best != nil:
		best.bundles++
		return best, nil, nil
	case p.keepers == 0:
		return nil, nil, fmt.Errorf("environment %s has no harness left: %w", p.name, p.lost)
	}
	return nil, p.changed, nil
}

// most is how many bundles all harnesses run at once where they wait for something outside.
func (p *pool) most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keepers * min(p.limit, crowdBundles)
}

// release gives back a harness that was acquired for a bundle, and tells whether it did that well.
func (p *pool) release(h *harness, well bool) {
	p.change(func() {
		h.bundles--
		if well {
			p.losses = 0
		}
	})
}

// change does what f does to the pool and wakes those who wait for one.
func (p *pool) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (h *harness) lost() bool {
	select {
	case <-h.Done():
		return true
	default:
		return false
	}
}

// explain replaces an error that the loss of the harness caused by its reason.
func (h *harness) explain(ctx context.Context, err error) error {
	if !h.lost() || fault.ClassOf(err) == fault.UserCode {
		return err
	}
	select {
	case <-h.gone:
		return h.cause
	case <-ctx.Done():
		return err
	}
}

// descriptors completes the plan's descriptors of a stage.
func (e *execution) descriptors(s *plan.Stage) ([]*fnpb.ProcessBundleDescriptor, error) {
	var out []*fnpb.ProcessBundleDescriptor
	for _, v := range []variant{wholeStage, truncating, ofNothing} {
		of := v.descriptor(s.Exec)
		if of == nil {
			continue
		}
		d, err := e.descriptor(s, of, v)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// descriptor completes a descriptor with its id and our endpoints. The id holds
// the job's, since harnesses cache descriptors for ever.
func (e *execution) descriptor(s *plan.Stage, of *fnpb.ProcessBundleDescriptor, v variant) (*fnpb.ProcessBundleDescriptor, error) {
	return e.complete(of, e.descriptorID(s, v), append([]string{s.Exec.Source}, s.Exec.Sinks...))
}

// complete returns a plan's descriptor with an id and our endpoints, also in its ports.
func (e *execution) complete(of *fnpb.ProcessBundleDescriptor, descriptor string, ports []string) (*fnpb.ProcessBundleDescriptor, error) {
	d := proto.Clone(of).(*fnpb.ProcessBundleDescriptor)
	at := &pipepb.ApiServiceDescriptor{Url: e.cfg.Server.BundleEndpoint()}
	d.Id = descriptor
	d.StateApiServiceDescriptor = &pipepb.ApiServiceDescriptor{Url: e.cfg.Server.StateEndpoint()}
	d.TimerApiServiceDescriptor = at
	for _, id := range ports {
		spec := d.Transforms[id].GetSpec()
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(spec.GetPayload(), &port); err != nil {
			return nil, fmt.Errorf("descriptor %s: port %s: %w", d.Id, id, err)
		}
		port.ApiServiceDescriptor = at
		b, err := proto.Marshal(&port)
		if err != nil {
			return nil, fmt.Errorf("descriptor %s: port %s: %w", d.Id, id, err)
		}
		spec.Payload = b
	}
	return d, nil
}

// variant says which descriptor of its stage a bundle is of: a part of the descriptor's id.
type variant string

const (
	wholeStage variant = "/"
	truncating variant = "/draining/" // plan.ExecutableSpec.Draining
	ofNothing  variant = "/empty/"    // plan.ExecutableSpec.Empty
)

func variantOf(b *engine.Bundle) variant {
	switch {
	case b.Truncate:
		return truncating
	case b.Empty():
		return ofNothing
	default:
		return wholeStage
	}
}

// descriptor returns the plan's, nil if the stage has none of this variant.
func (v variant) descriptor(x *plan.ExecutableSpec) *fnpb.ProcessBundleDescriptor {
	switch v {
	case truncating:
		return x.Draining
	case ofNothing:
		return x.Empty
	default:
		return x.Descriptor
	}
}

func (e *execution) descriptorID(s *plan.Stage, v variant) string {
	return e.d.JobID + string(v) + s.ID
}

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
