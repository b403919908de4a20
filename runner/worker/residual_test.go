package worker

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// residualOf is what a harness gives back of an element: another element.
func residualOf(element []byte, delay time.Duration) *fnpb.DelayedBundleApplication {
	return &fnpb.DelayedBundleApplication{
		Application: &fnpb.BundleApplication{
			TransformId:      "count",
			InputId:          "i0",
			Element:          append(coders.AppendHeader(nil, 0, 1, nil, []byte{coders.PaneNoFiring}), element...),
			OutputWatermarks: map[string]*timestamppb.Timestamp{"o0": timestamppb.New(time.UnixMilli(12345))},
		},
		RequestedTimeDelay: durationpb.New(delay),
	}
}

// countdown is a pipeline of "count", which emits its number and gives back the
// number below, until there is none; "write" collects them after a GroupByKey,
// so that an end that comes too early is seen.
func countdown(t testing.TB, from string, delay time.Duration) (*program, *atomic.Int64) {
	var residuals sync.Map // by bundle
	p := portabletest.New()
	begin := p.ParDo("begin", pEnv, pBytes, p.Impulse("impulse"))
	counted := p.ParDo("count", pEnv, pKV, begin)
	p.ParDo("write", pEnv, pBytes, p.ParDo("ungroup", pEnv, pBytes, p.GroupByKey("group", counted)))
	c := compile(t, p, map[string]doFn{
		"begin": func(c *call) error {
			c.emit(bytesOf(from))
			return nil
		},
		"count": func(c *call) error {
			n, err := strconv.Atoi(text(c.element))
			if err != nil {
				return err
			}
			c.emit(kvOf("n", text(c.element)))
			if n > 0 {
				residuals.Store(c.bundle.ID, residualOf(bytesOf(strconv.Itoa(n-1)), delay))
			}
			return nil
		},
		"ungroup": ungroup,
		"write":   collector,
	})
	var failures atomic.Int64
	c.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "count" {
			return nil
		}
		if failures.Add(-1) >= 0 {
			return errors.New("out of luck") // its residual is void
		}
		resp := &fnpb.ProcessBundleResponse{}
		if r, ok := residuals.Load(b.ID); ok {
			resp.ResidualRoots = append(resp.ResidualRoots, r.(*fnpb.DelayedBundleApplication))
		}
		return b.Respond(resp)
	}
	return c, &failures
}

func wantCountdown(t testing.TB, p *program, from int) {
	t.Helper()
	var want []string
	for n := range from + 1 {
		want = append(want, string(bytesOf(fmt.Sprint("n=", n))))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, p.got("write")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResidualsAreProcessed(t *testing.T) {
	p, failures := countdown(t, "20", 0)
	failures.Store(3)
	newRig(t, p.script).mustRun(p.plan)
	wantCountdown(t, p, 20)
}

func TestResidualsWaitForTheirDelay(t *testing.T) {
	const delay = 40 * time.Millisecond
	p, _ := countdown(t, "3", delay)
	r := newRig(t, p.script)
	began := time.Now()
	r.mustRun(p.plan)
	if took := time.Since(began); took < 3*delay {
		t.Errorf("done after %v, three delays of %v", took, delay)
	}
	wantCountdown(t, p, 3)
}

// finalizing lets the bundles of "kv" ask for finalisation. It returns the
// bundles that have succeeded.
func finalizing(p *program) *sync.Map {
	succeeded := &sync.Map{}
	var attempts atomic.Int64
	p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "kv" {
			return nil
		}
		if attempts.Add(1)%2 == 1 {
			return errors.New("out of luck")
		}
		succeeded.Store(b.ID, true)
		return b.Respond(&fnpb.ProcessBundleResponse{RequiresFinalization: true})
	}
	return succeeded
}

func TestBundlesAreFinalizedOnceAfterTheirCommit(t *testing.T) {
	p := shuffle(t, 300, 5, nil)
	succeeded := finalizing(p)
	r := newRig(t, nil)
	r.cfg.Attempts = 100
	var finalized sync.Map
	r.launcher.script = func(*process) fnapitest.Script {
		return fnapitest.Script{Process: p.process, Finalize: func(bundle string) error {
			if _, ok := succeeded.Load(bundle); !ok {
				t.Errorf("bundle %s is finalised and has not succeeded", bundle)
			}
			if _, again := finalized.LoadOrStore(bundle, true); again {
				t.Errorf("bundle %s is finalised twice", bundle)
			}
			return errors.New("a callback that fails is nobody's concern")
		}}
	}
	r.mustRun(p.plan)
	wantShuffled(t, p, 300, 5)
	n := 0
	succeeded.Range(func(bundle, _ any) bool {
		n++
		if _, ok := finalized.Load(bundle); !ok {
			t.Errorf("bundle %s is not finalised", bundle)
		}
		return true
	})
	if n == 0 {
		t.Error("no bundle asked for it")
	}
}
