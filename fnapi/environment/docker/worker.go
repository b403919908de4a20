package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/google/uuid"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/output"
	"github.com/lintelrun/lintel/internal/fault"
)

const (
	// killWait is how long a container may take to be gone once it has been killed.
	killWait = 10 * time.Second
	// signalled is what exit codes begin at of those that a signal has ended.
	signalled = 128
	// leastMemory is the least reservation that engines accept, in bytes.
	leastMemory = 6 << 20
	// fullShare is the weight of one CPU.
	fullShare = 1024
)

// Resource hints of the Beam model that an engine can honour. Both ask for a minimum.
const (
	hintMemory = "beam:resources:min_ram_bytes:v1"
	hintCPUs   = "beam:resources:cpu_count:v1"
)

type worker struct {
	name      string // for messages
	container string // its name
	launcher  *Launcher
	engine    *client.Client
	out       *output.Log
	log       *slog.Logger

	stopping atomic.Bool
	release  func() // frees the guard and the client; idempotent
	done     chan struct{}
	gone     bool  // that the container is; read after done
	err      error // read after done
}

func newWorker(name string, l *Launcher, engine *client.Client, r environment.Request) *worker {
	w := &worker{
		name: name,
		// Ours alone, so that it can be removed even if we were not told that it was created.
		container: "lintel-" + containerName(r.WorkerID) + "-" + uuid.NewString()[:8],
		launcher:  l,
		engine:    engine,
		out:       output.NewLog(r.Output),
		done:      make(chan struct{}),
	}
	w.log = l.log.With("worker", r.WorkerID, "container", w.container)
	return w
}

// containerName keeps of a worker's id what engines accept in a name.
func containerName(id string) string {
	const accepted = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	name := []byte(id[:min(len(id), 100)])
	for i, c := range name {
		if strings.IndexByte(accepted, c) < 0 {
			name[i] = '-'
		}
	}
	return string(name)
}

// start leaves nothing behind if it fails.
func (w *worker) start(ctx context.Context, ref image, r environment.Request) error {
	if err := w.launcher.guard.hold(); err != nil {
		w.engine.Close()
		return err
	}
	w.release = sync.OnceFunc(func() {
		w.launcher.guard.release()
		w.engine.Close()
	})
	err := w.run(ctx, ref, r)
	if err != nil {
		w.release()
	}
	if err != nil && ctx.Err() != nil {
		return fault.New(fault.Retryable, "%w (%w)", context.Cause(ctx), err)
	}
	return err
}

func (w *worker) run(ctx context.Context, ref image, r environment.Request) error {
	say := func(text string) {
		if r.Output != nil {
			r.Output(text)
		}
	}
	if err := w.launcher.provide(ctx, w.engine, ref, say); err != nil {
		return err
	}
	// What follows is told of the container for all its life.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	attached, exit, err := w.begin(ctx, life, ref, r)
	if err != nil {
		cancel()
		cleanup, done := context.WithTimeout(context.WithoutCancel(ctx), killWait)
		defer done()
		return errors.Join(err, remove(cleanup, w.engine, w.container))
	}
	go func() {
		defer cancel()
		w.follow(attached, exit)
	}()
	w.log.Debug("worker container started", "image", ref.text)
	return nil
}

// exit is how a container ends; exactly one of its channels gets a value.
type exit struct {
	status <-chan container.WaitResponse
	err    <-chan error
}

// begin creates a container and starts it once we would see all that it prints and how it ends.
// ctx bounds the call and life what it returns.
func (w *worker) begin(ctx, life context.Context, ref image, r environment.Request) (a types.HijackedResponse, e exit, err error) {
	defer func() {
		if err != nil && a.Conn != nil {
			a.Close()
		}
	}()
	config, host := w.configure(ref, r)
	if _, err := w.engine.ContainerCreate(ctx, config, host, nil, nil, w.container); err != nil {
		return a, e, classed("create its container", err)
	}
	a, err = w.engine.ContainerAttach(ctx, w.container, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return a, e, classed("attach to its container", err)
	}
	e.status, e.err = w.engine.ContainerWait(life, w.container, container.WaitConditionRemoved)
	if err := w.engine.ContainerStart(ctx, w.container, container.StartOptions{}); err != nil {
		go drain(e)
		return a, e, classed("start its container", err)
	}
	return a, e, nil
}

// drain takes what nobody waits for, so that the client's goroutine ends.
func drain(e exit) {
	select {
	case <-e.status:
	case err := <-e.err:
		_ = err // the start has failed already
	}
}

// classed gives an error of the engine its class: what it refuses, it will refuse again.
func classed(what string, err error) error {
	class := fault.Retryable
	if cerrdefs.IsInvalidArgument(err) || cerrdefs.IsNotFound(err) {
		class = fault.Invalid
	}
	return fault.New(class, "%s: %w", what, err)
}

func (w *worker) configure(ref image, r environment.Request) (*container.Config, *container.HostConfig) {
	c := w.launcher.config
	labels := map[string]string{instanceLabel: c.Instance, workerLabel: r.WorkerID}
	maps.Copy(labels, c.Labels)
	var env []string
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		env = append(env, name+"="+c.Env[name])
	}
	config := &container.Config{
		Image:        ref.text,
		Cmd:          r.Arguments(),
		Env:          env,
		Labels:       labels,
		AttachStdout: true,
		AttachStderr: true,
	}
	return config, &container.HostConfig{
		NetworkMode: container.NetworkMode(c.Network),
		Mounts:      w.launcher.mounts,
		Resources:   resources(r.Environment.GetResourceHints()),
		// The engine removes it when it ends, even if we are gone.
		AutoRemove: true,
		// A first process that hands signals on and reaps what the worker leaves.
		Init: new(true),
		// All that it prints goes to the job's log; a second copy would only fill the engine's disk.
		LogConfig: container.LogConfig{Type: "none"},
	}
}

// resources turns hints, which ask for a minimum, into what the engine prefers the container by
// when memory or CPU is short. They limit nothing. Hints that cannot be read ask for nothing.
func resources(hints map[string][]byte) container.Resources {
	var r container.Resources
	if n, err := strconv.ParseInt(string(hints[hintMemory]), 10, 64); err == nil && n >= leastMemory {
		r.MemoryReservation = n
	}
	if n, err := strconv.ParseFloat(string(hints[hintCPUs]), 64); err == nil && n > 0 && n <= fullShare {
		r.CPUShares = max(int64(n*fullShare), 2)
	}
	return r
}

// follow hands on what the container prints until it is gone.
func (w *worker) follow(attached types.HijackedResponse, e exit) {
	defer close(w.done)
	stdout, stderr := w.out.Stream(), w.out.Stream()
	// A broken stream comes with a broken wait, which says more.
	_, _ = stdcopy.StdCopy(stdout, stderr, attached.Reader)
	attached.Close()
	stdout.Flush()
	stderr.Flush()

	var how string
	select {
	case r := <-e.status:
		how, w.gone = describe(r.StatusCode), r.Error == nil
	case err := <-e.err:
		how = fmt.Sprintf("was lost sight of (%v)", err)
	}
	stopped := w.stopping.Load()
	if !w.gone {
		ctx, cancel := context.WithTimeout(context.Background(), killWait)
		defer cancel()
		w.gone = remove(ctx, w.engine, w.container) == nil
	}
	w.log.Debug("worker container gone", "how", how, "stopped", stopped, "removed", w.gone)
	if !stopped {
		w.err = fault.New(fault.Retryable, "%s %s before it was stopped; %s", w.name, how, w.out.LastWords())
	}
	if w.gone {
		w.release()
	}
}

func describe(code int64) string {
	s := syscall.Signal(code - signalled)
	if code <= signalled || strings.HasPrefix(s.String(), "signal ") { // it has no name
		return fmt.Sprintf("exited with code %d", code)
	}
	text := fmt.Sprintf("exited with code %d, of signal %d (%v)", code, s, s)
	if s == syscall.SIGKILL {
		text += ", perhaps for want of memory,"
	}
	return text
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
	select {
	case <-w.done:
		if w.gone {
			return nil
		}
	default:
	}
	defer w.engine.Close() // follow may have ended before us
	grace := int((w.launcher.config.Grace + time.Second - 1) / time.Second)
	// Whatever becomes of this, what is left is killed.
	_ = w.engine.ContainerStop(ctx, w.container, container.StopOptions{Timeout: &grace})
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
	defer cancel()
	err := remove(kill, w.engine, w.container)
	select {
	case <-w.done:
	case <-kill.Done():
		err = errors.Join(err, context.Cause(kill))
	}
	if err != nil {
		return fault.New(fault.Internal, "%s may still run as container %s: %w", w.name, w.container, err)
	}
	w.release()
	return nil
}
