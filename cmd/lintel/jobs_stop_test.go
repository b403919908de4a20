package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/web/jobcontrol"
	"github.com/lintelrun/lintel/web/jobview"
)

// serve has the commands talk to the jobs of a survivor, and returns the address.
func (p *survivor) serve(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	p.Register(g)
	jobcontrol.Register(g, p.Service)
	go g.Serve(lis)
	t.Cleanup(g.Stop)
	return lis.Addr().String()
}

// A job is stopped with a savepoint, another begins with it and is replaced, all by commands.
func TestCommandsOfSavepoints(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	p := startSurvivor(t, dir)
	t.Setenv("LINTEL_ENDPOINT", p.serve(t))
	file, other := filepath.Join(dir, "words.json"), filepath.Join(dir, "other.json")
	for path, pipeline := range map[string]string{file: impulse, other: strings.Replace(impulse, `"uniqueName": "Impulse"`, `"uniqueName": "Begin"`, 1)} {
		if err := os.WriteFile(path, []byte(pipeline), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(result any, args ...string) {
		t.Helper()
		out, code := lintel(t, append(args, "-o", "json")...)
		if err := json.Unmarshal([]byte(out), result); err != nil || code != 0 {
			t.Fatalf("%q ends with %d:\n%s", args, code, out)
		}
	}
	var job jobview.Job
	run(&job, "submit", file, "--option", "checkpoint_interval=20ms")
	testkit.Eventually(t, 10*time.Second, "it runs", func() bool { return p.newest(t, job.ID) > 0 })
	if list := p.Jobs(); len(list) != 1 || list[0].Name != "words" {
		t.Errorf("jobs %+v", list)
	}

	var made jobview.Savepoint
	mine := "file://" + dir + "/savepoints/mine"
	run(&made, "jobs", "savepoint", "create", job.ID, mine)
	if made.ID != job.ID || made.State != "" || made.URI != mine || made.Bytes == 0 {
		t.Errorf("a savepoint: %+v", made)
	}
	wantLintel(t, exitFailure, []string{"jobs", "savepoint", "create", job.ID, mine}, "a savepoint at "+mine+" already")
	wantLintel(t, exitFailure, []string{"jobs", "stop", job.ID, "--savepoint=file:///elsewhere"}, "--savepoint-dir")
	wantLintel(t, exitNotFound, []string{"jobs", "stop", "nobody", "--savepoint"}, "nobody")
	run(&made, "jobs", "stop", job.ID, "--savepoint")
	if made.State != "CANCELLED" || !strings.HasPrefix(made.URI, "file://"+dir+"/savepoints/"+job.ID+"/") {
		t.Errorf("stopped: %+v", made)
	}
	wantLintel(t, 0, []string{"jobs", "checkpoints", job.ID}, "complete", "savepoint "+mine, "savepoint "+made.URI)
	wantLintel(t, 0, []string{"jobs", "savepoint", "verify", made.URI}, "is whole")

	var next, last struct{ ID, Replaces string }
	run(&next, "submit", file, "--from", made.URI, "--name", "next", "--option", "checkpoint_interval=20ms")
	testkit.Eventually(t, 10*time.Second, "it runs", func() bool { return p.newest(t, next.ID) > 0 })
	wantLintel(t, exitFailure, []string{"jobs", "update", next.ID, other}, "needs a name mapping: Impulse")
	run(&last, "jobs", "update", next.ID, other, "--transform-name-mapping", `{"Impulse": "Begin"}`, "--savepoint", "file://"+dir+"/savepoints/update")
	if last.Replaces != next.ID {
		t.Errorf("updated: %+v", last)
	}
	wantLintel(t, 0, []string{"jobs", "list"}, job.ID, "CANCELLED", "UPDATED", "RUNNING")
	runs := p.worker.deployed()
	for i, want := range map[int]string{1: job.ID, 2: next.ID} {
		if r := runs[i].d.Restore; r == nil || r.Manifest.Job.ID != want || !r.Manifest.Savepoint {
			t.Errorf("run %d begins with %+v", i, r)
		}
	}
	wantLintel(t, exitNotFound, []string{"jobs", "update", "nobody", file}, "nobody")
	wantLintel(t, exitUsage, []string{"submit", file, "--option", "parallelism"}, "NAME=VALUE")
	if _, code := lintel(t, "jobs", "cancel", last.ID); code != 0 {
		t.Errorf("cancel ends with %d", code)
	}
}
