package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

// footprint is what a server takes.
type footprint struct {
	goroutines, files, processes int
	mib                          float64 // resident
}

func (s *server) footprint() footprint {
	s.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	children, err := proctree.Descendants(s.cmd.Process.Pid)
	if err != nil {
		s.t.Fatal(err)
	}
	return footprint{
		goroutines: int(s.metric("go_goroutines")), files: len(files), processes: len(children),
		mib: float64(s.status("VmRSS")) / 1024,
	}
}

// environment is arguments for that of the workers that a test has given the server, or of processes that it starts.
func (s *server) environment() []string {
	w := s.workers
	if w == nil {
		w = goProcesses(s.t, "")
	}
	return []string{"--environment_type", w.kind, "--environment_config", w.config, "--worker_binary", filepath.Join(root, "LICENSE")}
}

// jobKinds end in all the ways that jobs end, with workers in the client and as processes.
func (s *server) jobKinds() [][]string {
	process := s.environment()
	small := []string{"--case", "group", "--n", "100", "--keys", "10", "--shards", "1"}
	// Cancelled before its workers are there, while they begin, or when they hang.
	cancelled := func(after string, more ...string) []string {
		return append([]string{"--case", "hanging", "--n", "10", "--shards", "1", "--cancel_after", after}, more...)
	}
	return [][]string{
		cancelled("20ms", process...),
		cancelled("100ms", process...),
		cancelled("500ms", process...),
		cancelled("200ms"),
		small,
		append(small, process...),
		{"--case", "iterable", "--n", "100", "--shards", "1"},
		append([]string{"--case", "failing", "--n", "10", "--shards", "1"}, process...),
	}
}

// runJobs runs n jobs, so many at once, and returns when they have ended.
func (s *server) runJobs(n, atOnce int) {
	s.t.Helper()
	kinds := s.jobKinds()
	turns := make(chan int)
	var running sync.WaitGroup
	for range atOnce {
		running.Go(func() {
			for i := range turns {
				args := kinds[i%len(kinds)]
				out, err := s.run(args...)
				if failing := strings.Contains(strings.Join(args, " "), "failing"); failing != (err != nil) {
					s.t.Errorf("job %d, %v: %v\n%s", i, args, err, out)
				}
			}
		})
	}
	for i := range n {
		turns <- i
	}
	close(turns)
	running.Wait()
}

// Jobs leave nothing behind, however they end, one after the other and many at once. They are
// soon forgotten, so that what is remembered of them doesn't count.
func TestJobsLeaveNothingBehind(t *testing.T) {
	row, atOnce := 24, []int{8}
	if *long {
		row, atOnce = 1000, []int{50, 200}
	}
	dir := t.TempDir()
	s := startServer(t, dir, "--memory-budget", "128M", "--job-retention", "2s")
	s.runJobs(50, 8) // what is made once, and pools of memory
	before := s.settled(footprint{goroutines: 100, files: 100})
	for range 4 {
		s.runJobs(row/4, 1)
		t.Logf("%+v after %d jobs in a row", s.footprint(), row/4)
	}
	after := s.settled(before)
	t.Logf("before %+v, after %d jobs in a row %+v", before, row, after)
	if after.mib > 1.05*max(before.mib, 64) {
		t.Errorf("%.0f MiB, %.0f before", after.mib, before.mib)
	}
	for _, n := range atOnce {
		s.runJobs(2*n, n)
		t.Logf("after %d jobs at once %+v", n, s.settled(before))
	}
	for _, what := range []string{"spill", "artifacts", "jobs"} {
		testkit.Eventually(t, time.Minute, "no files are left in "+what, func() bool { return files(t, filepath.Join(dir, "data", what)) == 0 })
	}
}

// settled waits until the server takes no more than before, and 5 % of goroutines, and returns what it takes.
func (s *server) settled(before footprint) (now footprint) {
	s.t.Helper()
	testkit.Eventually(s.t, time.Minute, "as much in use as before", func() bool {
		now = s.footprint()
		return now.goroutines <= before.goroutines+before.goroutines/20 && now.files <= before.files && now.processes == 0
	})
	return now
}
