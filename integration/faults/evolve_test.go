package faults

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	return append(append(e.asProcess(), "--case", "evolve", "--variant", variant, "--every", "20ms", "--checkpoint_interval", "500ms",
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
		{e.args("text", "--update"), []string{"needs a name mapping", "main.number"}},
		{e.args("text", "--update", "--transform_name_mapping", `{"main.number": "main.numberText"}`), []string{`state "last" has coder`}},
		{e.args("first", "--update", "--allow_dropped_state", "nobody"), []string{"nobody"}},
	} {
		out, err := e.run(c.args...)
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
	follower := exec.Command(lintelBinary(t), command...) // follows the job to its end
	if err := follower.Start(); err != nil {
		t.Fatal(err)
	}
	e.awaitMore("from the savepoint")
	if len(e.lines()) == at {
		t.Error("nothing was stopped")
	}
	second := e.running()

	// By a file, which is as the job was; and by the program, with one of its states given up.
	file := filepath.Join(dir, "pipeline.pb")
	e.pipeline(second, file)
	e.lintel(nil, "jobs", "update", second, file)
	if err := follower.Wait(); err != nil {
		t.Errorf("who followed the job that was updated: %v", err)
	}
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
