package docker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/fnapi/environment/environmenttest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
)

const (
	patience = 30 * time.Second
	ownerEnv = "DOCKER_TEST_OWNER" // makes the test binary a program that launches a worker
)

// engine is the one that all tests share; errEngine says why there is none.
var (
	engine    *dockertest.Engine
	errEngine error
)

func TestMain(m *testing.M) {
	RunGuard()
	if os.Getenv(ownerEnv) != "" {
		fmt.Println(own())
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "docker-test")
	if err != nil {
		panic(err)
	}
	scratch = dir
	// Nothing of the tests depends on who runs them.
	os.Setenv("DOCKER_CONFIG", dir)
	engine, errEngine = dockertest.Start()
	code = m.Run()
	err = os.RemoveAll(dir)
	if err == nil && engine != nil {
		err = engine.Stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func needEngine(t *testing.T) {
	t.Helper()
	if errEngine != nil {
		t.Skip(errEngine)
	}
}

var scratch string // removed when all tests have ended

// workerBinary is the suite's worker, linked statically.
var workerBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "worker")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./testdata/worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// nowhere is a registry that does not answer: no test looks for an image outside by mistake.
const nowhere = "127.0.0.1:1"

var images atomic.Int64

// imageWith makes an image of the suite's worker and returns its name.
func imageWith(t *testing.T, env map[string]string) string {
	t.Helper()
	path, err := workerBinary()
	if err != nil {
		t.Fatal(err)
	}
	i := dockertest.Image{
		Name:    fmt.Sprintf("%s/worker:%d", nowhere, images.Add(1)),
		Files:   map[string]string{"/worker": path},
		Changes: []string{`ENTRYPOINT ["/worker"]`},
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		i.Changes = append(i.Changes, fmt.Sprintf("ENV %s=%q", name, env[name]))
	}
	if err := engine.Make(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	return i.Name
}

func behaving(t *testing.T, b environmenttest.Behaviour) *pipepb.Environment {
	t.Helper()
	return environmentOf(imageWith(t, map[string]string{environmenttest.BehaviourEnv: string(b)}))
}

func environmentOf(image string) *pipepb.Environment {
	payload, err := proto.Marshal(&pipepb.DockerPayload{ContainerImage: image})
	if err != nil {
		panic(err)
	}
	return &pipepb.Environment{Urn: environment.URNDocker, Payload: payload}
}

// newLauncher returns a launcher, on the tests' engine if c names none, and fails the test if it
// leaves containers there.
func newLauncher(t *testing.T, c Config) *Launcher {
	t.Helper()
	c.Host = cmp.Or(c.Host, engine.Host)
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := containers(t, l.config.Instance); len(left) > 0 {
			t.Errorf("containers left: %v", left)
		}
	})
	return l
}

func containers(t *testing.T, instance string) []string {
	t.Helper()
	names, err := engine.Containers(context.Background(), instanceLabel+"="+instance)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestConformance(t *testing.T) {
	needEngine(t)
	environmenttest.Run(t, environmenttest.Suite{
		Launcher:     newLauncher(t, Config{Grace: time.Second}),
		Environment:  func(env map[string]string) *pipepb.Environment { return environmentOf(imageWith(t, env)) },
		SeesProcess:  true,
		MixesStreams: true,
	})
}

func launch(t *testing.T, l *Launcher, r environment.Request) environment.Worker {
	t.Helper()
	w, err := l.Launch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func awaitDone(t *testing.T, w environment.Worker) {
	t.Helper()
	select {
	case <-w.Done():
	case <-time.After(patience):
		t.Fatal("Done is open")
	}
}

func stop(t *testing.T, w environment.Worker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestOptionsArriveInTheContainer(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("mounted text"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLauncher(t, Config{
		Env:    map[string]string{"DOCKER_TEST_SHOW": "/mounted", "DOCKER_TEST_SECRET": "hush"},
		Mounts: []string{dir + ":/mounted:ro"},
	})
	var lines []string
	w := launch(t, l, environment.Request{
		WorkerID:    "w",
		Environment: environmentOf(imageWith(t, map[string]string{"DOCKER_TEST_SHOW": "/elsewhere", "DOCKER_TEST_IMAGE": "its own"})),
		Output:      func(line string) { lines = append(lines, line) },
	})
	awaitDone(t, w)
	stop(t, w)
	said := strings.Join(lines, "\n")
	for _, want := range []string{
		"DOCKER_TEST_SECRET=hush", "DOCKER_TEST_SHOW=/mounted", "DOCKER_TEST_IMAGE=its own",
		"/mounted/file mounted text <nil>", "/mounted/new: read-only file system",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the worker printed\n%s\nwant it to hold %q", said, want)
		}
	}
	if err := w.Err(); err == nil || !strings.Contains(err.Error(), "exited with code 4 before it was stopped") {
		t.Errorf("Err is %v; want the exit with code 4", err)
	}
}

func TestContainersAreLabelled(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	l := newLauncher(t, Config{Instance: uuid.NewString(), Labels: map[string]string{"team": "a b"}})
	env := behaving(t, environmenttest.NeverConnects)
	env.ResourceHints = map[string][]byte{hintMemory: []byte("67108864"), hintCPUs: []byte("1.5")}
	w := launch(t, l, environment.Request{WorkerID: "a/b ü", Environment: env})
	for _, label := range []string{instanceLabel + "=" + l.config.Instance, "team=a b", workerLabel + "=a/b ü"} {
		names, err := engine.Containers(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != 1 || !strings.HasPrefix(names[0], "lintel-a-b---") {
			t.Errorf("containers with label %s: %v; want one of that worker", label, names)
		}
	}
	stop(t, w)
}

func TestLaunchErrorsNameImageAndReason(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	bare := dockertest.Image{Name: nowhere + "/bare:1", Files: map[string]string{"/tmp": ""}}
	if err := engine.Make(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	good := imageWith(t, nil)
	for name, c := range map[string]struct {
		config Config
		image  string
		class  fault.Class
		holds  string
	}{
		"no entry point":  {Config{}, bare.Name, fault.Invalid, "no entry point"},
		"never pulled":    {Config{Pull: PullNever}, nowhere + "/none:1", fault.Unsupported, `the pull policy is "never"`},
		"no registry":     {Config{}, nowhere + "/none:1", fault.Retryable, "pull failed"},
		"always pulled":   {Config{Pull: PullAlways}, good, fault.Retryable, "pull failed"},
		"missing mount":   {Config{Mounts: []string{"/no/such/folder:/x"}}, good, fault.Invalid, "/no/such/folder"},
		"no such network": {Config{Network: "nowhere"}, good, fault.Invalid, "nowhere"},
		"no engine":       {Config{Host: "unix:///no/engine.sock"}, good, fault.Retryable, "no Docker engine answers at unix:///no/engine.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newLauncher(t, c.config).Launch(t.Context(), environment.Request{WorkerID: "w-7", Environment: environmentOf(c.image)})
			if fault.ClassOf(err) != c.class {
				t.Errorf("class of %v is %v; want %v", err, fault.ClassOf(err), c.class)
			}
			for _, h := range []string{"w-7", c.image, c.holds} {
				if err == nil || !strings.Contains(err.Error(), h) {
					t.Errorf("Launch: %v; want it to hold %q", err, h)
				}
			}
		})
	}
}

func TestOtherNetworksNeedOtherEndpoints(t *testing.T) {
	l, err := New(Config{Network: "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	for at, refused := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::]:1": true, "0.0.0.0:1": true, "10.0.0.1:1": false, "host.lan:1": false} {
		e := environment.Endpoints{Control: at, Logging: at, Artifact: at, Provision: at}
		if err := l.reachable(e); (err != nil) != refused {
			t.Errorf("endpoints at %s: %v; refused should be %v", at, err, refused)
		}
	}
}

func TestCheckWithoutEngine(t *testing.T) {
	testkit.Leaks(t)
	l, err := New(Config{Host: "unix:///no/engine.sock"})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Check(environmentOf("apache/beam_go_sdk:2.77.0"))
	if fault.ClassOf(err) != fault.Unsupported {
		t.Errorf("class of %v is %v; want %v", err, fault.ClassOf(err), fault.Unsupported)
	}
	for _, h := range []string{"apache/beam_go_sdk:2.77.0", "unix:///no/engine.sock", "start a Docker engine, or set DOCKER_HOST"} {
		if err == nil || !strings.Contains(err.Error(), h) {
			t.Errorf("Check: %v; want it to hold %q", err, h)
		}
	}
	if err := l.Check(environmentOf("Not An Image")); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), "Not An Image") {
		t.Errorf("Check of an impossible name: %v", err)
	}
}

func TestCheckOfImagesNeverPulled(t *testing.T) {
	needEngine(t)
	testkit.Leaks(t)
	l := newLauncher(t, Config{Pull: PullNever})
	if err := l.Check(environmentOf(imageWith(t, nil))); err != nil {
		t.Error(err)
	}
	err := l.Check(environmentOf(nowhere + "/none:1"))
	if fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), nowhere+"/none:1") {
		t.Errorf("Check of an image that is not there: %v (class %v)", err, fault.ClassOf(err))
	}
}

func TestValidate(t *testing.T) {
	for holds, c := range map[string]Config{
		`"sometimes"`:  {Pull: "sometimes"},
		"-1ns":         {Grace: -1},
		`"nonsense"`:   {Host: "nonsense"},
		`"A=B"`:        {Env: map[string]string{"A=B": "x"}},
		`"lintel"`:     {Labels: map[string]string{"lintel": "x"}},
		`"/a"`:         {Mounts: []string{"/a"}},
		`"/a:b"`:       {Mounts: []string{"/a:b"}},
		`"/a:/b:rw"`:   {Mounts: []string{"/a:/b:rw"}},
		`":/b"`:        {Mounts: []string{":/b"}},
		`"/a:/b:ro:x"`: {Mounts: []string{"/a:/b:ro:x"}},
	} {
		if _, err := New(c); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), holds) {
			t.Errorf("New(%+v): %v; want class %v and %s", c, err, fault.Invalid, holds)
		}
	}
}

func TestResourcesAreWhatHintsAskFor(t *testing.T) {
	for _, c := range []struct {
		memory, cpus     string
		bytes, cpuShares int64
	}{
		{"", "", 0, 0},
		{"1073741824", "4", 1 << 30, 4096},
		{"6291456", "0.5", 6 << 20, 512},
		{"6291455", "0.0001", 0, 2}, // less than engines accept
		{"1GB", "many", 0, 0},
		{"-1", "-1", 0, 0},
		{"99999999999999999999", "NaN", 0, 0},
	} {
		r := resources(map[string][]byte{hintMemory: []byte(c.memory), hintCPUs: []byte(c.cpus)})
		if r.MemoryReservation != c.bytes || r.CPUShares != c.cpuShares {
			t.Errorf("hints %q, %q reserve %d bytes and %d shares; want %d and %d", c.memory, c.cpus,
				r.MemoryReservation, r.CPUShares, c.bytes, c.cpuShares)
		}
	}
}

func TestDescribe(t *testing.T) {
	for code, want := range map[int64]string{
		0:   "exited with code 0",
		128: "exited with code 128",
		255: "exited with code 255",
		139: "exited with code 139, of signal 11 (segmentation fault)",
		137: "exited with code 137, of signal 9 (killed), perhaps for want of memory,",
	} {
		if got := describe(code); got != want {
			t.Errorf("code %d is described as %q; want %q", code, got, want)
		}
	}
}
