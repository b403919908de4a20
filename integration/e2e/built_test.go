package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// built holds what the tests run, compiled at first use into one folder that
// TestMain removes.
var built struct{ dir string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lintel-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	lintelBinary = program("lintel", root, "./cmd/lintel")
	wordcount    = program("wordcount", filepath.Join(root, "examples", "go"), "./wordcount")
	windowedavg  = program("windowedavg", filepath.Join(root, "examples", "go"), "./windowedavg")
	goBoot       = program("go-boot", root, "github.com/apache/beam/sdks/v2/go/container")
	pythonBoot   = program("python-boot", root, "github.com/apache/beam/sdks/v2/python/container")
)

// root is the repository's folder.
var root = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}()

// program returns a function that builds a Go program once and gives its path.
func program(name, dir, pkg string) func(t *testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		path := filepath.Join(built.dir, name)
		cmd := exec.Command("go", "build", "-o", path, pkg)
		cmd.Dir = dir
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
