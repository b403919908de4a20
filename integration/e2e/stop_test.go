package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/proctree"
)

// TestInterruptEndsHarnesses stops the server in the middle of a job whose harness it
// started; startServer's own checks see to it that it ends in time and leaves nothing.
func TestInterruptEndsHarnesses(t *testing.T) {
	s := startServer(t)
	client := make(chan outcome, 1)
	// More text than can be counted before the interrupt.
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	sources := filepath.Join(strings.TrimSpace(string(goroot)), "src")
	path := wordcount(t)
	args := []string{"--input", sources, "--environment_type", "PROCESS", "--worker_binary", path,
		"--environment_config", fmt.Sprintf(`{"command": %q}`, goWorker(t))}
	go func() { client <- s.goPipeline(path, args...) }()

	s.waitHarness(client)
	s.stop()
	if out := <-client; out.err == nil {
		t.Errorf("the pipeline's program succeeded though its job was cut off:\n%s", out.stdout)
	}
}

// waitHarness waits until the server has a running job and a process below it.
func (s *server) waitHarness(client chan outcome) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case out := <-client:
			s.t.Fatalf("the pipeline's program ended already: %v\n%s\n%s", out.err, out.stdout, out.stderr)
		default:
		}
		below, err := proctree.Descendants(s.cmd.Process.Pid)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(below) > 0 && s.running() {
			return
		}
	}
	s.t.Fatal("no harness was started within a minute")
}

func (s *server) running() bool {
	s.t.Helper()
	var list struct{ Jobs []struct{ State string } }
	out := s.lintel("jobs", "list", "--output", "json").ok(s.t)
	if err := json.Unmarshal([]byte(out.stdout), &list); err != nil {
		s.t.Fatal(err)
	}
	return len(list.Jobs) == 1 && list.Jobs[0].State == "RUNNING"
}

// TestPortInUse wants a server that can't have its port to say which, and to end.
func TestPortInUse(t *testing.T) {
	s := startServer(t)
	port := s.jobs[strings.LastIndex(s.jobs, ":")+1:]
	out := runLintel(t, "dev", "--job-port", port, "--http-port", "0", "--data-dir", t.TempDir())
	if out.err == nil || !strings.Contains(out.stderr, port) {
		t.Errorf("got %v and %q, want an error that names port %s", out.err, out.stderr, port)
	}
}
