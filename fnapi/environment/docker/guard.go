package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/lintelrun/lintel/internal/fault"
)

// The guard is a process that lives while there are containers of ours: this same program, started
// under another name. Its standard input is a pipe whose other end only we hold. Should we end
// without having stopped our containers, however that comes, the kernel closes the pipe, and the
// guard removes all containers of our instance. The engine is no child of ours, so nothing else
// would. It ignores the signals that end us, since they often go to all processes at once.
const (
	guardName = "lintel-docker-guard" // argument 0 by which RunGuard knows that it is one
	// The guard sweeps twice: a container that we were about to create may come late.
	guardSweeps = 2
	guardPause  = time.Second
	// guardPatience is how long the guard tries at most.
	guardPatience = time.Minute
)

var guardReady atomic.Bool

// RunGuard makes the process the guard of a server's containers, and does not return, if a
// Launcher has started it as one; otherwise it returns at once. Launchers start their guard by
// running the program they are in another time, so the main function of each such program, and
// TestMain where tests start containers, must call RunGuard before anything else. Launch fails in
// programs that did not.
func RunGuard() {
	guardReady.Store(true)
	if len(os.Args) == 0 || os.Args[0] != guardName {
		return
	}
	if err := runGuard(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", guardName, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runGuard(args []string) error {
	if len(args) != 2 {
		return errors.New("is started by lintel only")
	}
	host, instance := args[0], args[1]
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), guardPatience)
	defer cancel()
	engine, err := connect(ctx, host)
	if err != nil {
		return err
	}
	defer engine.Close()
	for n := range guardSweeps {
		if n > 0 {
			<-time.After(guardPause)
		}
		if _, sweepErr := sweep(ctx, engine, instance); sweepErr != nil {
			err = sweepErr
		}
	}
	return err
}

// guard is our end of the guard process. It may be used concurrently.
type guard struct {
	host, instance string

	mu       sync.Mutex
	holders  int
	process  *exec.Cmd // while there are holders
	lifeline io.Closer
}

// hold starts the guard if it is not there. Each success is followed by one release.
func (g *guard) hold() error {
	if !guardReady.Load() {
		return fault.New(fault.Internal, "docker: the main function of this program does not call RunGuard")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holders == 0 {
		process := &exec.Cmd{
			Path:        "/proc/self/exe", // right even if the file has been replaced since we started
			Args:        []string{guardName, g.host, g.instance},
			Stderr:      os.Stderr,
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		}
		lifeline, err := process.StdinPipe()
		if err == nil {
			err = process.Start()
		}
		if err != nil {
			return fault.New(fault.Retryable, "the guard of its containers: %w", err)
		}
		g.process, g.lifeline = process, lifeline
	}
	g.holders++
	return nil
}

// release ends the guard if it was the last holder's: there is nothing left to remove.
func (g *guard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holders--; g.holders > 0 {
		return
	}
	// It must not see the end of its lifeline: a sweep might meet the containers of its successor.
	_ = g.process.Process.Kill()
	_ = g.process.Wait()
	g.lifeline.Close()
}

// Sweep removes the containers that an earlier process with the same Instance has left, and
// returns how many there were. It must not be called once there are workers.
func (l *Launcher) Sweep(ctx context.Context) (removed int, err error) {
	engine, err := connect(ctx, l.config.Host)
	if err != nil {
		return 0, fault.Wrap(fault.Retryable, err)
	}
	defer engine.Close()
	return sweep(ctx, engine, l.config.Instance)
}

// sweep kills and removes all containers of an instance.
func sweep(ctx context.Context, engine *client.Client, instance string) (removed int, err error) {
	left, err := engine.ContainerList(ctx, container.ListOptions{
		All:     true,
		Filters: filters.NewArgs(filters.Arg("label", instanceLabel+"="+instance)),
	})
	if err != nil {
		return 0, fault.New(fault.Retryable, "the list of containers left behind: %w", err)
	}
	var errs []error
	for _, c := range left {
		if err := remove(ctx, engine, c.ID); err != nil {
			errs = append(errs, err)
		} else {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}

// remove kills and removes a container, by id or name. Success is that there is none any more.
func remove(ctx context.Context, engine *client.Client, name string) error {
	err := engine.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if cerrdefs.IsConflict(err) { // it is going already
		status, failed := engine.ContainerWait(ctx, name, container.WaitConditionRemoved)
		select {
		case <-status:
			return nil
		case err = <-failed:
		}
	}
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	return fault.New(fault.Retryable, "removal of container %s: %w", name, cmp.Or(context.Cause(ctx), err))
}
