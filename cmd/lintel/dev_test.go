package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/jobclient"
)

// dev is a lintel dev in a process of its own, with a data directory of its own.
type dev struct {
	*exec.Cmd
	addresses
	took   time.Duration // from its start to "ready"
	stderr *bytes.Buffer
	stdout sync.WaitGroup
}

func devCommand(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Args = append([]string{"lintel", "dev"}, args...)
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr
}

func startDev(t *testing.T, dir string, more ...string) *dev {
	t.Helper()
	ready := filepath.Join(dir, "ready.json")
	args := []string{"--job-port=0", "--http-port=0", "--data-dir=" + filepath.Join(dir, "data"), "--ready-file=" + ready}
	cmd, stderr := devCommand(t, append(args, more...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &dev{Cmd: cmd, stderr: stderr}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all is well
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
	}
	d.took = time.Since(begin)
	d.stdout.Go(func() { _, _ = io.Copy(io.Discard, out) })
	b, err := os.ReadFile(ready)
	if err != nil {
		t.Fatalf("no ready file: %v; %s", err, stderr)
	}
	if err := json.Unmarshal(b, &d.addresses); err != nil {
		t.Fatal(err)
	}
	return d
}

// end sends a signal and waits for the end.
func (d *dev) end(t *testing.T, signal os.Signal) {
	t.Helper()
	begin := time.Now()
	if err := d.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	d.stdout.Wait()
	if err := d.Wait(); err != nil {
		t.Errorf("after %v: %v; %s", signal, err, d.stderr)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v to end", took)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestDevServesUntilItIsInterrupted(t *testing.T) {
	testkit.Leaks(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := t.TempDir()
		d := startDev(t, dir)
		for path, want := range map[string]string{
			"/healthz": "ok", "/readyz": "ready", "/v1/jobs": `"jobs": []`, "/v1/version": `"beam": "v2.`, "/metrics": "lintel_harnesses 0",
		} {
			if code, body := get(t, d.HTTP+path); code != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
		c, err := jobclient.New(d.JobEndpoint)
		if err != nil {
			t.Fatal(err)
		}
		if jobs, err := c.List(t.Context()); err != nil || len(jobs) > 0 {
			t.Errorf("jobs of a new server: %v, %v", jobs, err)
		}
		c.Close()
		d.end(t, signal)
		if _, err := os.Stat(filepath.Join(dir, "ready.json")); !os.IsNotExist(err) {
			t.Errorf("the ready file is still there: %v", err)
		}
	}
}

func TestDevProfilesItself(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	profile := filepath.Join(dir, "cpu.pprof")
	startDev(t, dir, "--cpu-profile="+profile).end(t, os.Interrupt)
	// Profiles are compressed; an unfinished one is empty.
	if b, err := os.ReadFile(profile); err != nil || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		t.Errorf("the profile is %d bytes, %v", len(b), err)
	}
}

func TestDevIsReadyFast(t *testing.T) {
	testkit.Leaks(t)
	best := time.Hour
	for range 5 {
		d := startDev(t, t.TempDir())
		best = min(best, d.took)
		d.end(t, os.Interrupt)
	}
	t.Logf("ready after %v", best)
	if best > 300*time.Millisecond {
		t.Errorf("the fastest of 5 starts took %v, want at most 300ms", best)
	}
}

func TestSmallBudgetsAreToldOf(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // the test's own memory is not limited
	for budget, told := range map[int64]bool{0: false, 32 << 20: true, usefulMemory: false} {
		var log strings.Builder
		limitMemory(budget, newLog(&log, "info", "text"))
		if got := strings.Contains(log.String(), "budget=32M least=64M"); got != told {
			t.Errorf("a budget of %d: %q", budget, log.String())
		}
	}
}

func TestGarbageIsCollectedOnceItIsMuch(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off")
	limitMemory(0, newLog(io.Discard, "info", "text"))
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	if metrics.Read(goal); goal[0].Value.Uint64() < 16<<20 {
		t.Errorf("garbage is collected at %d bytes", goal[0].Value.Uint64())
	}
}

func TestAllOfTheServerKeepsToTheBudget(t *testing.T) {
	last := int64(0)
	for budget := int64(16 << 20); budget <= 4<<30; budget += 1 << 20 {
		heap := heapLimit(budget)
		server := heap + programBytes
		if heap < last || budget >= usefulMemory && 10*server > 13*budget || budget >= 144<<20 && server > budget {
			t.Fatalf("a budget of %d allows %d of heap, %d in all, after %d of a smaller one", budget, heap, server, last)
		}
		last = heap
	}
}

func TestDevRefuses(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	d := startDev(t, dir)
	_, taken, err := net.SplitHostPort(d.JobEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	other := "--data-dir=" + filepath.Join(dir, "other")
	for _, c := range []struct {
		code int
		want []string
		args []string
	}{
		{1, []string{"data directory", "in use by process " + strings.TrimSpace(readLock(t, dir)), "--data-dir"},
			[]string{"--job-port=0", "--http-port=0", "--data-dir=" + filepath.Join(dir, "data")}},
		{1, []string{"job port " + taken + " on 127.0.0.1 is in use", "--job-port"}, []string{"--job-port=" + taken, "--http-port=0", other}},
		{1, []string{"http port " + taken + " on 127.0.0.1 is in use", "--http-port"}, []string{"--job-port=0", "--http-port=" + taken, other}},
		{2, []string{"--bind 0.0.0.0", "--insecure"}, []string{"--bind=0.0.0.0", other}},
		{2, []string{"--job-port 70000"}, []string{"--job-port=70000", other}},
		{2, []string{"--job-retention 0s"}, []string{"--job-retention=0s", other}},
		{2, []string{"--prepared-retention -1h"}, []string{"--prepared-retention=-1h", other}},
		{2, []string{"memory-budget", "512M"}, []string{"--memory-budget=lots", other}},
		{2, []string{"--memory-budget 15M", "16M or more"}, []string{"--memory-budget=15M", other}},
		{1, []string{"--cpu-profile", "no such file"}, []string{"--cpu-profile=" + filepath.Join(dir, "no", "profile"), other}},
		{1, []string{"not a directory"}, []string{"--job-port=0", "--http-port=0", "--data-dir=" + filepath.Join(dir, "ready.json")}},
	} {
		cmd, stderr := devCommand(t, c.args...)
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("dev %v: %v, want exit code %d", c.args, err, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("dev %v says %q, which lacks %q", c.args, stderr, want)
			}
		}
	}
	d.end(t, os.Interrupt)
	// What it held is free again.
	again := startDev(t, dir)
	again.end(t, os.Interrupt)
}

func readLock(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServerLeavesNothingInItsProcess(t *testing.T) {
	testkit.Leaks(t)
	c := serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	s, err := startServer(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ready(); err != nil {
		t.Errorf("after the start: %v", err)
	}
	// The same directory again fails half-way, and takes nothing with it.
	if _, err := startServer(c); err == nil {
		t.Error("two servers share a data directory")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.stop(ctx)
	if err := s.ready(); err == nil || err.Error() != "stopping" {
		t.Errorf("after the stop: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("an idle server took all the time it was given")
	}
}
