package worker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// counter is a counter's value as a bundle reports it.
func counter(name string, n int64) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: urns.MetricUserSumInt64, Type: urns.MetricTypeSumInt64,
		Labels:  map[string]string{"PTRANSFORM": "kv", "NAMESPACE": "test", "NAME": name},
		Payload: coders.AppendVarint(nil, n),
	}
}

// counted is the committed value of a counter.
func counted(t testing.TB, e rpc.Execution, name string) (n int64) {
	t.Helper()
	_, committed := e.Metrics()
	for _, info := range committed {
		if info.GetLabels()["NAME"] == name {
			v, _, err := coders.Varint(info.GetPayload())
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// respond ends a bundle of "kv" with a counter of its elements.
func respond(b *fnapitest.Bundle, elements int) error {
	if err := b.Terminate(); err != nil {
		return err
	}
	return b.Respond(&fnpb.ProcessBundleResponse{MonitoringInfos: []*pipepb.MonitoringInfo{counter("elements", int64(elements))}})
}

// Bundles fail after all their output has been sent. None of it, nor of their
// metrics, may be seen; what is seen comes from the attempts that succeed.
func TestFailedAttemptsLeaveNothing(t *testing.T) {
	const n = 300
	var elements sync.Map // by bundle
	p := shuffle(t, n, 5, nil)
	kv := p.fns["kv"]
	p.fns["kv"] = func(c *call) error {
		count, _ := elements.LoadOrStore(c.bundle.ID, new(atomic.Int64))
		count.(*atomic.Int64).Add(1)
		return kv(c)
	}
	var failures atomic.Int64
	p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
		if s.Transforms[0] != "kv" {
			return nil
		}
		// Never more than three in a row, whatever bundles they are of.
		if failures.Add(1)%4 != 0 {
			return errors.New("out of luck")
		}
		count, _ := elements.Load(b.ID)
		return respond(b, int(count.(*atomic.Int64).Load()))
	}
	r := newRig(t, p.script)
	r.deployment.Parallelism = 1
	r.cfg.Attempts = 100
	e := r.mustRun(p.plan)
	wantShuffled(t, p, n, 5)
	if got := counted(t, e, "elements"); got != n {
		t.Errorf("the counter says %d, want %d", got, n)
	}
	if attempted, _ := e.Metrics(); len(ofUsers(attempted)) != 1 {
		t.Errorf("%d metrics of the user's after the end, want one", len(ofUsers(attempted)))
	}
}

func TestBundleThatFailsFourTimesFailsTheJob(t *testing.T) {
	p := shuffle(t, 10, 2, nil)
	var attempts atomic.Int64
	p.fns["ungroup"] = func(c *call) error {
		if key, _ := group(c.element); key == "k1" {
			attempts.Add(1)
			return errors.New("Traceback: line 7 of user.py: division by zero")
		}
		return nil
	}
	r := newRig(t, p.script)
	r.deployment.Parallelism = 1
	e, err := r.run(p.plan)
	wantError(t, err, fault.UserCode, "failed 4 times", "Traceback: line 7 of user.py: division by zero")
	for _, other := range []string{"split", "write", "kv"} {
		if strings.Contains(err.Error(), other) {
			t.Errorf("the error names %q, which had no part in it: %v", other, err)
		}
	}
	if attempts.Load() != 4 {
		t.Errorf("%d attempts", attempts.Load())
	}
	if again := e.Wait(); again == nil || again.Error() != err.Error() {
		t.Errorf("Wait says %v the second time", again)
	}
}

// A harness that dies with a bundle takes its text along: that of the process,
// not of the streams that broke.
func TestBundleThatKillsItsHarness(t *testing.T) {
	p := shuffle(t, 20, 2, nil)
	r := newRig(t, nil)
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			if p.stage(b).Transforms[0] != "kv" {
				return p.process(b)
			}
			me.die(errCrash)
			<-me.done
			return nil
		}}
	}
	r.deployment.Parallelism, r.deployment.Harnesses = 1, 1
	r.cfg.Attempts = 3
	_, err := r.run(p.plan)
	wantError(t, err, fault.Retryable, "failed 3 times", "segmentation fault")
	if !r.logged(rpc.Warn, "a harness was lost and is replaced: exit status 139") {
		t.Errorf("the job's log does not tell of the loss: %v", r.log)
	}
}

func TestLostHarness(t *testing.T) {
	for _, c := range []struct {
		name      string
		harnesses int
		lose      func(*process)
	}{
		{"another is left", 2, func(me *process) { me.die(errCrash) }},
		{"it was the only one", 1, func(me *process) { me.die(errCrash) }},
		{"only its streams end", 1, func(me *process) { me.dying.Go(me.kill) }},
		{"only its process ends", 1, func(me *process) { me.end(errCrash) }},
		{"it breaks the protocol", 1, func(me *process) {
			<-me.started
			me.fake.Send(&fnpb.Elements{Timers: []*fnpb.Elements_Timers{{InstructionId: "i1"}}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 200
			p := shuffle(t, n, 5, nil)
			r := newRig(t, nil)
			var lost atomic.Bool
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
					if p.stage(b).Transforms[0] != "kv" || lost.Swap(true) {
						return p.process(b)
					}
					c.lose(me)
					<-me.stop
					return errors.New("nobody hears this")
				}}
			}
			r.deployment.Harnesses = c.harnesses
			// No bundle meets a lost harness twice; but a dying one may still answer.
			r.cfg.Attempts = 3
			r.mustRun(p.plan)
			wantShuffled(t, p, n, 5)
			if got := len(r.launcher.processes()); got != c.harnesses+1 {
				t.Errorf("%d harnesses were launched, want %d and one more", got, c.harnesses)
			}
			if !r.logged(rpc.Warn, "a harness was lost and is replaced") {
				t.Errorf("the job's log does not tell of the loss: %v", r.log)
			}
		})
	}
}

// Harnesses are not replaced for ever.
func TestHarnessesThatDieAgainAndAgain(t *testing.T) {
	p := shuffle(t, 20, 2, nil)
	r := newRig(t, nil)
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			me.die(errCrash)
			<-me.stop
			return nil
		}}
	}
	r.deployment.Harnesses = 1
	r.cfg.Attempts = 1000
	_, err := r.run(p.plan)
	wantError(t, err, fault.Retryable, "has no harness left", "segmentation fault")
	if got := len(r.launcher.processes()); got != maxLosses {
		t.Errorf("%d harnesses were launched, want %d", got, maxLosses)
	}
	if !r.logged(rpc.Warn, "is not replaced") {
		t.Errorf("the job's log does not say that there is no other: %v", r.log)
	}
}

// Harnesses that are of some use are replaced as often as it takes.
func TestHarnessesThatDieNowAndThen(t *testing.T) {
	const deaths, stages = 3 * maxLosses, 12 * maxLosses // of a bundle each, one after the other
	pipeline := portabletest.New()
	fns := map[string]doFn{"split": split(1), "write": collector}
	out := pipeline.ParDo("split", pEnv, pBytes, pipeline.Impulse("impulse"))
	for i := range stages {
		name := fmt.Sprint("stage", i)
		out = pipeline.ParDo(name, pEnv, pBytes, pipeline.Reshuffle("spread"+name, pBytes, out))
		fns[name] = func(c *call) error {
			c.emit(c.element)
			return nil
		}
	}
	pipeline.ParDo("write", pEnv, pBytes, out)
	p := compile(t, pipeline, fns)
	r := newRig(t, nil)
	var died atomic.Int64
	r.launcher.script = func(me *process) fnapitest.Script {
		var bundles atomic.Int64
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			if died.Load() < deaths && bundles.Add(1) == 3 { // two were done well
				died.Add(1)
				me.die(errCrash)
				<-me.stop
				return nil
			}
			return p.process(b)
		}}
	}
	r.deployment.Parallelism, r.deployment.Harnesses = 1, 1
	r.cfg.Attempts = 2 * deaths // it may be the same bundle each time
	r.mustRun(p.plan)
	if got := len(p.got("write")); got != 1 {
		t.Errorf("%d elements came through, of one", got)
	}
	if got := len(r.launcher.processes()); got != deaths+1 {
		t.Errorf("%d harnesses were launched, want %d", got, deaths+1)
	}
}

// What a harness does while another is lost and replaced is done once.
func TestOnlyBundlesOfTheLostHarnessAreTriedAgain(t *testing.T) {
	const n = 200
	p := shuffle(t, n, 5, nil)
	r := newRig(t, nil)
	busy, replaced := make(chan struct{}), make(chan struct{})
	var healthy sync.Map // bundles of kv on other harnesses than the one that is lost, which ends none
	var elements atomic.Int64
	kv := p.fns["kv"]
	p.fns["kv"] = func(c *call) error {
		if _, ok := healthy.Load(c.bundle); ok {
			elements.Add(1)
		}
		return kv(c)
	}
	r.launcher.script = func(me *process) fnapitest.Script {
		if me.n == 3 {
			close(replaced)
		}
		var once sync.Once
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			if p.stage(b).Transforms[0] != "kv" {
				return p.process(b)
			}
			once.Do(func() {
				switch me.n {
				case 1:
					close(busy)
					<-replaced
				case 2:
					<-busy
					me.die(errCrash)
				}
			})
			if me.n == 2 {
				<-me.stop
				return nil
			}
			healthy.Store(b, true)
			return p.process(b)
		}}
	}
	r.mustRun(p.plan)
	wantShuffled(t, p, n, 5)
	if elements.Load() != n {
		t.Errorf("%d elements were processed on harnesses that live, of %d", elements.Load(), n)
	}
}

func TestReplacementThatCannotBeStarted(t *testing.T) {
	p := shuffle(t, 20, 2, nil)
	r := newRig(t, nil)
	r.launcher.refuse = func(n int) error {
		if n == 1 {
			return nil
		}
		return fault.New(fault.Retryable, "no space left on device")
	}
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(*fnapitest.Bundle) error {
			me.die(errCrash)
			<-me.stop
			return nil
		}}
	}
	r.deployment.Harnesses = 1
	_, err := r.run(p.plan)
	wantError(t, err, fault.Retryable, "has no harness left", "no space left on device")
}

func TestHarnessThatNeverConnects(t *testing.T) {
	p := shuffle(t, 20, 2, nil)
	t.Run("in time", func(t *testing.T) {
		r := newRig(t, nil)
		r.cfg.ConnectTimeout = 50 * time.Millisecond
		_, err := r.run(p.plan)
		wantError(t, err, fault.Retryable, "did not connect to "+r.server.BundleEndpoint()+" within 50ms")
		if got := len(r.launcher.processes()); got > r.deployment.Harnesses {
			t.Errorf("%d harnesses were launched: the first ones are not tried again", got)
		}
	})
	t.Run("because it has ended", func(t *testing.T) {
		r := newRig(t, nil)
		r.launcher.born = func(me *process) { me.end(errCrash) }
		_, err := r.run(p.plan)
		wantError(t, err, fault.Retryable, "ended before it connected", "segmentation fault")
	})
	t.Run("because it can't be launched", func(t *testing.T) {
		r := newRig(t, nil)
		r.launcher.refuse = func(n int) error {
			return fault.New(fault.Invalid, "launch %d: there is no /usr/bin/sdk", n)
		}
		_, err := r.run(p.plan)
		wantError(t, err, fault.Invalid, "there is no /usr/bin/sdk", "environment env")
	})
}

func TestUnknownEnvironment(t *testing.T) {
	p := shuffle(t, 1, 1, nil)
	clear(p.plan.Environments)
	_, err := newRig(t, nil).run(p.plan)
	wantError(t, err, fault.Invalid, `needs environment "env"`)
}

func TestDeployRefusesNonsense(t *testing.T) {
	r := newRig(t, nil)
	w, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []rpc.Deployment{{JobID: "j", Harnesses: 1}, {JobID: "j", Parallelism: 1}} {
		_, err := w.Deploy(t.Context(), d)
		wantError(t, err, fault.Invalid, "must be at least 1")
	}
	for _, c := range []Config{{}, {Server: r.server}, {Server: r.server, Launcher: r.launcher, State: memstate.New(), MemoryBytes: 1 << 20}} {
		if _, err := New(c); err == nil {
			t.Errorf("no error for %+v", c)
		}
	}
	r.cfg.Dir += "/nowhere"
	if w, err = New(r.cfg); err == nil {
		_, err = w.Deploy(t.Context(), rpc.Deployment{JobID: "j", Parallelism: 1, Harnesses: 1})
	}
	if err == nil || !strings.Contains(err.Error(), "make a folder for spilled data") {
		t.Errorf("a folder that doesn't exist: %v", err)
	}
	r.cfg.Dir = strings.TrimSuffix(r.cfg.Dir, "/nowhere")
}

// Output for a sink that the stage doesn't have, responses before the end of
// input, metrics that can't be explained: all of it fails the bundle, clearly.
func TestHarnessAgainstTheProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		misbehave func(*fnapitest.Bundle) error
		class     fault.Class
		text      string
	}{
		"unknown sink": {
			func(b *fnapitest.Bundle) error { return b.Emit("nobody", []byte{1}) },
			fault.Invalid, `output of transform "nobody"`,
		},
		"unknown metric": {
			func(b *fnapitest.Bundle) error {
				return errors.Join(b.Terminate(), b.Respond(&fnpb.ProcessBundleResponse{MonitoringData: map[string][]byte{"m": {1}}}))
			},
			fault.Invalid, `short metric id "m"`,
		},
		"residual of bytes that are no element": {
			func(b *fnapitest.Bundle) error {
				return errors.Join(b.Terminate(), b.Respond(&fnpb.ProcessBundleResponse{ResidualRoots: []*fnpb.DelayedBundleApplication{
					{Application: &fnpb.BundleApplication{TransformId: "split", Element: []byte{1, 2, 3}}}}}))
			},
			fault.Corruption, "root of split",
		},
		"residual with more behind it": {
			func(b *fnapitest.Bundle) error {
				el := append(coders.AppendHeader(nil, 0, 1, nil, []byte{coders.PaneNoFiring}), 0, 99)
				return errors.Join(b.Terminate(), b.Respond(&fnpb.ProcessBundleResponse{ResidualRoots: []*fnpb.DelayedBundleApplication{
					{Application: &fnpb.BundleApplication{TransformId: "split", Element: el}}}}))
			},
			fault.Corruption, "root of split: 1 bytes follow",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := shuffle(t, 20, 2, nil)
			p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] != "split" {
					return nil
				}
				return c.misbehave(b)
			}
			_, err := newRig(t, p.script).run(p.plan)
			wantError(t, err, c.class, c.text, "failed 4 times")
			if len(p.got("kv")) > 0 {
				t.Error("its output is visible")
			}
		})
	}
}

func TestHarnessLogsAreTheJobs(t *testing.T) {
	p := shuffle(t, 2, 1, nil)
	r := newRig(t, nil)
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
			if p.stage(b).Transforms[0] == "split" {
				<-me.started
				if err := me.fake.Log(
					&fnpb.LogEntry{Severity: fnpb.LogEntry_Severity_INFO, Message: "counting", TransformId: "split"},
					&fnpb.LogEntry{Severity: fnpb.LogEntry_Severity_ERROR, Message: "not so bad", Trace: "line 1"},
					&fnpb.LogEntry{Severity: fnpb.LogEntry_Severity_TRACE, Message: "here I am"},
				); err != nil {
					return err
				}
			}
			return p.process(b)
		}}
	}
	r.mustRun(p.plan)
	for text, severity := range map[string]rpc.Severity{"counting": rpc.Info, "not so bad\nline 1": rpc.Warn, "here I am": rpc.Debug} {
		if !r.logged(severity, text) {
			t.Errorf("%q is not in the log: %v", text, r.log)
		}
	}
	for _, m := range r.log {
		if !m.Harness || !strings.HasPrefix(m.Source, "job-env-") || m.Text == "counting" && !strings.HasSuffix(m.Source, " split") {
			t.Errorf("a line of %q: %+v", m.Source, m)
		}
	}
}

func TestProgressOfLongBundles(t *testing.T) {
	p := shuffle(t, 2, 1, nil)
	r := newRig(t, nil)
	var e rpc.Execution
	r.launcher.script = func(me *process) fnapitest.Script {
		return fnapitest.Script{
			Process: func(b *fnapitest.Bundle) error {
				if p.stage(b).Transforms[0] != "split" {
					return p.process(b)
				}
				for { // until it is seen from outside
					attempted, committed := e.Metrics()
					attempted, committed = ofUsers(attempted), ofUsers(committed)
					if len(committed) > 0 {
						return fmt.Errorf("committed: %v", committed)
					}
					if len(attempted) == 1 && attempted[0].GetLabels()["NAME"] == "soon" {
						return p.process(b)
					}
					select {
					case <-time.After(10 * time.Millisecond):
					case <-me.stop:
						return errors.New("stopped")
					}
				}
			},
			Progress: func(*fnapitest.Bundle) *fnpb.ProcessBundleProgressResponse {
				return &fnpb.ProcessBundleProgressResponse{MonitoringInfos: []*pipepb.MonitoringInfo{counter("soon", 7)}}
			},
		}
	}
	ready := make(chan struct{})
	script := r.launcher.script
	r.launcher.script = func(me *process) fnapitest.Script {
		<-ready
		return script(me)
	}
	e = r.deploy(t.Context(), p.plan)
	close(ready)
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	if attempted, _ := e.Metrics(); len(ofUsers(attempted)) != 0 {
		t.Errorf("metrics of an attempt stay after its end: %v", ofUsers(attempted))
	}
}
