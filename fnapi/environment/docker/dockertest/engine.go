// Package dockertest runs a Docker engine for tests: one of their own, without network set-up and
// so with nothing but the host's network for containers, whose images are made of files of this
// machine. It needs dockerd (Debian: docker.io) and root.
package dockertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

const (
	startPatience = time.Minute
	stopPatience  = 30 * time.Second
	lastBytes     = 2000 // of the engine's log, for errors
)

// Engine is a Docker engine. Its methods may be called concurrently.
type Engine struct {
	// Host is its address, for DOCKER_HOST.
	Host string

	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts an engine and returns once it answers. Whoever gets an error because the machine
// has no engine skips the test with it, which with CI=true is a failure.
func Start() (*Engine, error) {
	path, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("no Docker engine can be started (Debian: apt-get install docker.io): %w", err)
	}
	if os.Getuid() != 0 {
		return nil, errors.New("no Docker engine can be started: that takes root")
	}
	dir, err := os.MkdirTemp("", "dockertest")
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	e := &Engine{Host: "unix://" + in("engine.sock"), dir: dir, done: make(chan struct{})}
	e.cmd = exec.Command(path,
		"--host="+e.Host, "--data-root="+in("data"), "--exec-root="+in("exec"), "--pidfile="+in("pid"),
		"--iptables=false", "--ip-masq=false", "--bridge=none", "--storage-driver=vfs", "--log-level=warn")
	log, err := os.Create(in("log"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := e.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		defer close(e.done)
		_ = e.cmd.Wait() // how it ends nobody asks
	}()
	if err := e.await(); err != nil {
		return nil, fmt.Errorf("no Docker engine can be started: %w; the end of its log:\n%s", errors.Join(err, e.Stop()), e.lastLog())
	}
	return e, nil
}

func (e *Engine) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.with(func(c *client.Client) error {
			_, err := c.Ping(ctx)
			return err
		})
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-e.done:
			return errors.New("dockerd has ended")
		case <-ctx.Done():
			return err
		}
	}
}

// with calls do with a client of the engine.
func (e *Engine) with(do func(*client.Client) error) error {
	c, err := client.NewClientWithOpts(client.WithHost(e.Host), client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

func (e *Engine) lastLog() string {
	text, err := os.ReadFile(filepath.Join(e.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-lastBytes):])
}

// Stop ends the engine with its containers and removes all it has. It is idempotent.
func (e *Engine) Stop() error {
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-e.done:
	case <-time.After(stopPatience):
		_ = e.cmd.Process.Kill()
		<-e.done
	}
	// It leaves the namespace of the host's network mounted.
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(mounts) {
		fields := strings.Fields(string(line))
		if len(fields) > 1 && strings.HasPrefix(fields[1], e.dir+"/") {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", fields[1], err)
			}
		}
	}
	return os.RemoveAll(e.dir)
}

// Containers returns the names of the containers with a label ("name=value"), running or not; of
// all containers if it is empty.
func (e *Engine) Containers(ctx context.Context, label string) (names []string, err error) {
	options := container.ListOptions{All: true, Filters: filters.NewArgs()}
	if label != "" {
		options.Filters.Add("label", label)
	}
	return e.list(ctx, options)
}

// Running returns the names of all containers that run.
func (e *Engine) Running(ctx context.Context) (names []string, err error) {
	return e.list(ctx, container.ListOptions{})
}

func (e *Engine) list(ctx context.Context, options container.ListOptions) (names []string, err error) {
	return names, e.with(func(c *client.Client) error {
		list, err := c.ContainerList(ctx, options)
		for _, one := range list {
			names = append(names, strings.TrimPrefix(one.Names[0], "/"))
		}
		return err
	})
}

// Kill ends a container by SIGKILL.
func (e *Engine) Kill(ctx context.Context, name string) error {
	return e.with(func(c *client.Client) error { return c.ContainerKill(ctx, name, "SIGKILL") })
}

// RemoveImage removes an image by name.
func (e *Engine) RemoveImage(ctx context.Context, name string) error {
	return e.with(func(c *client.Client) error {
		_, err := c.ImageRemove(ctx, name, dockerimage.RemoveOptions{Force: true, PruneChildren: true})
		return err
	})
}
