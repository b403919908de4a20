package docker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/environmenttest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// own launches a worker, tells that it runs, and never stops it. Its arguments are in ownerEnv:
// engine, instance and image.
func own() error {
	args := strings.Fields(os.Getenv(ownerEnv))
	l, err := New(Config{Host: args[0], Instance: args[1]})
	if err != nil {
		return err
	}
	_, err = l.Launch(context.Background(), environment.Request{WorkerID: "orphan", Environment: environmentOf(args[2])})
	if err != nil {
		return err
	}
	fmt.Println("up")
	select {}
}

// startOwner runs a program that launches a worker and returns once that is up.
func startOwner(t *testing.T, instance string) *exec.Cmd {
	t.Helper()
	image := imageWith(t, map[string]string{environmenttest.BehaviourEnv: string(environmenttest.NeverConnects)})
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"="+engine.Host+" "+instance+" "+image, "DOCKER_TEST_INSTANCE="+instance)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the owner printed %q%q, %v; want up", line, rest, err)
	}
	if got := containers(t, instance); len(got) != 1 {
		t.Fatalf("containers: %v; want one", got)
	}
	return owner
}

// owned returns the processes of an owner and its guard.
func owned(t *testing.T, instance string) []proctree.Process {
	t.Helper()
	all, err := proctree.WithEnv("DOCKER_TEST_INSTANCE=" + instance)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func below(t *testing.T, pid int) []proctree.Process {
	t.Helper()
	all, err := proctree.Descendants(pid)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestContainersDoNotOutliveAKilledOwner(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	instance, other := uuid.NewString(), newLauncher(t, Config{})
	w := launch(t, other, environment.Request{WorkerID: "w", Environment: behaving(t, environmenttest.NeverConnects)})
	owner := startOwner(t, instance)
	// A service manager's SIGTERM to all processes at once must not end the guard.
	for _, g := range below(t, owner.Process.Pid) {
		if err := syscall.Kill(g.PID, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait()
	testkit.Eventually(t, patience, "the removal of the containers", func() bool { return len(containers(t, instance)) == 0 })
	testkit.Eventually(t, patience, "the end of the guard", func() bool { return len(owned(t, instance)) == 0 })
	if len(containers(t, other.config.Instance)) != 1 {
		t.Error("the container of another instance is gone too")
	}
	stop(t, w)
}

func TestSweepRemovesWhatIsLeft(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	instance := uuid.NewString()
	owner := startOwner(t, instance)
	for _, g := range below(t, owner.Process.Pid) { // as if the machine had gone down
		if err := syscall.Kill(g.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait()
	for name, c := range map[string]struct {
		instance string
		want     int
	}{"another instance's": {uuid.NewString(), 0}, "its own": {instance, 1}} {
		if name == "its own" && len(containers(t, instance)) != 1 {
			t.Fatal("another instance has removed the container")
		}
		got, err := newSweeper(t, c.instance).Sweep(t.Context())
		if err != nil || got != c.want {
			t.Errorf("Sweep of %s containers: %d, %v; want %d", name, got, err, c.want)
		}
	}
	if left := containers(t, instance); len(left) > 0 {
		t.Errorf("containers left: %v", left)
	}
}

func newSweeper(t *testing.T, instance string) *Launcher {
	t.Helper()
	l, err := New(Config{Host: engine.Host, Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestGuardLivesAsLongAsContainers(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	l, env := newLauncher(t, Config{}), behaving(t, environmenttest.NeverConnects)
	guards := func() (n int) {
		for _, p := range below(t, os.Getpid()) {
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID)); err == nil && strings.HasPrefix(string(line), guardName) {
				n++
			}
		}
		return n
	}
	for range 2 {
		a := launch(t, l, environment.Request{WorkerID: "a", Environment: env})
		b := launch(t, l, environment.Request{WorkerID: "b", Environment: env})
		stop(t, a)
		if got := guards(); got != 1 {
			t.Errorf("%d guards with one container; want one", got)
		}
		stop(t, b)
		if got := guards(); got != 0 {
			t.Errorf("%d guards without containers; want none", got)
		}
	}
}

// proxy is a way to the engine that can break.
type proxy struct {
	listener net.Listener
	tasks    sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newProxy(t *testing.T, path string) *proxy {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener}
	p.tasks.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", strings.TrimPrefix(engine.Host, "unix://"))
			if err != nil {
				from.Close()
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, from, to)
			p.mu.Unlock()
			p.tasks.Go(func() { io.Copy(to, from); to.(*net.UnixConn).CloseWrite() })
			p.tasks.Go(func() { io.Copy(from, to); from.(*net.UnixConn).CloseWrite() })
		}
	})
	return p
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.tasks.Wait()
}

func TestEngineLostAndFoundAgain(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	path := filepath.Join(t.TempDir(), "engine.sock")
	p := newProxy(t, path)
	l := newLauncher(t, Config{Host: "unix://" + path})
	w := launch(t, l, environment.Request{WorkerID: "w-7", Environment: behaving(t, environmenttest.NeverConnects)})
	p.close()
	awaitDone(t, w)
	if err := w.Err(); fault.ClassOf(err) != fault.Retryable || !strings.Contains(err.Error(), "w-7") || !strings.Contains(err.Error(), "lost sight of") {
		t.Errorf("Err is %v; want one that tells of the loss", err)
	}
	if err := w.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "may still run") {
		t.Errorf("Stop without engine: %v; want an error", err)
	}
	if got := containers(t, l.config.Instance); len(got) != 1 {
		t.Fatalf("containers: %v; want that of the worker", got)
	}
	p = newProxy(t, path)
	stop(t, w)
	p.close()
}
