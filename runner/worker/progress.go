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

	// before is what had been committed in the checkpoint that the job goes on from.
	before *metrics.Totals
	stages []stageOutputs // by stage index

	mu      sync.Mutex // protects what follows
	tasks   []*taskCounts
	running map[*tracked]struct{}
}

// stageOutputs are the PCollections of a stage.
type stageOutputs struct {
	// input is what an executable stage reads. SDKs count it too, but the stages that
	// made it did so before.
	input string
	// outputs are what an executable stage makes: nothing, until it has run a bundle.
	// From then on we say what the SDK says, which may be silent about some of them.
	outputs []string
	ran     bool // before
}

// taskCounts is what a task has committed.
type taskCounts struct {
	stage    *plan.Stage
	reported *metrics.Totals // by SDKs
	// known are the totals of what harnesses report with each bundle, nil of what does not count.
	known map[*pipepb.MonitoringInfo]*metrics.Total
	ran   bool // a bundle
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

// newProgress returns the metrics of a job that has committed some before.
func newProgress(p *plan.Plan, before []*pipepb.MonitoringInfo) *progress {
	out := &progress{plan: p, before: metrics.NewTotals(), running: map[*tracked]struct{}{}, stages: make([]stageOutputs, len(p.Stages))}
	out.before.Add(before)
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
		for _, id := range out.stages[i].outputs {
			out.stages[i].ran = out.stages[i].ran || slices.ContainsFunc(before, func(info *pipepb.MonitoringInfo) bool { return metrics.CountsOf(info, id) })
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

// of returns what a task has committed. p.mu is held.
func (p *progress) of(t *task) *taskCounts {
	if t.counts == nil {
		t.counts = &taskCounts{stage: t.stage, reported: metrics.NewTotals()}
		p.tasks = append(p.tasks, t.counts)
	}
	return t.counts
}

// maxKnown is how many metrics of a task are remembered by their pointers; restarted harnesses have new ones.
const maxKnown = 4096

// commit adds what a committed bundle of a task reported.
func (p *progress) commit(t *task, reported []fnapi.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(t)
	c.ran = true
	if c.known == nil || len(c.known) > maxKnown {
		c.known = map[*pipepb.MonitoringInfo]*metrics.Total{}
	}
	for _, m := range reported {
		total, ok := c.known[m.Info]
		if !ok {
			if info := p.relabel(t.stage, m.Info); info != nil {
				total = c.reported.Total(info)
			}
			if m.Lasting {
				c.known[m.Info] = total
			}
		}
		total.Add(m.Payload)
	}
}

// made counts what a task of a runner stage has sent.
func (p *progress) made(t *task, f frame.Frame) {
	if f.Elements == 0 {
		return
	}
	bytes := int64(f.Bytes()) + f.Remote
	mean := bytes / int64(f.Elements)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(t)
	if c.elements == 0 {
		c.low, c.high = mean, mean
	}
	c.low, c.high = min(c.low, mean), max(c.high, mean)
	c.elements += int64(f.Elements)
	c.bytes += bytes
}

// lateDropped counts elements that a task has dropped because they came too late.
func (p *progress) lateDropped(t *task, n int64) {
	if n == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(t).late += n
}

// addTo adds all of it to totals.
func (c *taskCounts) addTo(totals *metrics.Totals) {
	totals.Merge(c.reported)
	if c.late > 0 {
		totals.Add([]*pipepb.MonitoringInfo{metrics.LateDropped(c.stage.Transforms[0], c.late)})
	}
	if c.elements > 0 {
		totals.Add([]*pipepb.MonitoringInfo{
			metrics.ElementCount(c.stage.Output, c.elements),
			metrics.SampledByteSize(c.stage.Output, c.elements, c.bytes, c.low, c.high),
		})
	}
}

// counted is what a task has committed in this run of the job.
func (p *progress) counted(t *task) *metrics.Totals {
	totals := metrics.NewTotals()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(t).addTo(totals)
	return totals
}

func (p *progress) metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	all, done := p.totals()
	all.Wire(p.plan.Wired)
	done.Wire(p.plan.Wired)
	return all.Infos(), done.Infos()
}

func (p *progress) totals() (attempted, committed *metrics.Totals) {
	done := p.before.Clone()
	ran := make([]bool, len(p.stages))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.tasks {
		c.addTo(done)
		ran[c.stage.Index] = ran[c.stage.Index] || c.ran
	}
	for i := range p.stages {
		done.Add(p.stages[i].nothing(p.plan.Stages[i], ran[i]))
	}
	all := done.Clone()
	for t := range p.running {
		all.Add(t.infos)
	}
	return all, done
}

// nothing are the counts of PCollections of which none is to be missing.
func (o *stageOutputs) nothing(s *plan.Stage, ran bool) (infos []*pipepb.MonitoringInfo) {
	if s.Output != "" {
		infos = append(infos, metrics.ElementCount(s.Output, 0))
	}
	if !ran && !o.ran {
		for _, id := range o.outputs {
			infos = append(infos, metrics.ElementCount(id, 0))
		}
	}
	return infos
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
