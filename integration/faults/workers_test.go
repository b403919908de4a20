package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// workers are what the elements of a pipeline are processed in.
type workers struct {
	// kind and config are those of their environment.
	kind, config string
	// env and flags are more of these for servers that start them.
	env, flags []string
	// parent is the process that starts them; 0 is the server.
	parent int
	// engine is the one that has them, if they are containers.
	engine *dockertest.Engine
}

// processes are workers that a server starts by a command.
func processes(command string, env ...string) *workers {
	return &workers{kind: "PROCESS", config: fmt.Sprintf(`{"command":%q}`, command), env: env}
}

func goProcesses(t *testing.T, _ string) *workers { return processes(pipelines(t)) }

// examples is the module that has what Beam's boot programs need.
var examples = filepath.Join(root, "examples", "go")

var (
	pythonBoot = testkit.Program(&binaries, "python-boot", examples, "github.com/apache/beam/sdks/v2/python/container")
	javaBoot   = testkit.Program(&binaries, "java-boot", examples, "github.com/apache/beam/sdks/v2/java/container")
)

func pythonProcesses(t *testing.T, dir string) *workers {
	return processes(filepath.Join(root, "integration", "python", "sdk_worker.sh"),
		"SDK_BOOT="+pythonBoot(t), "SDK_PYTHON="+testkit.Python(t, root), "TMPDIR="+dir)
}

func javaProcesses(t *testing.T, _ string) *workers {
	return processes(filepath.Join(root, "integration", "xlang", "java_worker.sh"), "JAVA_BOOT="+javaBoot(t))
}

// engine is a Docker engine, started at first use, that TestMain stops.
var engine = sync.OnceValues(func() (*dockertest.Engine, error) {
	e, err := dockertest.Start()
	if err == nil {
		stop = e.Stop
	}
	return e, err
})

// stop stops the engine.
var stop = func() error { return nil }

// goContainers are workers in containers, which see a folder of the machine.
func goContainers(t *testing.T, dir string) *workers {
	t.Helper()
	e, err := engine()
	if err != nil {
		t.Skip(err)
	}
	image := dockertest.Image{
		Name:    "127.0.0.1:1/pipelines:test",
		Files:   map[string]string{"/pipelines": pipelines(t), "/tmp": "", "/etc/passwd": "/etc/passwd"}, // it looks up its user
		Changes: []string{`ENTRYPOINT ["/pipelines"]`},
	}
	if err := e.Make(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return &workers{kind: "DOCKER", config: image.Name, env: []string{"DOCKER_HOST=" + e.Host}, flags: []string{"--docker-mount", dir + ":" + dir}, engine: e}
}

// pool runs a program whose first line of output is the address of the worker pool that it is, until the test ends: it
// outlives servers.
func pool(t *testing.T, cmd *exec.Cmd) *workers {
	t.Helper()
	testkit.Leaks(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer // its workers tell each server that they lose
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // for its workers, too
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("the end of the pool's log:\n%s", log.Bytes()[max(0, log.Len()-8000):])
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v told no address: %v", cmd.Args, err)
	}
	return &workers{kind: "EXTERNAL", config: strings.TrimSpace(line), parent: cmd.Process.Pid}
}

func pythonPool(t *testing.T, flags ...string) *workers {
	t.Helper()
	python := testkit.Python(t, root)
	cmd := exec.Command(python, append([]string{filepath.Join(root, "integration", "faults", "python", "pool.py")}, flags...)...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(python)+":"+os.Getenv("PATH")) // it starts "python"
	return pool(t, cmd)
}

func pythonThreads(t *testing.T, _ string) *workers { return pythonPool(t) }

func pythonPoolProcesses(t *testing.T, _ string) *workers { return pythonPool(t, "--processes") }

func javaThreads(t *testing.T, _ string) *workers {
	return pool(t, exec.Command("java", "-cp", classPath(t), "lintel.faults.Pool"))
}

// harness kills one.
type harness func() error

// harnesses are those that run now.
func (s *server) harnesses() (running []harness) {
	s.t.Helper()
	if e := s.workers.engine; e != nil {
		names, err := e.Running(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			running = append(running, func() error { return e.Kill(s.t.Context(), name) })
		}
		return running
	}
	parent := s.workers.parent
	if parent == 0 {
		parent = s.cmd.Process.Pid
	}
	all, err := proctree.Descendants(parent)
	if err != nil {
		s.t.Fatal(err)
	}
	parents := map[int]bool{}
	for _, p := range all {
		parents[p.Parent] = true
	}
	for _, p := range all {
		if !parents[p.PID] && !p.Zombie { // of all that an environment starts, the last
			running = append(running, func() error { return syscall.Kill(p.PID, syscall.SIGKILL) })
		}
	}
	return running
}
