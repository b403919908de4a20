package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
)

// built holds what the tests run, compiled at first use into one folder that
// TestMain removes.
var built struct {
	dir    string
	engine *dockertest.Engine // nil if no test has started it
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lintel-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	code := m.Run()
	if built.engine != nil {
		if err := built.engine.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	lintelBinary = program("lintel", root, "./cmd/lintel")
	wordcount    = program("wordcount", examples, "./wordcount")
	windowedavg  = program("windowedavg", examples, "./windowedavg")
	goBoot       = program("go-boot", examples, "github.com/apache/beam/sdks/v2/go/container")
	pythonBoot   = program("python-boot", examples, "github.com/apache/beam/sdks/v2/python/container")
	// Linked statically, for images of nothing else.
	staticWordcount = program("static-wordcount", examples, "./wordcount", "CGO_ENABLED=0")
	staticGoBoot    = program("static-go-boot", examples, "github.com/apache/beam/sdks/v2/go/container", "CGO_ENABLED=0")
)

// examples is the module of pipelines, which has what Beam's boot programs need too.
var examples = filepath.Join(root, "examples", "go")

// root is the repository's folder.
var root = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}()

// program returns a function that builds a Go program once, with more entries in its
// environment, and gives its path.
func program(name, dir, pkg string, env ...string) func(t *testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		path := filepath.Join(built.dir, name)
		cmd := exec.Command("go", "build", "-o", path, pkg)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
		}
		return path, nil
	})
	return func(t *testing.T) string {
		t.Helper()
		path, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// python is an interpreter that has the Beam SDK: LINTEL_PYTHON, or that of the
// virtual environment that `make test-setup` makes.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("LINTEL_PYTHON")
	if path == "" {
		path = filepath.Join(root, ".cache", "venv", "bin", "python")
	}
	if err := exec.Command(path, "-c", "import apache_beam").Run(); err != nil {
		t.Skipf("no Python with apache_beam (make test-setup installs it): %s: %v", path, err)
	}
	return path
}
