package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Program returns a function that builds a Go program once, as name in folder, and gives
// its path. pkg is built in dir, with the entries of env added to the environment. folder is
// read when the program is first asked for, so that TestMain may make it.
func Program(folder *string, name, dir, pkg string, env ...string) func(t *testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		path := filepath.Join(*folder, name)
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

// Python returns the path of an interpreter that has the Beam SDK: LINTEL_PYTHON, or that of the virtual environment that
// `make test-setup` makes in the repository, whose folder is root. Without one the test is skipped.
func Python(t *testing.T, root string) string {
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
