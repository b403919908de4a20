// Package faults makes life hard for the real binary with real pipelines: too little memory, a
// full disk, many jobs, clients and workers that misbehave.
//
// What runs by default is `make faults-short`; `make faults` runs all (-long).
package faults

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

var long = flag.Bool("long", false, "the whole set, at full size: an hour and 8 GiB of disk")

// root is the repository's folder.
var root = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}()

var binaries string // folder of what the tests run

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lintel-faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	lintelBinary = testkit.Program(&binaries, "lintel", root, "./cmd/lintel", "CGO_ENABLED=0", tags("disable_grpc_modules")) // as it is released
	failing      = testkit.Program(&binaries, "failing", root, "./cmd/lintel", "CGO_ENABLED=0", tags("disable_grpc_modules,failpoints"))
	pipelines    = testkit.Program(&binaries, "pipelines", filepath.Join(root, "integration", "faults", "pipelines"), ".", "CGO_ENABLED=0") // for images of nothing else
)

// tags has go build use some, and what else its flags are.
func tags(list string) string { return "GOFLAGS=" + os.Getenv("GOFLAGS") + " -tags=" + list }

// server is a `lintel dev` process of one test.
type server struct {
	t   *testing.T
	cmd *exec.Cmd
	log *os.File
	// ready is the file that tells the addresses.
	ready string
	jobs  string // address of the job endpoint
	http  string // URL of the HTTP endpoint
	done  chan error
	// workers are those of its pipelines, if a test asks.
	workers *workers
	// killed is true once the test has ended it.
	killed bool
}

// startServer starts a server on free ports with its data in dir, and waits until it is ready. At
// the test's end it has to end in time, and nothing that it started may be left.
func startServer(t *testing.T, dir string, flags ...string) *server {
	t.Helper()
	s := launch(t, lintelBinary(t), dir, nil, flags...)
	s.awaitReady()
	return s
}

// launch starts a server, which may not come to be ready, with more entries in its environment.
func launch(t *testing.T, binary, dir string, env []string, flags ...string) *server {
	t.Helper()
	testkit.Leaks(t)
	s := &server{t: t, ready: filepath.Join(t.TempDir(), "ready"), done: make(chan error, 1)}
	var err error
	if s.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	args := []string{"dev", "--job-port", "0", "--http-port", "0", "--data-dir", filepath.Join(dir, "data"), "--ready-file", s.ready}
	s.cmd = exec.Command(binary, append(args, flags...)...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(s.stop)
	return s
}

func (s *server) awaitReady() {
	s.t.Helper()
	var at struct{ JobEndpoint, HTTP string }
	testkit.Eventually(s.t, 20*time.Second, "the server is ready", func() bool {
		b, err := os.ReadFile(s.ready)
		return err == nil && json.Unmarshal(b, &at) == nil
	})
	s.jobs, s.http = at.JobEndpoint, at.HTTP
}

func (s *server) stop() {
	s.t.Helper()
	defer s.log.Close()
	if s.killed {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Errorf("stopping the server: %v", err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("the server ended with: %v", err)
		}
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		s.t.Errorf("the server had to be killed: %v", <-s.done)
	}
	if s.t.Failed() {
		log, _ := os.ReadFile(s.log.Name())
		s.t.Logf("the end of the server's log:\n%s", log[max(0, len(log)-8000):])
	}
}

// run runs a pipeline, its functions in the pipeline's own process unless args say otherwise, and
// returns the end of what it printed.
func (s *server) run(args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.Command(pipelines(s.t), append([]string{"--endpoint", s.jobs, "--environment_type", "LOOPBACK"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "GOMEMLIMIT=2GiB")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	kill := time.AfterFunc(10*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	kill.Stop()
	text := out.String()
	return text[max(0, len(text)-32_000):], err
}

func (s *server) mustRun(args ...string) {
	s.t.Helper()
	if out, err := s.run(args...); err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// page reads what the HTTP endpoint has at a path.
func (s *server) page(path string) []byte {
	s.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(s.http + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// metric reads a metric, whose name has its labels.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	for line := range strings.Lines(string(s.page("/metrics"))) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	s.t.Fatalf("no metric %s", name)
	return 0
}

// status reads a figure of the server's process in KiB: VmHWM, VmRSS.
func (s *server) status(name string) int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				s.t.Fatal(err)
			}
			return kib
		}
	}
	s.t.Fatalf("no %s in the status of a process", name)
	return 0
}
