package faults

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// kill ends the server as a crash does.
func (s *server) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	<-s.done
	s.killed = true
}

// A job with checkpoints counts every element once, however often the server is killed.
func TestKilledServersLoseNothing(t *testing.T) {
	for _, o := range oracles {
		if kills := o.servers.now(); kills > 0 {
			t.Run(o.name, func(t *testing.T) { testKilledServers(t, o, kills) })
		}
	}
}

func testKilledServers(t *testing.T, o oracle, kills int) {
	random := seeded(t)
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	workers := o.workers(t, dir)
	s := start(t, dir, workers)
	takes := time.Duration(kills) * (o.restart + 500*time.Millisecond)
	o.submit(s, takes, observed)
	s.awaitOutput(observed)

	var recovered []time.Duration
	done := 0
	for ; done < kills; done++ {
		time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
		job, state := s.job()
		if state != "RUNNING" && state != "STARTING" {
			t.Logf("%s is %s", job, state) // the machine is slow, and what became of the job stands below
			break
		}
		recorded := s.checkpoints(job)
		s.kill()
		killed := time.Now()
		s = start(t, dir, workers)
		if list := s.checkpoints(job); done == 0 && (len(list) < len(recorded) || !slices.Equal(list[:len(recorded)], recorded)) {
			t.Errorf("the job's record has checkpoints %v, and had %v", list, recorded)
		}
		if done%2 == 0 { // else it may be killed while it recovers
			s.awaitOutput(observed)
			recovered = append(recovered, time.Since(killed))
		}
	}
	if done < kills/2 {
		t.Fatalf("the job ended after %d kills", done)
	}
	job := s.awaitExact(takes)
	checkObserved(t, observed)
	if o.tallies != nil {
		if got, want := s.counter(job, "tallied"), o.tallies(takes); got != float64(want) {
			t.Errorf("the job's counter is at %v, of %d elements", got, want)
		}
	}
	median, most := quantiles(recovered)
	t.Logf("%d kills; first output %v after one at the median, %v at the most", done, median, most)
	if *long && (median > o.restart || most > o.restart+7*time.Second) {
		t.Errorf("want %v at the median, and %v at the most", o.restart, o.restart+7*time.Second)
	}
	testkit.Eventually(t, 10*time.Second, "its checkpoints are removed", func() bool {
		// But for files that a killed server was writing, which a later start removes once they are old.
		left, err := filepath.Glob(filepath.Join(dir, "data", "checkpoints", "*", "[^.]*-*"))
		return err == nil && len(left) == 0
	})
}

// awaitExact waits until that job ends, which finds out whether it has counted well.
func (s *server) awaitExact(takes time.Duration) (job string) {
	s.t.Helper()
	var state string
	testkit.Eventually(s.t, 2*takes+3*time.Minute, "the job ends", func() bool {
		job, state = s.job()
		return state != "RUNNING" && state != "STARTING"
	})
	if state != "DONE" {
		s.t.Errorf("the job is %s\n%s", state, s.jobLog(job))
	}
	return job
}

// counter is the committed value of a user's counter.
func (s *server) counter(job, name string) (value float64) {
	s.t.Helper()
	var list struct {
		Metrics []struct {
			Labels    map[string]string
			Committed json.RawMessage
		}
	}
	s.lintel(&list, "jobs", "metrics", job)
	for _, m := range list.Metrics {
		if m.Labels["NAME"] != name {
			continue
		}
		var n float64
		if err := json.Unmarshal(m.Committed, &n); err != nil {
			s.t.Fatalf("%s: %v: %s", name, err, m.Committed)
		}
		value += n
	}
	return value
}

// jobLog is what is known of a job's messages.
func (s *server) jobLog(job string) string {
	s.t.Helper()
	log, err := exec.Command(lintelBinary(s.t), "jobs", "logs", job, "--endpoint", s.jobs).CombinedOutput()
	if err != nil {
		s.t.Errorf("%v\n%s", err, log)
	}
	return string(log)
}

// totals reads what left the pipeline: how often each total did, by branch, key and window. Some do so again
// after a failure, but never as something else.
func totals(t *testing.T, path string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	was, times := map[string]string{}, map[string]int{}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range strings.Lines(string(whole)) {
		f := strings.Fields(line)
		if len(f) != 6 {
			t.Fatalf("line %q", line)
		}
		place, total := strings.Join(f[:3], " "), strings.Join(f[3:], " ")
		if times[place]++; times[place] > 1 && was[place] != total {
			t.Errorf("%s: %s, and %s", place, was[place], total)
		}
		was[place] = total
	}
	return times
}

// checkObserved looks at what left the pipeline when it has ended.
func checkObserved(t *testing.T, path string) {
	t.Helper()
	again, all := 0, totals(t, path)
	for _, n := range all {
		again += n - 1
	}
	t.Logf("%d totals left the pipeline, and %d of them again", len(all), again)
	if len(all) == 0 {
		t.Error("nothing was observed")
	}
}
