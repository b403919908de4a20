package faults

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// hostPort takes the scheme off a URL.
func hostPort(url string) string { return strings.TrimPrefix(url, "http://") }

// Clients that connect and say nothing, or half of something, cost a file each until they go,
// and keep nobody else from being served.
func TestSilentClients(t *testing.T) {
	s := startServer(t, t.TempDir(), "--memory-budget", "64M")
	s.mustRun("--case", "group", "--n", "100")
	before := s.footprint()
	var open []net.Conn
	for i := range 300 {
		for _, at := range []string{s.jobs, hostPort(s.http)} {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
			beginnings := []string{"", "GET / HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04"}
			if _, err := c.Write([]byte(beginnings[i%len(beginnings)])); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.mustRun("--case", "group", "--n", "100")
	for _, c := range open {
		c.Close()
	}
	testkit.Eventually(t, 30*time.Second, "their connections are gone", func() bool {
		after := s.footprint()
		return after.files <= before.files && after.goroutines <= before.goroutines+before.goroutines/20
	})
	if top := s.status("VmHWM") >> 10; top > 83 {
		t.Errorf("%d MiB at the most, of a budget of 64", top)
	}
}

// asWorker makes a shell script the command of a pipeline's workers.
func asWorker(t *testing.T, script string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"--case", "group", "--n", "100", "--environment_type", "PROCESS",
		"--environment_config", fmt.Sprintf(`{"command":%q}`, path), "--worker_binary", filepath.Join(root, "LICENSE")}
}

// A hundred thousand messages of a kilobyte, which the job's log has not got room for.
func TestFloodOfMessages(t *testing.T) {
	s := startServer(t, t.TempDir(), "--memory-budget", "64M")
	args := asWorker(t, fmt.Sprintf("exec %q \"$@\"", pipelines(t)))
	s.mustRun(append(args, "--case", "talking", "--n", "100")...)
	if top := s.status("VmHWM") >> 10; top > 83 {
		t.Errorf("%d MiB at the most, of a budget of 64", top)
	}
	var list struct{ Jobs []struct{ ID string } }
	s.lintel(&list, "jobs", "list")
	out, err := exec.Command(lintelBinary(t), "jobs", "logs", list.Jobs[0].ID, "--endpoint", s.jobs).Output()
	if err != nil || len(out) < 1<<20 || len(out) > 16<<20 {
		t.Errorf("%v: %d bytes of the job's log are left", err, len(out))
	}
}

// A worker that prints without end costs neither memory nor the server.
func TestFloodOfOutput(t *testing.T) {
	s := startServer(t, t.TempDir(), "--memory-budget", "64M")
	out, err := s.run(asWorker(t, "yes 'round and round' | head -c 100000000; echo the last words; exit 3")...)
	if err == nil || !strings.Contains(out, "the last words") {
		t.Errorf("%v, and the client was not told the worker's last words:\n%s", err, out)
	}
	out, err = s.run(asWorker(t, "head -c 100000000 /dev/zero; exit 3")...) // one line
	if err == nil {
		t.Errorf("a job without a worker has not failed:\n%s", out)
	}
	if top := s.status("VmHWM") >> 10; top > 83 {
		t.Errorf("%d MiB at the most, of a budget of 64", top)
	}
	s.mustRun("--case", "group", "--n", "100")
}

// A job whose worker never connects can be cancelled, and its process ends with it.
func TestWorkerThatNeverConnects(t *testing.T) {
	s := startServer(t, t.TempDir())
	ended := make(chan error, 1)
	args := asWorker(t, "exec sleep 1000")
	go func() {
		_, err := s.run(args...)
		ended <- err
	}()
	testkit.Eventually(t, 30*time.Second, "the worker is started", func() bool { return s.footprint().processes > 0 })
	list, err := exec.Command(lintelBinary(t), "jobs", "list", "--endpoint", s.jobs, "--output", "json").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, list)
	}
	_, rest, _ := strings.Cut(string(list), `"id": "`)
	id, _, _ := strings.Cut(rest, `"`)
	if out, err := exec.Command(lintelBinary(t), "jobs", "cancel", id, "--endpoint", s.jobs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, list)
	}
	testkit.Eventually(t, 15*time.Second, "the worker has ended", func() bool { return s.footprint().processes == 0 })
	select {
	case <-ended: // without an error: the Go SDK has none for a cancelled job
	case <-time.After(15 * time.Second):
		t.Error("the client of a cancelled job waits")
	}
}

// An element that kills whoever touches it fails its job, with the worker's last words, and nothing else.
func TestPoisonElements(t *testing.T) {
	s := startServer(t, t.TempDir())
	for how, says := range map[string]string{"error": "as it was told", "crash": "SIGSEGV", "exhaust": "out of memory"} {
		args := asWorker(t, fmt.Sprintf("ulimit -v 3000000; exec %q \"$@\"", pipelines(t)))
		out, err := s.run(append(args, "--case", "failing", "--how", how)...)
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%s: %v, and the client was not told %q:\n%s", how, err, says, out)
		}
		s.mustRun("--case", "group", "--n", "100")
		if n := s.footprint().processes; n > 0 {
			t.Errorf("%s: %d processes are left", how, n)
		}
	}
}

// A worker that has connected and is then stopped in its tracks answers nothing any more, not
// even the wish that it end; its job can be cancelled all the same.
func TestWorkerThatConnectsAndHangs(t *testing.T) {
	s := startServer(t, t.TempDir())
	args := asWorker(t, fmt.Sprintf("(sleep 0.5; kill -STOP $$) & exec %q \"$@\"", pipelines(t)))
	begin := time.Now()
	if out, err := s.run(append(args, "--case", "hanging", "--cancel_after", "2s")...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	testkit.Eventually(t, 15*time.Second, "the worker has ended", func() bool { return s.footprint().processes == 0 })
	t.Logf("cancelled, it ended after %v", time.Since(begin))
	s.mustRun("--case", "group", "--n", "100")
}
