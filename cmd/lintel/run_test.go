package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/lintelrun/lintel/internal/testkit"
)

func TestInterruptedRunCancelsItsJobs(t *testing.T) {
	testkit.Leaks(t)
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		f, err := newFakeServer()
		if err != nil {
			t.Fatal(err)
		}
		python := filepath.Join(t.TempDir(), "python3")
		if err := os.Symlink(os.Args[0], python); err != nil {
			t.Fatal(err)
		}
		// The program ends at once and leaves a job that runs for ever.
		cmd := exec.Command(os.Args[0])
		cmd.Args = []string{"lintel", "run", "--endpoint=" + f.endpoint, "--", python, "wc.py", "RUNNING"}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if strings.HasSuffix(lines.Text(), "is not enough") { // the last that the job says
				if err := cmd.Process.Signal(signal); err != nil {
					t.Error(err)
				}
			}
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != code {
			t.Errorf("after %v: %v, want exit code %d\n%s", signal, err, code, log.String())
		}
		if !strings.Contains(log.String(), "STATE  CANCELLED") {
			t.Errorf("after %v the log doesn't tell of the cancelling:\n%s", signal, log.String())
		}
		f.mu.Lock()
		for _, j := range f.jobs {
			want := j.end
			if j.name == "RUNNING" {
				want = jobpb.JobState_CANCELLED
			}
			if j.state != want {
				t.Errorf("after %v job %s is %v, want %v", signal, j.id, j.state, want)
			}
		}
		f.mu.Unlock()
		f.stop()
	}
}
