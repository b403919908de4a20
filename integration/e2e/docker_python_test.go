//go:build pythonimage

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/internal/testkit"
)

var staticPythonBoot = testkit.Program(&built.dir, "static-python-boot", examples, "github.com/apache/beam/sdks/v2/python/container", "CGO_ENABLED=0")

// The image of this test has hundreds of megabytes: `make test-docker` runs it.
func TestPythonDocker(t *testing.T) {
	e, interpreter := dockerEngine(t), testkit.Python(t, root)
	image, input, output := pythonImage(t, e, interpreter), textFolder(t), t.TempDir()
	// One worker: the engine of tests copies the image for each.
	s := startServerWith(t, []string{"--parallelism", "1", "--docker-mount", same(input) + ":ro", "--docker-mount", same(output)}, "DOCKER_HOST="+e.Host)
	out := s.pythonPipeline("wordcount.py", "--input", input, "--ext", ".txt", "--top", "3", "--output", filepath.Join(output, "counts"),
		"--environment_type", "DOCKER", "--environment_config", image).ok(t)
	checkCounts(t, out.stdout)
}

// pythonImage makes an image of an interpreter, its packages, the shared libraries that they need,
// all at the paths that they have here, and Beam's boot program.
func pythonImage(t *testing.T, e *dockertest.Engine, interpreter string) string {
	t.Helper()
	const probe = `import json, os, subprocess, sys, sysconfig
python, stdlib = os.path.realpath(sys.executable), sysconfig.get_path("stdlib")
folders = {sys.prefix, stdlib} if sys.prefix != sys.base_prefix else {stdlib}
modules = [os.path.join(d, f) for top in folders for d, _, files in os.walk(top) for f in files if ".so" in f]
needs = subprocess.run(["ldd", python, *modules], capture_output=True, text=True).stdout
files = {w for line in needs.splitlines() for w in line.split() if w.startswith("/") and not w.endswith(":")}
link = sys.executable
while os.path.islink(link):
  files.add(link)
  link = os.path.join(os.path.dirname(link), os.readlink(link))
files.add(link)
json.dump({
  "folders": sorted(folders),
  "files": {f: os.path.realpath(f) for f in files},
  "others": [os.path.join(stdlib, "site-packages"), os.path.join(stdlib, "dist-packages")] if len(folders) > 1 else [],
}, sys.stdout)`
	var needs struct {
		Folders []string
		Files   map[string]string
		Others  []string // packages of the interpreter that the environment does not see
	}
	out, err := exec.Command(interpreter, "-c", probe).Output()
	if err == nil {
		err = json.Unmarshal(out, &needs)
	}
	if err != nil {
		t.Fatalf("what an image of %s takes: %v", interpreter, err)
	}
	i := dockertest.Image{
		Name:  "127.0.0.1:1/beam_python_sdk:test",
		Files: map[string]string{"/opt/apache/beam/boot": staticPythonBoot(t), "/tmp": "", "/etc/passwd": "/etc/passwd"},
		Skip:  append(needs.Others, "__pycache__", "tests", "test", "idlelib", "ensurepip"),
		Changes: []string{
			`ENTRYPOINT ["/opt/apache/beam/boot"]`,
			fmt.Sprintf("ENV PATH=%q RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1", filepath.Dir(interpreter)),
		},
	}
	maps.Copy(i.Files, needs.Files)
	for _, folder := range needs.Folders {
		i.Files[folder] = folder
	}
	return makeImage(t, e, i)
}
