package faults

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/jobclient"
)

// jobsNamed returns the states of all jobs of a name, by id.
func (s *server) jobsNamed(name string) map[string]string {
	s.t.Helper()
	var list struct {
		Jobs []struct{ ID, Name, State string }
	}
	s.lintel(&list, "jobs", "list")
	states := map[string]string{}
	for _, j := range list.Jobs {
		if j.Name == name {
			states[j.ID] = j.State
		}
	}
	return states
}

// evolving is a job whose pipeline is changed while it runs.
type evolving struct {
	*server
	observed string
}

// args are those of a variant of the pipeline.
func (e *evolving) args(variant string, more ...string) []string {
	return append(append(e.environment(), "--case", "evolve", "--variant", variant, "--every", "20ms", "--checkpoint_interval", "500ms",
		"--observed", e.observed, "--job_name", "evolving", "--async"), more...)
}

// lines are those that were written by now.
func (e *evolving) lines() []string {
	e.t.Helper()
	b, err := os.ReadFile(e.observed)
	if err != nil && !os.IsNotExist(err) {
		e.t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	return lines[:len(lines)-1]
}

// awaitMore waits until the job has worked on.
func (e *evolving) awaitMore(what string) {
	e.t.Helper()
	had := len(e.lines())
	testkit.Eventually(e.t, time.Minute, "more output "+what, func() bool { return len(e.lines()) >= had+10 })
}

// running returns the one job that runs.
func (e *evolving) running() string {
	e.t.Helper()
	ids := ""
	testkit.Eventually(e.t, time.Minute, "one job runs", func() bool {
		ids = ""
		for id, state := range e.jobsNamed("evolving") {
			if state == "RUNNING" {
				ids += id
			}
		}
		return ids != ""
	})
	return ids
}

// pipeline writes that of a job to a file.
func (e *evolving) pipeline(job, file string) {
	e.t.Helper()
	c, err := jobclient.New(e.jobs)
	if err != nil {
		e.t.Fatal(err)
	}
	defer c.Close()
	p, err := c.Pipeline(e.t.Context(), job)
	if err != nil {
		e.t.Fatal(err)
	}
	b, err := proto.Marshal(p)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// follower is a command that follows a job.
type follower struct {
	out  string // the file with what it has printed
	news bytes.Buffer
	wait func() error
}

// follow starts a command.
func (e *evolving) follow(args ...string) *follower {
	e.t.Helper()
	out, err := os.Create(filepath.Join(e.t.TempDir(), "out"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer out.Close()
	f := &follower{out: out.Name()}
	cmd := exec.Command(lintelBinary(e.t), args...)
	cmd.Stdout, cmd.Stderr = out, &f.news
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	f.wait = sync.OnceValue(cmd.Wait)
	e.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all is well
		_ = f.wait()
	})
	return f
}

// said returns what it has printed by now.
func (f *follower) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(f.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A job is stopped with a savepoint and goes on, is updated, and changed: each element is counted once, whatever was done.
// Updates that would lose or misread state are refused, with all that stands in the way, before anything is stopped (fault 26).
func TestStateOutlivesPipelines(t *testing.T) {
	dir := t.TempDir()
	e := &evolving{startServer(t, dir), filepath.Join(dir, "observed")}
	e.mustRun(e.args("first")...)
	e.awaitMore("at first")
	first := e.running()

	for _, c := range []struct {
		args []string
		want []string
	}{
		{e.args("renamed", "--update"), []string{`state "count" is gone`}},
		{e.args("dropped", "--update"), []string{"main.number", "it has state, which would be lost"}},
		{e.args("text", "--update"), []string{"dropped: main.number"}},
		{e.args("text", "--update", "--transform_name_mapping", `{"main.number": "main.numberText"}`), []string{`state "last" has coder`}},
		{e.args("first", "--update", "--allow_dropped_state", "nobody"), []string{"nobody"}},
	} {
		out, err := e.run(c.args...)
		out = strings.ReplaceAll(out, `\"`, `"`)
		for _, text := range c.want {
			if err == nil || !strings.Contains(out, text) {
				t.Errorf("%q: %v, without %q\n%s", c.args, err, text, out)
			}
		}
	}
	if states := e.jobsNamed("evolving"); len(states) != 1 || states[first] != "RUNNING" {
		t.Errorf("after updates that were refused: %v", states)
	}
	e.awaitMore("after updates that were refused")

	var stopped struct{ State, Savepoint string }
	e.lintel(&stopped, "jobs", "stop", first, "--savepoint")
	var has struct{ Job string }
	e.lintel(&has, "jobs", "savepoint", "inspect", stopped.Savepoint)
	if stopped.State != "CANCELLED" || has.Job != first {
		t.Errorf("the job is stopped: %+v, with a savepoint of %+v", stopped, has)
	}
	at := len(e.lines())
	command := append([]string{"run", "--endpoint", e.jobs, "--sdk", "go", "--from", stopped.Savepoint, "--", pipelines(t)}, e.args("first")...)
	f := e.follow(command...) // to the end of the last job, as it follows all that are new
	e.awaitMore("from the savepoint")
	if len(e.lines()) == at {
		t.Error("nothing was stopped")
	}
	second := e.running()

	// By a file, which is as the job was; and by the program, with one of its states given up.
	file := filepath.Join(dir, "pipeline.pb")
	e.pipeline(second, file)
	e.lintel(nil, "jobs", "update", second, file)
	e.awaitMore("after an update by a file")
	third := e.running()
	e.mustRun(e.args("text", "--update", "--transform_name_mapping", `{"main.number": "main.numberText"}`, "--allow_dropped_state", "main.number:last")...)
	testkit.Eventually(t, time.Minute, "the job is updated", func() bool { return e.jobsNamed("evolving")[third] == "UPDATED" })
	e.awaitMore("after an update by the program")
	fourth := e.running()
	states := e.jobsNamed("evolving")
	if want := map[string]string{first: "CANCELLED", second: "UPDATED", third: "UPDATED", fourth: "RUNNING"}; !maps.Equal(states, want) {
		t.Errorf("jobs are %v, want %v", states, want)
	}
	e.lintel(nil, "jobs", "stop", fourth, "--drain")
	if state := e.jobsNamed("evolving")[fourth]; state != "DRAINED" {
		t.Errorf("the job is %s", state)
	}
	if err := f.wait(); err != nil {
		t.Errorf("who followed the job, and those that took its place: %v\n%s\n%s", err, f.said(t), &f.news)
	}
	checkEvolved(t, e.lines())
}

// checkEvolved wants each element once, and its count to be that of those before it.
func checkEvolved(t *testing.T, lines []string) {
	t.Helper()
	by := map[string]int{}
	for n, line := range lines {
		var variant, last string
		var i, count int
		if _, err := fmt.Sscan(line, &variant, &i, &count, &last); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		by[variant]++
		want := fmt.Sprint(i - 1)
		if variant == "text" && by[variant] == 1 {
			want = "none" // the state that was given up
		}
		if i != n || count != n+1 || last != want {
			t.Fatalf("line %d is %q, want %s %d %d %s", n, line, variant, n, n+1, want)
		}
	}
	if by["first"] < 30 || by["text"] < 10 {
		t.Errorf("lines by variant: %v", by)
	}
}

// Whoever follows a job goes on doing so when its server was killed and started again.
func TestFollowersReattach(t *testing.T) {
	dir := t.TempDir()
	e := &evolving{startServer(t, dir), filepath.Join(dir, "observed")}
	e.mustRun(e.args("first")...)
	e.awaitMore("at first")
	job := e.running()
	testkit.Eventually(t, time.Minute, "there is a checkpoint", func() bool {
		var list struct{ Checkpoints []struct{ State string } }
		e.lintel(&list, "jobs", "checkpoints", job)
		return len(list.Checkpoints) > 0
	})
	f := e.follow("jobs", "logs", "--follow", job, "--endpoint", e.jobs)
	testkit.Eventually(t, time.Minute, "it follows the job", func() bool { return strings.Contains(f.said(t), "STATE  RUNNING") })
	_, port, err := net.SplitHostPort(e.jobs)
	if err != nil {
		t.Fatal(err)
	}
	e.kill()
	e.server = startServer(t, dir, "--job-port", port)
	e.awaitMore("after the server was killed")
	e.lintel(nil, "jobs", "stop", job)
	if ended := new(exec.ExitError); !errors.As(f.wait(), &ended) || ended.ExitCode() != 6 {
		t.Errorf("it ends with %v, and not as the job was stopped", f.wait())
	}
	out := f.said(t)
	for _, text := range []string{"STATE  STARTING", "STATE  RUNNING", "the server was started again", "stopped with the savepoint", "STATE  CANCELLED"} {
		if n := strings.Count(out, text); n != 1 {
			t.Errorf("%q is there %d times:\n%s", text, n, out)
		}
	}
	if !strings.Contains(f.news.String(), "trying again") {
		t.Errorf("nobody was told: %s", &f.news)
	}
}
