package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// breakable is a job whose workers can't be started while a file is there.
type breakable struct {
	*server
	broken string // the file
}

// startBreakable starts a server with such a job.
func startBreakable(t *testing.T, elements int, observed string, options ...string) *breakable {
	t.Helper()
	dir := t.TempDir()
	b := &breakable{startServer(t, dir), filepath.Join(dir, "broken")}
	script := filepath.Join(dir, "worker")
	text := fmt.Sprintf("#!/bin/sh\n[ -e %q ] && { echo the machine is on fire; exit 7; }\nexec %q \"$@\"\n", b.broken, pipelines(t))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	b.submitExact(elements, observed, append(options, "--every", slowEvery.String(), "--environment_config", fmt.Sprintf(`{"command":%q}`, script))...)
	testkit.Eventually(t, time.Minute, "a first checkpoint", func() bool { return strings.Contains(b.onlyLog(), "first checkpoint, 1") })
	return b
}

// fail kills the job's workers, and lets none be started until mend.
func (b *breakable) fail() {
	b.t.Helper()
	if err := os.WriteFile(b.broken, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	workers, err := proctree.Descendants(b.cmd.Process.Pid)
	if err != nil || len(workers) == 0 {
		b.t.Fatalf("%d workers, %v", len(workers), err)
	}
	for _, w := range workers {
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			b.t.Fatal(err)
		}
	}
}

func (b *breakable) mend() {
	b.t.Helper()
	if err := os.Remove(b.broken); err != nil {
		b.t.Fatal(err)
	}
}

var restarting = regexp.MustCompile(`the job failed, and goes on from its newest checkpoint in ([^:]+): `)

// delays are those of the job's restarts, as its log has them.
func (b *breakable) delays() string {
	b.t.Helper()
	var all []string
	for _, m := range restarting.FindAllStringSubmatch(b.onlyLog(), -1) {
		all = append(all, m[1])
	}
	return strings.Join(all, " ")
}

func (b *breakable) awaitDelays(want string) {
	b.t.Helper()
	testkit.Eventually(b.t, time.Minute, "restarts after "+want, func() bool { return b.delays() == want })
}

// What the options of restarts say is what a job does: it waits longer each time, goes on once its workers can be started, and begins to
// count anew after the window.
func TestRestartsOfAJob(t *testing.T) {
	const elements = 400
	observed := filepath.Join(t.TempDir(), "observed")
	b := startBreakable(t, elements, observed, "--restart_attempts", "2", "--restart_window", "4s", "--restart_delay", "200ms", "--restart_max_delay", "3s")
	b.fail()
	b.awaitDelays("200ms 400ms")
	b.mend()
	testkit.Eventually(t, time.Minute, "the job goes on", func() bool { return strings.Contains(b.onlyLog(), "the job goes on from checkpoint ") })
	time.Sleep(5 * time.Second) // the window
	b.fail()
	b.awaitDelays("200ms 400ms 200ms 400ms")
	b.mend()
	b.awaitExact(time.Duration(elements) * slowEvery)
	checkObserved(t, observed)
}

// A job that has been started again as often as it may fails with the reason, and keeps its checkpoints.
func TestRestartsEnd(t *testing.T) {
	for attempts, want := range map[string]string{"3": "200ms 300ms 300ms", "0": ""} {
		b := startBreakable(t, 400, os.DevNull, "--restart_attempts", attempts, "--restart_delay", "200ms", "--restart_max_delay", "300ms")
		b.fail()
		b.awaitFailed()
		if got := b.delays(); got != want || !strings.Contains(b.onlyLog(), "the machine is on fire") {
			t.Errorf("%s attempts: restarts after %q, want %q:\n%s", attempts, got, want, b.onlyLog())
		}
		if n := b.footprint().processes; n > 0 {
			t.Errorf("%s attempts: %d processes are left", attempts, n)
		}
	}
}

// What the pipeline's own functions do wrong is tried again as a bundle, and not as a job.
func TestUserErrorsDoNotRestart(t *testing.T) {
	s := startServer(t, t.TempDir())
	out, err := s.run(append(s.environment(), "--case", "failing", "--stream", "--checkpoint_interval", "300ms")...)
	if log := s.onlyLog(); err == nil || !strings.Contains(out, "as it was told") || restarting.MatchString(log) {
		t.Errorf("%v\n%s\n%s", err, out, log)
	}
}
