// Package process starts workers as processes of this machine, for beam:env:process:v1
// environments. A worker never outlives the process that launched it, however that one ends, and
// nothing that a worker forks outlives the worker: see guard.go. Linux only.
package process

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/output"
	"github.com/lintelrun/lintel/internal/fault"
)

const (
	// pipeDelay is how long output may stay open after the guard has ended; it has to do with
	// guards that were killed only.
	pipeDelay = time.Second
	// killWait is how long Stop waits for processes to end that have been sent SIGKILL.
	killWait = 2 * time.Second
)

// Config is the configuration of a Launcher; its zero value is usable.
type Config struct {
	// Grace is how long a worker may take to end after SIGTERM before it is killed; 5 s if zero.
	Grace time.Duration
	// Dir holds the workers' working directories, each empty at first and removed with its worker:
	// Beam's boot programs write files there. The system's temporary folder if empty.
	Dir string
	// Logger is told of starts and ends; nothing is logged if nil. Environment variables never are.
	Logger *slog.Logger
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.Grace < 0 {
		return fault.New(fault.Invalid, "process environments: grace %v must not be negative", c.Grace)
	}
	return nil
}

// Launcher starts workers as processes. The program it is in must call RunGuard first of all.
type Launcher struct {
	grace time.Duration
	dir   string
	log   *slog.Logger
}

var (
	_ environment.Launcher = (*Launcher)(nil)
	_ environment.Checker  = (*Launcher)(nil)
)

// New returns a launcher.
func New(c Config) (*Launcher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Launcher{
		grace: cmp.Or(c.Grace, 5*time.Second),
		dir:   c.Dir,
		log:   cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
	}, nil
}

// Check implements environment.Checker. Whether the command exists is for Launch to find out: the
// machine that runs it may be another.
func (l *Launcher) Check(env *pipepb.Environment) error {
	_, err := payload(env)
	return err
}

func payload(env *pipepb.Environment) (*pipepb.ProcessPayload, error) {
	p := &pipepb.ProcessPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return nil, fault.New(fault.Invalid, "environment %s: payload: %w", env.GetUrn(), err)
	}
	if p.GetCommand() == "" {
		return nil, fault.New(fault.Invalid,
			"environment %s names no command: set --environment_config to a JSON object with \"command\"", env.GetUrn())
	}
	if strings.ContainsRune(p.GetCommand(), 0) {
		return nil, fault.New(fault.Invalid, "environment %s: command %q holds a NUL byte", env.GetUrn(), p.GetCommand())
	}
	for name, value := range p.GetEnv() {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return nil, fault.New(fault.Invalid, "environment %s: %q cannot be set as an environment variable", env.GetUrn(), name)
		}
	}
	if have, want := runtime.GOOS+"/"+runtime.GOARCH, platform(p); want != have {
		return nil, fault.New(fault.Unsupported, "environment %s: command %s is for %s, but workers run on %s here",
			env.GetUrn(), p.GetCommand(), want, have)
	}
	return p, nil
}

// platform returns what the payload asks for as GOOS/GOARCH, our own where it does not say.
func platform(p *pipepb.ProcessPayload) string {
	arch := strings.ToLower(p.GetArch())
	switch arch {
	case "x86_64", "x64", "x86-64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	return cmp.Or(strings.ToLower(p.GetOs()), runtime.GOOS) + "/" + cmp.Or(arch, runtime.GOARCH)
}

// Launch implements environment.Launcher. The command gets the arguments of Beam's container
// contract and our environment variables under those of the payload; no shell is involved.
func (l *Launcher) Launch(ctx context.Context, r environment.Request) (environment.Worker, error) {
	p, err := payload(r.Environment)
	if err != nil {
		return nil, err
	}
	if !guardReady.Load() {
		return nil, fault.New(fault.Internal, "process: the main function of this program does not call RunGuard")
	}
	w := &worker{
		name: fmt.Sprintf("worker %s (%s)", r.WorkerID, p.GetCommand()),
		log:  l.log.With("worker", r.WorkerID, "command", p.GetCommand()),
		out:  output.NewLog(r.Output),
		done: make(chan struct{}),
	}
	command, err := locate(p.GetCommand())
	if err != nil {
		return nil, fault.New(fault.Invalid, "start of %s: %w", w.name, err)
	}
	if w.dir, err = os.MkdirTemp(l.dir, "worker-"); err != nil {
		return nil, fault.New(fault.Retryable, "start of %s: its working directory: %w", w.name, err)
	}
	args := append([]string{guardName, l.grace.String(), command}, r.Arguments()...)
	env := os.Environ()
	for name, value := range p.GetEnv() {
		env = append(env, name+"="+value)
	}
	if err := w.start(ctx, args, env); err != nil {
		return nil, err
	}
	return w, nil
}

// locate makes a relative path absolute, since the worker begins in another directory. A bare name
// is looked for in PATH later.
func locate(command string) (string, error) {
	if !strings.ContainsRune(command, filepath.Separator) {
		return command, nil
	}
	return filepath.Abs(command)
}

type worker struct {
	name    string
	dir     string // its working directory
	log     *slog.Logger
	out     *output.Log
	printed *output.Stream // its one stream

	guard    *exec.Cmd
	lifeline *os.File // the guard stops the worker when this is closed
	release  sync.Once
	stopping atomic.Bool

	done chan struct{}
	err  error // read after done
}

func (w *worker) start(ctx context.Context, args, env []string) error {
	if err := ctx.Err(); err != nil {
		w.removeDir()
		return fault.New(fault.Retryable, "start of %s: %w", w.name, context.Cause(ctx))
	}
	lifelineEnd, lifeline, err := os.Pipe()
	if err != nil {
		w.removeDir()
		return fault.New(fault.Retryable, "start of %s: %w", w.name, err)
	}
	reports, reportsEnd, err := os.Pipe()
	if err != nil {
		w.removeDir()
		lifelineEnd.Close()
		lifeline.Close()
		return fault.New(fault.Retryable, "start of %s: %w", w.name, err)
	}
	w.lifeline = lifeline
	w.printed = w.out.Stream()
	w.guard = &exec.Cmd{
		Path:       "/proc/self/exe", // right even if the file has been replaced since we started
		Args:       args,
		Env:        env,
		Dir:        w.dir,
		Stdout:     w.printed,
		Stderr:     w.printed, // the same writer: one pipe, in the order of writing
		ExtraFiles: []*os.File{lifelineFD - 3: lifelineEnd, reportFD - 3: reportsEnd},
		// A group of its own: Ctrl-C in our terminal is ours to handle.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		WaitDelay:   pipeDelay,
	}
	err = w.guard.Start()
	lifelineEnd.Close()
	reportsEnd.Close() // or we would wait for the end of reports that we hold open
	if err != nil {
		w.removeDir()
		lifeline.Close()
		reports.Close()
		return fault.New(fault.Retryable, "start of %s: its guard: %w", w.name, err)
	}
	started := make(chan error, 1)
	go w.wait(reports, started)
	select {
	case err = <-started:
	case <-ctx.Done():
		err = fault.Wrap(fault.Retryable, context.Cause(ctx))
	}
	if err != nil {
		return fault.New(fault.ClassOf(err), "start of %s: %w", w.name, errors.Join(err, w.Stop(ctx)))
	}
	w.log.Debug("worker process started")
	return nil
}

// wait follows the guard's reports to its end, which is that of the worker and all its children.
func (w *worker) wait(reports *os.File, started chan<- error) {
	defer close(w.done)
	defer reports.Close()
	var how string // it ended
	var stopped bool
	for lines := bufio.NewScanner(reports); lines.Scan(); {
		switch word, text, _ := strings.Cut(lines.Text(), " "); word {
		case reportStarted:
			started <- nil
		case reportUnusable:
			started <- fault.New(fault.Invalid, "%s", text)
		case reportFailed:
			started <- fault.New(fault.Retryable, "%s", text)
		case reportEnded:
			how, stopped = text, w.stopping.Load()
		}
	}
	err := w.guard.Wait()
	w.removeDir()
	w.closeLifeline()
	w.printed.Flush()
	if how == "" {
		how, stopped = fmt.Sprintf("has lost its guard process (%v)", err), w.stopping.Load()
	}
	select {
	case started <- fault.New(fault.Retryable, "it %s; %s", how, w.out.LastWords()):
	default: // the start has been reported
	}
	w.log.Debug("worker process gone", "how", how, "stopped", stopped)
	if !stopped {
		w.err = fault.New(fault.Retryable, "%s %s before it was stopped; %s", w.name, how, w.out.LastWords())
	}
}

func (w *worker) removeDir() {
	if err := os.RemoveAll(w.dir); err != nil {
		w.log.Warn("working directory not removed", "error", err)
	}
}

func (w *worker) closeLifeline() {
	w.release.Do(func() { w.lifeline.Close() })
}

// Done implements environment.Worker.
func (w *worker) Done() <-chan struct{} { return w.done }

// Err implements environment.Worker.
func (w *worker) Err() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}

// Stop implements environment.Worker.
func (w *worker) Stop(ctx context.Context) error {
	w.stopping.Store(true)
	w.closeLifeline()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	_ = w.guard.Process.Signal(hurrySignal) // an error means that it is gone
	select {
	case <-w.done:
		return nil
	case <-time.After(killWait):
		return fault.New(fault.Internal, "%s has been killed but processes of it are still there (guard process %d)",
			w.name, w.guard.Process.Pid)
	}
}
