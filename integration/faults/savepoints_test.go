package faults

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// A job is stopped with savepoints and goes on at another parallelism, with another state backend, on another server, from
// a copy of the savepoint: it counts each element once, and nothing of it leaves twice, since nothing does after a savepoint.
func TestJobsTravelExactly(t *testing.T) {
	const elements = 1500
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	lintelBinary(t) // which takes time, as elements are made in
	pipelines(t)
	start := time.Now().UnixMilli()
	var s *server
	from := ""
	for i, leg := range []struct {
		parallelism int
		backend     string
	}{{1, "memory"}, {8, "pebble"}, {3, "memory"}} {
		here := filepath.Join(dir, fmt.Sprint("server", i))
		if from != "" { // it goes with the job, and what is left behind is of no use
			to := filepath.Join(here, "data", "savepoints", "brought")
			if err := os.CopyFS(to, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(from); err != nil {
				t.Fatal(err)
			}
			from = to
		}
		s = startServer(t, here, "--state-backend", leg.backend)
		args := append(s.environment(), "--case", "exact", "--n", fmt.Sprint(elements), "--every", "10ms", "--keys", "20", "--shards", "3", "--start", fmt.Sprint(start),
			"--checkpoint_interval", "300ms", "--observed", observed, "--parallelism", fmt.Sprint(leg.parallelism), "--async")
		if from != "" {
			args = append(args, "--restore_from", (&url.URL{Scheme: "file", Path: from}).String())
		}
		s.mustRun(args...)
		if i == 2 {
			break
		}
		had := len(totals(t, observed))
		testkit.Eventually(t, time.Minute, "output", func() bool { return len(totals(t, observed)) >= had+100 })
		began := time.Now()
		from = s.stopWithSavepoint()
		t.Logf("stopped in %v", time.Since(began))
		before := len(totals(t, observed))
		time.Sleep(200 * time.Millisecond)
		if n := len(totals(t, observed)) - before; n != 0 {
			t.Errorf("%d totals left the job after it was stopped", n)
		}
	}
	s.awaitExact(elements * 10 * time.Millisecond)
	checkOnce(t, observed)
}

// stopWithSavepoint stops the only job, and returns the folder of its savepoint.
func (s *server) stopWithSavepoint() string {
	s.t.Helper()
	job, _ := s.job()
	var stopped struct{ Savepoint string }
	s.lintel(&stopped, "jobs", "stop", job, "--savepoint")
	u, err := url.Parse(stopped.Savepoint)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.Path
}

// checkOnce checks that nothing left the pipeline twice.
func checkOnce(t *testing.T, observed string) {
	t.Helper()
	for place, times := range totals(t, observed) {
		if times != 1 {
			t.Errorf("%s left %d times", place, times)
		}
	}
}
