package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// oracle is the pipeline that counts each of its elements, which come in real time, and fails if one is missing or there
// twice, in one of the languages.
type oracle struct {
	name string
	// submit submits a job whose elements take that long, and leaves it running.
	submit func(s *server, takes time.Duration, observed string)
	// tallies is what its counter "tallied" comes to, if it has one.
	tallies func(takes time.Duration) int
	// workers are what its elements are processed in; they see a folder.
	workers func(t *testing.T, dir string) *workers
	// servers and harnesses are how many are killed.
	servers, harnesses kills
	// restart is how long it may take at the median from killing the server to new output, replace at
	// the most from killing a harness, both on a quiet machine.
	restart, replace time.Duration
}

// kills are a number of them in the short form and in the long one; 0 leaves the test out.
type kills struct{ short, long int }

func (k kills) now() int {
	if *long {
		return k.long
	}
	return k.short
}

// Beam's boot program takes 4 s of the processor (pip freeze twice, pip show) before it starts Python: hence the limits of its processes.
var oracles = []oracle{
	{name: "go", submit: (*server).submitGo, tallies: talliesGo, workers: goProcesses, servers: kills{6, 50}, harnesses: kills{4, 50}, restart: 3 * time.Second, replace: 2 * time.Second},
	{name: "go in containers", submit: (*server).submitGo, tallies: talliesGo, workers: goContainers, harnesses: kills{1, 20}, replace: 4 * time.Second},
	{name: "python", submit: (*server).submitPython, workers: pythonProcesses, servers: kills{0, 10}, harnesses: kills{0, 10}, restart: 8 * time.Second, replace: 10 * time.Second},
	{name: "python threads", submit: (*server).submitPython, workers: pythonThreads, servers: kills{0, 50}, restart: 3 * time.Second},
	{name: "python in a pool", submit: (*server).submitPython, workers: pythonPoolProcesses, harnesses: kills{1, 50}, replace: 6 * time.Second},
	{name: "java", submit: (*server).submitJava, workers: javaProcesses, servers: kills{0, 10}, harnesses: kills{0, 50}, restart: 8 * time.Second, replace: 6 * time.Second},
	{name: "java threads", submit: (*server).submitJava, workers: javaThreads, servers: kills{0, 50}, restart: 3 * time.Second},
}

// start starts a server that can run the oracle.
func start(t *testing.T, dir string, w *workers) *server {
	t.Helper()
	s := launch(t, lintelBinary(t), dir, w.env, w.flags...)
	s.workers = w
	s.awaitReady()
	return s
}

const checkpointInterval = "300ms"

// Elements of the Go pipeline come from goShards, and each time goEvery has passed one of each.
const (
	goShards = 2
	goEvery  = 20 * time.Millisecond
)

func talliesGo(takes time.Duration) int { return goShards * int(takes/goEvery) }

func (s *server) submitGo(takes time.Duration, observed string) {
	s.t.Helper()
	s.submitExact(int(takes/goEvery), observed, "--every", goEvery.String())
}

// submitExact submits a job in Go of so many elements a shard, with further flags.
func (s *server) submitExact(elements int, observed string, flags ...string) {
	s.t.Helper()
	args := append(s.environment(), "--case", "exact", "--n", fmt.Sprint(elements), "--keys", "10", "--shards", fmt.Sprint(goShards),
		"--checkpoint_interval", checkpointInterval, "--observed", observed, "--async")
	s.mustRun(append(args, flags...)...)
}

// slowEvery is the time from one element to the next in languages that take much of the machine for each.
const slowEvery = 50 * time.Millisecond

func (s *server) submitPython(takes time.Duration, observed string) {
	s.t.Helper()
	s.mustSubmit(exec.Command(testkit.Python(s.t, root), filepath.Join(root, "integration", "faults", "python", "exact.py"),
		"--n", fmt.Sprint(int(takes/slowEvery)), "--every", fmt.Sprint(slowEvery.Milliseconds()), "--observed", observed,
		"--runner", "PortableRunner", "--job_endpoint", s.jobs, "--checkpoint_interval="+checkpointInterval,
		"--environment_type", s.workers.kind, "--environment_config", s.workers.config))
}

// javaClasses compiles the pipeline in Java, once, and returns its class path.
var javaClasses = sync.OnceValues(func() (string, error) {
	build, pom := filepath.Join(root, ".cache", "faults-java"), filepath.Join(root, "integration", "faults", "java", "pom.xml")
	maven := exec.Command("mvn", "-B", "-q", "-Dstyle.color=never", "-f", pom, "-Dfaults.build="+build,
		"compile", "dependency:build-classpath", "-Dmdep.outputFile="+filepath.Join(build, "classpath"))
	if out, err := maven.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mvn (make setup-java installs it): %w\n%s", err, out)
	}
	libraries, err := os.ReadFile(filepath.Join(build, "classpath"))
	return filepath.Join(build, "classes") + ":" + strings.TrimSpace(string(libraries)), err
})

// classPath is where the pipeline in Java and its worker pool are.
func classPath(t *testing.T) string {
	t.Helper()
	path, err := javaClasses()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *server) submitJava(takes time.Duration, observed string) {
	s.t.Helper()
	s.mustSubmit(exec.Command("java", "-cp", classPath(s.t), "lintel.faults.Exact",
		fmt.Sprintf("--elements=%d", takes/slowEvery), fmt.Sprintf("--every=%d", slowEvery.Milliseconds()), "--observed="+observed,
		"--jobEndpoint="+s.jobs, "--checkpointInterval="+checkpointInterval, "--experiments=beam_fn_api,disable_jamm_agent",
		"--defaultEnvironmentType="+s.workers.kind, "--defaultEnvironmentConfig="+s.workers.config))
}

// mustSubmit runs a program that submits a job.
func (s *server) mustSubmit(cmd *exec.Cmd) {
	s.t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%v: %v\n%s", cmd.Args, err, out.Bytes())
	}
}
