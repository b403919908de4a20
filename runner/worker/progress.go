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
)

// pollEvery is how often running bundles are asked for their progress.
const pollEvery = time.Second

// labelTransform is the label of a MonitoringInfo that names a transform.
const labelTransform = "PTRANSFORM"

// progress holds a job's metrics: committed totals, and the last words of
// bundles in flight.
type progress struct {
	// origins has, for transforms that planning made, the pipeline's own ids.
	origins map[string]string

	mu        sync.Mutex // protects what follows
	committed *metrics.Totals
	running   map[*tracked]struct{}
}

// tracked is a bundle in flight.
type tracked struct {
	bundle *fnapi.Bundle
	began  time.Time
	infos  []*pipepb.MonitoringInfo // guarded by progress.mu
}

func newProgress(origins map[string]string) *progress {
	return &progress{origins: origins, committed: metrics.NewTotals(), running: map[*tracked]struct{}{}}
}

func (p *progress) begin(b *fnapi.Bundle) *tracked {
	t := &tracked{bundle: b, began: time.Now()}
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

// commit adds what a committed bundle reported.
func (p *progress) commit(infos []*pipepb.MonitoringInfo) {
	infos = p.relabel(infos)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed.Add(infos)
}

func (p *progress) metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.committed.Clone()
	for t := range p.running {
		all.Add(t.infos)
	}
	return all.Infos(), p.committed.Infos()
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
	infos := p.relabel(got.Infos)
	p.mu.Lock()
	defer p.mu.Unlock()
	t.infos = infos
}

// relabel gives metrics the transform ids that the user's SDK knows.
func (p *progress) relabel(infos []*pipepb.MonitoringInfo) []*pipepb.MonitoringInfo {
	out := slices.Clone(infos)
	for i, info := range infos {
		origin, ok := p.origins[info.GetLabels()[labelTransform]]
		if !ok {
			continue
		}
		labels := maps.Clone(info.GetLabels())
		labels[labelTransform] = origin
		out[i] = &pipepb.MonitoringInfo{
			Urn: info.GetUrn(), Type: info.GetType(), Labels: labels, StartTime: info.GetStartTime(), Payload: info.GetPayload(),
		}
	}
	return out
}
