package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// engine is a Docker engine, started at first use, that TestMain stops.
var engine = sync.OnceValues(dockertest.Start)

// dockerEngine skips the test on machines that can have none.
func dockerEngine(t *testing.T) *dockertest.Engine {
	t.Helper()
	e, err := engine()
	built.engine = e
	if err != nil {
		t.Skip(err)
	}
	return e
}

// makeImage makes an image and removes it at the end of the test.
func makeImage(t *testing.T, e *dockertest.Engine, i dockertest.Image) string {
	t.Helper()
	if err := e.Make(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Checked here, when the server has stopped: the image can only be removed if nothing uses it.
		if names, err := e.Containers(context.Background(), ""); err != nil || len(names) > 0 {
			t.Errorf("containers left: %v, %v", names, err)
		}
		if err := e.RemoveImage(context.Background(), i.Name); err != nil {
			t.Error(err)
		}
	})
	return i.Name
}

func goImage(t *testing.T, e *dockertest.Engine) string {
	t.Helper()
	return makeImage(t, e, dockertest.Image{
		Name:    "127.0.0.1:1/beam_go_sdk:test",
		Files:   map[string]string{"/opt/apache/beam/boot": staticGoBoot(t), "/tmp": "", "/etc/passwd": "/etc/passwd"}, // it looks up its user
		Changes: []string{`ENTRYPOINT ["/opt/apache/beam/boot"]`},
	})
}

// same mounts a folder at its own path.
func same(path string) string { return path + ":" + path }

func TestGoDocker(t *testing.T) {
	e := dockerEngine(t)
	image, input, output := goImage(t, e), textFolder(t), t.TempDir()
	s := startServerWith(t, []string{"--docker-mount", same(input) + ":ro", "--docker-mount", same(output)}, "DOCKER_HOST="+e.Host)
	out := s.goPipeline(wordcount(t), "--input", input, "--ext", ".txt", "--top", "3", "--output", filepath.Join(output, "counts"),
		"--environment_type", "DOCKER", "--environment_config", image, "--worker_binary", staticWordcount(t)).ok(t)
	checkCounts(t, out.stdout)
}

func TestEnvironmentsOverride(t *testing.T) {
	e := dockerEngine(t)
	image, input, output := goImage(t, e), textFolder(t), t.TempDir()
	// PROCESS asked for, with a command that there isn't, and a container had.
	s := startServerWith(t, []string{"--environments", "go=DOCKER:" + image, "--docker-pull", "never",
		"--docker-mount", same(input) + ":ro", "--docker-mount", same(output)}, "DOCKER_HOST="+e.Host)
	out := s.goPipeline(wordcount(t), "--input", input, "--ext", ".txt", "--top", "3", "--output", filepath.Join(output, "counts"),
		"--environment_type", "PROCESS", "--environment_config", `{"command": "/no/such/boot"}`, "--worker_binary", staticWordcount(t)).ok(t)
	checkCounts(t, out.stdout)
}

func TestDockerWithoutEngineIsRefused(t *testing.T) {
	s := startServer(t, "DOCKER_HOST=unix:///no/engine.sock")
	out := s.goPipeline(wordcount(t), "--input", textFolder(t), "--ext", ".txt",
		"--environment_type", "DOCKER", "--environment_config", "127.0.0.1:1/beam_go_sdk:test", "--worker_binary", wordcount(t))
	for _, want := range []string{"127.0.0.1:1/beam_go_sdk:test", "unix:///no/engine.sock", "start a Docker engine", "--environments 'go=TYPE:CONFIG'"} {
		if out.err == nil || !strings.Contains(out.stderr, want) {
			t.Errorf("%v; the program's error output lacks %q:\n%s", out.err, want, out.stderr)
		}
	}
}

// neverConnects is a worker that does nothing.
var neverConnects = testkit.Program(&built.dir, "never-connects", root, "./fnapi/environment/docker/testdata/worker", "CGO_ENABLED=0")

func TestKilledServerLeavesNoContainers(t *testing.T) {
	e := dockerEngine(t)
	image := makeImage(t, e, dockertest.Image{
		Name:    "127.0.0.1:1/never-connects:test",
		Files:   map[string]string{"/worker": neverConnects(t)},
		Changes: []string{`ENTRYPOINT ["/worker"]`, `ENV ENVIRONMENTTEST_BEHAVIOUR="never connects"`},
	})
	s := startServer(t, "DOCKER_HOST="+e.Host)
	pipeline := make(chan outcome, 1)
	go func() {
		pipeline <- s.goPipeline(wordcount(t), "--input", textFolder(t), "--ext", ".txt",
			"--environment_type", "DOCKER", "--environment_config", image, "--worker_binary", wordcount(t))
	}()
	containers := func() int {
		names, err := e.Containers(t.Context(), "")
		if err != nil {
			t.Error(err)
		}
		return len(names)
	}
	testkit.Eventually(t, time.Minute, "a container", func() bool { return containers() > 0 })
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	s.cmd = nil
	testkit.Eventually(t, time.Minute, "the end of the containers", func() bool { return containers() == 0 })
	if out := <-pipeline; out.err == nil {
		t.Error("the pipeline succeeded")
	}
	testkit.Eventually(t, time.Minute, "the end of the guard", func() bool {
		left, err := proctree.WithEnv("DOCKER_HOST=" + e.Host)
		return err == nil && len(left) == 0
	})
}
