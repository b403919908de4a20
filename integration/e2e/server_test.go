// Package e2e runs the real binary with real pipelines of the examples.
package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// stopWithin is how long a server has to end after Ctrl-C.
const stopWithin = 10 * time.Second

// server is a `lintel dev` process of one test.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  safeBuffer
	jobs string // address of the job endpoint
	http string // address of the HTTP endpoint
	done chan error
}

// startServer starts a server on free ports, with more entries in its environment,
// and waits until it is ready. The test fails if the server doesn't end in time at
// its end, or if any process that it started is left then.
func startServer(t *testing.T, env ...string) *server {
	t.Helper()
	return startServerWith(t, nil, env...)
}

// startServerWith is startServer with more flags of lintel dev.
func startServerWith(t *testing.T, flags []string, env ...string) *server {
	t.Helper()
	testkit.Leaks(t)
	s := &server{t: t, jobs: freeAddr(t), http: freeAddr(t), done: make(chan error, 1)}
	_, jobPort, _ := net.SplitHostPort(s.jobs)
	_, httpPort, _ := net.SplitHostPort(s.http)
	dir := t.TempDir()
	args := []string{"dev", "--job-port", jobPort, "--http-port", httpPort, "--data-dir", filepath.Join(dir, "data")}
	s.cmd = exec.Command(lintelBinary(t), append(args, flags...)...)
	s.cmd.Env = append(os.Environ(), append(env, "TMPDIR="+dir)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Dir = dir // Beam's boot program for Python writes to the working folder
	// A group of its own, so that an interrupt of the tests does not reach it first.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(s.stop)
	s.waitReady()
	return s
}

func (s *server) waitReady() {
	s.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-s.done:
			s.done <- err
			s.t.Fatalf("the server ended: %v\n%s", err, s.log.String())
		default:
		}
		r, err := client.Get("http://" + s.http + "/readyz")
		if err != nil {
			continue
		}
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return
		}
	}
	s.t.Fatalf("the server did not get ready\n%s", s.log.String())
}

// stop is idempotent.
func (s *server) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	cmd := s.cmd
	s.cmd = nil
	started := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Errorf("stopping the server: %v", err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("the server ended with: %v", err)
		}
	case <-time.After(stopWithin):
		_ = cmd.Process.Kill()
		<-s.done
		s.t.Errorf("the server had not ended %v after an interrupt", time.Since(started).Round(time.Second))
	}
	if s.t.Failed() {
		s.t.Logf("the server's log:\n%s", s.log.String())
	}
}

// lintel runs a command of the binary against the server.
func (s *server) lintel(args ...string) outcome {
	s.t.Helper()
	return runLintel(s.t, append(args, "--endpoint", s.jobs)...)
}

// runLintel runs a command of the binary.
func runLintel(t *testing.T, args ...string) outcome {
	t.Helper()
	return run(t, exec.Command(lintelBinary(t), args...))
}

// goPipeline runs a pipeline of the Go SDK against the server.
func (s *server) goPipeline(path string, args ...string) outcome {
	s.t.Helper()
	return run(s.t, exec.Command(path, append(args, "--endpoint", s.jobs)...))
}

// pythonPipeline runs a pipeline of examples/python against the server.
func (s *server) pythonPipeline(script string, args ...string) outcome {
	s.t.Helper()
	script = filepath.Join(root, "examples", "python", script)
	args = append([]string{script, "--runner", "PortableRunner", "--job_endpoint", s.jobs}, args...)
	return run(s.t, exec.Command(testkit.Python(s.t, root), args...))
}

// outcome is what a command printed and how it ended.
type outcome struct {
	stdout, stderr string
	err            error
}

// ok fails the test unless the command succeeded.
func (o outcome) ok(t *testing.T) outcome {
	t.Helper()
	if o.err != nil {
		t.Fatalf("%v\n%s\n%s", o.err, o.stdout, o.stderr)
	}
	return o
}

// run lets a command run for two minutes at most; then it and its children are killed.
func run(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !kill.Stop() {
		err = fmt.Errorf("killed after two minutes: %s", strings.Join(cmd.Args, " "))
	}
	return outcome{stdout.String(), stderr.String(), err}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// safeBuffer may be read while a process writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
