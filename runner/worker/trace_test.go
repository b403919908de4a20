package worker

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/internal/tracing"
	"github.com/lintelrun/lintel/internal/tracing/tracingtest"
)

// traced makes a rig whose worker traces one bundle in so many below a span "job". The
// function it returns gives the spans.
func traced(t *testing.T, p *program, every int) (*rig, func() []tracingtest.Span) {
	r := newRig(t, p.script)
	receiver := tracingtest.Start(t)
	provider, err := tracing.New(tracing.Config{Endpoint: receiver.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	r.cfg.Tracer, r.cfg.TraceBundles = provider.Tracer(), every
	return r, func() []tracingtest.Span {
		if err := provider.Shutdown(); err != nil {
			t.Fatal(err)
		}
		return receiver.Spans()
	}
}

func TestSpansOfAJob(t *testing.T) {
	const n, k = 300, 5
	p := shuffle(t, n, k, nil)
	var failed atomic.Bool
	p.fns["ungroup"] = func(c *call) error {
		if failed.CompareAndSwap(false, true) {
			return errors.New("out of luck\nTraceback")
		}
		return ungroup(c)
	}
	r, spans := traced(t, p, 1)
	ctx, job := r.cfg.Tracer.Start(t.Context(), "job")
	if err := r.wait(r.deploy(ctx, p.plan)); err != nil {
		t.Fatal(err)
	}
	job.End()
	wantShuffled(t, p, n, k)

	parents := map[string]map[string]bool{} // by name
	elements := map[string]int64{}          // of bundles that succeeded, by stage
	stages := map[string]tracingtest.Span{}
	var failures []tracingtest.Span
	var bundles int64
	for _, s := range spans() {
		if parents[s.Name] == nil {
			parents[s.Name] = map[string]bool{}
		}
		parents[s.Name][s.Parent] = true
		stage, _ := s.Attributes["lintel.stage"].(string)
		switch {
		case strings.HasPrefix(s.Name, "stage "):
			stages[stage] = s
			if n, ok := s.Attributes["lintel.stage.bundles"]; ok {
				bundles += n.(int64)
			}
		case s.Name == "bundle" && s.Failed():
			failures = append(failures, s)
		case s.Name == "bundle":
			bundles--
			elements[stage] += s.Attributes["lintel.bundle.elements"].(int64)
			if s.Parent != "stage "+stage || s.Attributes["lintel.bundle.outcome"] != "succeeded" {
				t.Errorf("bundle of stage %s below %q: %v", stage, s.Parent, s.Attributes)
			}
		}
	}
	want := map[string]map[string]bool{
		"job": {"": true}, "deploy": {"job": true}, "start harness": {"deploy": true}, "bundle": {},
	}
	wantElements := map[string]int64{}
	for _, s := range p.plan.Stages {
		want["stage "+s.ID] = map[string]bool{"job": true}
		if s.Exec != nil {
			want["bundle"]["stage "+s.ID] = true
			wantElements[s.ID] = map[string]int64{"split": 1, "kv": n, "ungroup": k, "write": n}[s.Transforms[0]]
		}
		if got := stages[s.ID].Attributes["lintel.stage.kind"]; got != s.Kind.String() {
			t.Errorf("stage %s is of kind %v", s.ID, got)
		}
	}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents by name (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantElements, elements); diff != "" {
		t.Errorf("elements of bundles that succeeded (-want +got):\n%s", diff)
	}
	if bundles != int64(len(failures)) {
		t.Errorf("stages count %d more bundles than there are spans of those that succeeded, %d failed", bundles, len(failures))
	}
	if len(failures) != 1 || failures[0].Attributes["lintel.bundle.attempt"] != int64(1) || failures[0].Attributes["lintel.bundle.outcome"] != "failed" ||
		!strings.Contains(failures[0].GetStatus().GetMessage(), "out of luck") || strings.Contains(failures[0].GetStatus().GetMessage(), "Traceback") {
		t.Errorf("spans of failed bundles: %v", failures)
	}
}

// Of many bundles few have spans, but all that fail do, and the stage's span covers all.
func TestBundlesAreSampled(t *testing.T) {
	p := shuffle(t, 10, 2, nil)
	p.fns["kv"] = func(c *call) error { return errors.New("never") }
	r, spans := traced(t, p, 1000)
	r.deployment.Parallelism = 1
	if _, err := r.run(p.plan); err == nil {
		t.Fatal("the job is done")
	}
	failed, succeeded := 0, 0
	for _, s := range spans() {
		switch {
		case s.Name == "bundle" && s.Failed():
			failed++
		case s.Name == "bundle":
			succeeded++
		case strings.HasPrefix(s.Name, "stage ") && s.Attributes["lintel.stage.name"] == "kv":
			if took := time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()); !s.Failed() || took <= 0 || took > patience {
				t.Errorf("the stage's span took %v, failed: %v", took, s.Failed())
			}
		}
	}
	if failed < 4 || succeeded != 1 {
		t.Errorf("%d spans of failed bundles and %d of others, want 4 at least and one", failed, succeeded)
	}
}
