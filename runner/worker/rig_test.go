package worker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// patience is how long anything in these tests may take before it counts as hung.
const patience = 2 * time.Minute

// rig is a worker with everything around it. When the test ends it checks that
// nothing is left: no goroutine, file or harness.
type rig struct {
	t        testing.TB
	server   *fnapi.Server
	launcher *launcher
	cfg      Config
	// deployment is what jobs are deployed with, but for the plan.
	deployment rpc.Deployment

	mu      sync.Mutex
	log     []rpc.Message
	spilled int64
	bundles int // attempts that have ended
}

func newRig(t testing.TB, script func(*process) fnapitest.Script) *rig {
	testkit.Leaks(t)
	quiet := slog.New(slog.DiscardHandler)
	server, err := fnapi.NewServer(fnapi.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	dir := t.TempDir()
	r := &rig{t: t, server: server, launcher: &launcher{t: t, script: script}}
	r.cfg = Config{
		State:  memstate.New(),
		Server: server, Launcher: r.launcher, Dir: dir, Logger: quiet, RestartDelay: time.Millisecond,
		Hooks: Hooks{
			BundleDone: func(bool, int, int, int, time.Duration) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.bundles++
			},
			Spilled: func(n int64) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.spilled += n
			},
		},
	}
	r.deployment = rpc.Deployment{JobID: "job", Generation: 1, Parallelism: 2, Harnesses: 2, Log: r.note}
	t.Cleanup(func() {
		r.checkNothingLeft()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

func (r *rig) note(m rpc.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, m)
}

// logged reports whether the job's log has a line of the severity with the text.
func (r *rig) logged(s rpc.Severity, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.log, func(m rpc.Message) bool { return m.Severity == s && strings.Contains(m.Text, text) })
}

func (r *rig) checkNothingLeft() {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		r.t.Error(err)
	}
	for _, e := range entries {
		r.t.Errorf("%s is left of the job", e.Name())
	}
	for _, p := range r.launcher.processes() {
		testkit.Eventually(r.t, 10*time.Second, "harness "+p.id+" has been stopped", p.stopped)
		again, err := r.server.Expect(p.id, fnapi.Worker{})
		if err != nil {
			r.t.Errorf("harness %s is still expected: %v", p.id, err)
			continue
		}
		again.Close()
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		r.t.Error(err)
	}
	for _, fd := range open {
		if file, err := os.Readlink(fd); err == nil && strings.HasPrefix(file, r.cfg.Dir) {
			r.t.Errorf("%s is still open", file)
		}
	}
}

// deploy starts a job that runs by a plan.
func (r *rig) deploy(ctx context.Context, p *plan.Plan) rpc.Execution {
	r.t.Helper()
	r.deployment.Plan = p
	if everywhere != nil && inPanes(p) {
		return r.deployWith(ctx, everywhere)
	}
	return r.start(ctx, r.deployment)
}

// start starts a job on a worker of its own.
func (r *rig) start(ctx context.Context, d rpc.Deployment) rpc.Execution {
	r.t.Helper()
	w, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := w.Deploy(ctx, d)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// wait returns how a job ended, and ends the test if it doesn't.
func (r *rig) wait(e rpc.Execution) error {
	r.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- e.Wait() }()
	select {
	case err := <-ended:
		r.checkNothingLeft()
		return err
	case <-time.After(patience):
		r.t.Fatal("the job hangs")
		return nil
	}
}

// run runs a job to its end.
func (r *rig) run(p *plan.Plan) (rpc.Execution, error) {
	r.t.Helper()
	e := r.deploy(context.Background(), p)
	return e, r.wait(e)
}

// mustRun runs a job that is to succeed.
func (r *rig) mustRun(p *plan.Plan) rpc.Execution {
	r.t.Helper()
	e, err := r.run(p)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// launcher starts fake harnesses.
type launcher struct {
	t testing.TB
	// script gives a harness its behaviour; nil for one that never connects.
	script func(*process) fnapitest.Script
	// refuse, if not nil, may give a reason not to start the nth, from 1.
	refuse func(n int) error
	// born, if not nil, is called with each process.
	born func(*process)

	mu  sync.Mutex
	all []*process
}

// process is a fake harness in the place of a process.
type process struct {
	n    int // from 1, in the order of launches
	id   string
	stop chan struct{} // closed by Stop: scripts that wait must end
	gone chan struct{} // closed by Stop at its end

	once    sync.Once
	started chan struct{}      // closed once fake is set
	fake    *fnapitest.Harness // nil if it never connects
	dying   sync.WaitGroup

	mu   sync.Mutex
	err  error
	done chan struct{}
}

func (l *launcher) Launch(ctx context.Context, r environment.Request) (environment.Worker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	p := &process{n: len(l.all) + 1, id: r.WorkerID, stop: make(chan struct{}), gone: make(chan struct{}), done: make(chan struct{}), started: make(chan struct{})}
	if l.refuse != nil {
		if err := l.refuse(p.n); err != nil {
			l.mu.Unlock()
			return nil, err
		}
	}
	l.all = append(l.all, p)
	l.mu.Unlock()
	if l.born != nil {
		l.born(p)
	}
	if l.script != nil {
		p.fake = fnapitest.Start(l.t, r.Endpoints.Control, r.Endpoints.Logging, r.WorkerID, l.script(p))
	}
	close(p.started)
	return p, nil
}

func (l *launcher) processes() []*process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// die ends the process as a crash does; it may be called by the harness's own script.
func (p *process) die(err error) {
	p.end(err)
	p.dying.Go(p.kill)
}

// kill breaks its connections.
func (p *process) kill() {
	<-p.started
	if p.fake != nil {
		p.fake.Kill()
	}
}

func (p *process) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
	default:
		p.err = err
		close(p.done)
	}
}

func (p *process) Stop(context.Context) error {
	p.once.Do(func() {
		close(p.stop)
		p.kill()
		p.dying.Wait()
		p.end(nil)
		close(p.gone)
	})
	return nil
}

func (p *process) stopped() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

var errCrash = fault.New(fault.Retryable, "exit status 139; its last lines:\nsegmentation fault")

// wantError checks an error's class and that it contains all texts.
func wantError(t testing.TB, err error, class fault.Class, texts ...string) {
	t.Helper()
	if err == nil {
		err = errors.New("no error")
	}
	if fault.ClassOf(err) != class {
		t.Errorf("error of class %v, want %v: %v", fault.ClassOf(err), class, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}
