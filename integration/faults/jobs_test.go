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

// jobKinds end in all the ways that jobs end, with workers in the client and as processes.
func (s *server) jobKinds() [][]string {
	process := []string{"--environment_type", "PROCESS", "--environment_config", fmt.Sprintf(`{"command":%q}`, pipelines(s.t)), "--worker_binary", filepath.Join(root, "LICENSE")}
	small := []string{"--case", "group", "--n", "100", "--keys", "10", "--shards", "1"}
	return [][]string{
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

// Jobs leave nothing behind, however they end, one after the other and many at once.
func TestJobsLeaveNothingBehind(t *testing.T) {
	row, atOnce := 24, 8
	if *long {
		row, atOnce = 1000, 50
	}
	dir := t.TempDir()
	s := startServer(t, dir, "--memory-budget", "128M")
	s.runJobs(4*atOnce, atOnce) // what is made once, and pools of memory
	before := s.footprint()
	s.runJobs(row, 1)
	s.runJobs(2*atOnce, atOnce)
	var after footprint
	testkit.Eventually(t, time.Minute, "as much in use as before", func() bool {
		after = s.footprint()
		return after.goroutines <= before.goroutines+before.goroutines/20 && after.files <= before.files && after.processes == 0
	})
	t.Logf("before %+v, after %d jobs in a row and %d at once %+v", before, row, atOnce, after)
	if after.mib > 1.05*max(before.mib, 128) {
		t.Errorf("%.0f MiB, %.0f before", after.mib, before.mib)
	}
	if n := files(t, filepath.Join(dir, "data", "spill")); n > 0 {
		t.Errorf("%d spilled files are left", n)
	}
	if n := files(t, filepath.Join(dir, "data", "artifacts")); n > 0 {
		t.Errorf("%d artifacts are left", n)
	}
}
