package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
)

// pollEvery is how often running bundles are asked for their progress.
const pollEvery = time.Second

// labelTransform is the label of a MonitoringInfo that names a transform.
const labelTransform = "PTRANSFORM"

// progress holds a job's metrics: committed totals, and the last words of
// bundles in flight.
type progress struct {
	plan *plan.Plan

	mu        sync.Mutex // protects what follows
	committed *metrics.Totals
	// known are the totals of what harnesses report with each bundle, nil of what does not count, by stage index.
	known   []map[*pipepb.MonitoringInfo]*metrics.Total
	stages  []stageCounts // by stage index
	running map[*tracked]struct{}
}

// stageCounts is what we know of the PCollections of a stage beside what SDKs report.
type stageCounts struct {
	// input is what an executable stage reads. SDKs count it too, but the stages that
	// made it did so before.
	input string
	// outputs are what an executable stage makes: nothing, until it has run a bundle.
	// From then on we say what the SDK says, which may be silent about some of them.
	outputs []string
	ran     bool
	// elements and bytes of what a runner stage has made, its encoded size with
	// timestamps and windows; low and high are of the mean element of a frame.
	elements, bytes, low, high int64
	// late elements that were dropped, once for each window.
	late int64
}

// tracked is a bundle in flight.
type tracked struct {
	bundle *fnapi.Bundle
	stage  *plan.Stage
	began  time.Time
	infos  []*pipepb.MonitoringInfo // guarded by progress.mu
	// output is called when the bundle turns out to have put out elements.
	output func()
}

func newProgress(p *plan.Plan) *progress {
	out := &progress{
		plan: p, committed: metrics.NewTotals(), running: map[*tracked]struct{}{},
		known: make([]map[*pipepb.MonitoringInfo]*metrics.Total, len(p.Stages)), stages: make([]stageCounts, len(p.Stages)),
	}
	for i, s := range p.Stages {
		if s.Exec == nil {
			continue
		}
		transforms := s.Exec.Descriptor.GetTransforms()
		for _, in := range transforms[s.Exec.Source].GetOutputs() {
			out.stages[i].input = in
		}
		for _, id := range s.Exec.Transforms {
			out.stages[i].outputs = slices.AppendSeq(out.stages[i].outputs, maps.Values(transforms[id].GetOutputs()))
		}
	}
	return out
}

func (p *progress) begin(s *plan.Stage, b *fnapi.Bundle, output func()) *tracked {
	t := &tracked{bundle: b, stage: s, began: time.Now(), output: output}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[t] = struct{}{}
	return t
}

func (p *progress) end(t *tracked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, t)
}

// maxKnown is how many metrics of a stage are remembered by their pointers; restarted harnesses have new ones.
const maxKnown = 4096

// commit adds what a committed bundle of a stage reported.
func (p *progress) commit(s *plan.Stage, reported []fnapi.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stages[s.Index].ran = true
	known := p.known[s.Index]
	if known == nil || len(known) > maxKnown {
		known = map[*pipepb.MonitoringInfo]*metrics.Total{}
		p.known[s.Index] = known
	}
	for _, m := range reported {
		total, ok := known[m.Info]
		if !ok {
			if info := p.relabel(s, m.Info); info != nil {
				total = p.committed.Total(info)
			}
			if m.Lasting {
				known[m.Info] = total
			}
		}
		total.Add(m.Payload)
	}
}

// made counts what a runner stage has sent.
func (p *progress) made(s *plan.Stage, f frame.Frame) {
	if f.Elements == 0 {
		return
	}
	bytes := int64(f.Bytes()) + f.Remote
	mean := bytes / int64(f.Elements)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.stages[s.Index]
	if c.elements == 0 {
		c.low, c.high = mean, mean
	}
	c.low, c.high = min(c.low, mean), max(c.high, mean)
	c.elements += int64(f.Elements)
	c.bytes += bytes
}

// lateDropped counts elements that a stage has dropped because they came too late.
func (p *progress) lateDropped(s *plan.Stage, n int64) {
	if n == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stages[s.Index].late += n
}

// infos are the counts of a stage that no SDK reports.
func (c *stageCounts) infos(s *plan.Stage) (infos []*pipepb.MonitoringInfo) {
	if c.late > 0 {
		infos = append(infos, metrics.LateDropped(s.Transforms[0], c.late))
	}
	if s.Output != "" {
		infos = append(infos, metrics.ElementCount(s.Output, c.elements))
		if c.elements > 0 {
			infos = append(infos, metrics.SampledByteSize(s.Output, c.elements, c.bytes, c.low, c.high))
		}
	}
	if !c.ran {
		for _, id := range c.outputs {
			infos = append(infos, metrics.ElementCount(id, 0))
		}
	}
	return infos
}

func (p *progress) metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	all, done := p.totals()
	all.Wire(p.plan.Wired)
	done.Wire(p.plan.Wired)
	return all.Infos(), done.Infos()
}

func (p *progress) totals() (attempted, committed *metrics.Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.committed.Clone()
	for i := range p.stages {
		done.Add(p.stages[i].infos(p.plan.Stages[i]))
	}
	all := done.Clone()
	for t := range p.running {
		all.Add(t.infos)
	}
	return all, done
}

// watch asks bundles that run for longer how far they are, until ctx ends.
func (p *progress) watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, t := range p.longRunning(now) {
				p.poll(ctx, t)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (p *progress) longRunning(now time.Time) (out []*tracked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.running {
		if now.Sub(t.began) >= pollEvery/2 {
			out = append(out, t)
		}
	}
	return out
}

// poll is best effort: a bundle may end, or its harness be busy, at any moment.
func (p *progress) poll(ctx context.Context, t *tracked) {
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	got, err := t.bundle.Progress(ctx)
	if err != nil || got == nil {
		return
	}
	infos := p.infosOf(t.stage, got.Metrics)
	if hasElements(infos) {
		t.output()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.infos = infos
}

// infosOf returns metrics of a stage's bundle as the user's SDK has them.
func (p *progress) infosOf(s *plan.Stage, reported []fnapi.Metric) []*pipepb.MonitoringInfo {
	infos := make([]*pipepb.MonitoringInfo, 0, len(reported))
	for _, m := range reported {
		if info := p.relabel(s, m.Info); info != nil {
			infos = append(infos, &pipepb.MonitoringInfo{
				Urn: info.GetUrn(), Type: info.GetType(), Labels: info.GetLabels(), StartTime: info.GetStartTime(), Payload: m.Payload,
			})
		}
	}
	return infos
}

// relabel gives a metric of a stage's bundle the transform id that the user's SDK
// knows. It is nil for what others count.
func (p *progress) relabel(s *plan.Stage, info *pipepb.MonitoringInfo) *pipepb.MonitoringInfo {
	if metrics.CountsOf(info, p.stages[s.Index].input) {
		return nil
	}
	origin, ok := p.plan.Origins[info.GetLabels()[labelTransform]]
	if !ok {
		return info
	}
	labels := maps.Clone(info.GetLabels())
	labels[labelTransform] = origin
	return &pipepb.MonitoringInfo{Urn: info.GetUrn(), Type: info.GetType(), Labels: labels, StartTime: info.GetStartTime()}
}
