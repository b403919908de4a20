package faults

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// Faults 8 and 9: a job whose checkpoints are in Google Cloud Storage. That refuses requests, loses answers and cuts uploads while the server is
// killed; then it is away; then it is slow. No checkpoint is one that is not whole, the job goes on, checkpoints come
// again soon after, the store is not stormed, no object comes to be twice, and none is left. The sums are exact.
func TestBadCloud(t *testing.T) {
	elements, bad, away, slow := 600, 3*time.Second, 5500*time.Millisecond, 100*time.Millisecond
	if *long {
		elements, bad, away, slow = 24_000, 5*time.Minute, 10*time.Minute, 5*time.Second
	}
	random := seeded(t)
	c := newCloud(t, random, "")
	c.server.Start()
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	start := func() *server {
		s := launch(t, lintelBinary(t), dir, c.emulator(), "--checkpoint-dir", "gs://"+bucket+"/lintel")
		s.awaitReady()
		return s
	}
	s := start()
	s.submitExact(elements, observed, "--every", slowEvery.String())
	job, _ := s.job()
	testkit.Eventually(t, time.Minute, "a checkpoint", func() bool { return c.newest(job) > 0 })

	for until := time.Now().Add(bad); time.Now().Before(until); {
		c.set(weather{refused: 0.3, lost: 0.2, partial: 0.2})
		time.Sleep(bad/4 + time.Duration(random.Int64N(int64(bad/4))))
		s.kill()
		s = start()
	}
	before := c.newest(job)
	testkit.Eventually(t, time.Minute, "a checkpoint in bad weather", func() bool { return c.newest(job) > before })
	t.Logf("%d was the newest when the bad weather was over", c.newest(job))

	c.set(weather{refused: 1})
	time.Sleep(time.Second) // what was under way
	c.checkComplete(job)
	c.set(weather{refused: 1})
	newest, had := c.newest(job), len(totals(t, observed))
	time.Sleep(away)
	testkit.Eventually(t, time.Minute, "the job goes on without a store", func() bool { return len(totals(t, observed)) > had })
	if c.newest(job) != newest {
		t.Errorf("checkpoint %d is complete without a store", c.newest(job))
	}
	if age := s.metric(`lintel_checkpoint_age_seconds{job="` + job + `"}`); age < away.Seconds() {
		t.Errorf("the newest checkpoint is said to be %v s old, after %v", age, away)
	}
	c.checkRate()
	for _, want := range []string{"there was no checkpoint for ", "the store of checkpoints failed, and is asked again until it answers: gcsstore"} {
		if log := s.onlyLog(); !strings.Contains(log, want) {
			t.Errorf("the job's log has no %q:\n%s", want, log)
		}
	}
	c.set(weather{})
	over := time.Now()
	testkit.Eventually(t, 10*time.Second, "a checkpoint within the usual interval after the outage", func() bool { return c.newest(job) > newest })
	t.Logf("%v after the outage there was a checkpoint", time.Since(over))
	c.set(weather{latency: slow})
	newest = c.newest(job)
	testkit.Eventually(t, 5*time.Minute, "two checkpoints in a slow store", func() bool { return c.newest(job) > newest+1 })
	c.set(weather{})
	s.awaitExact(5 * time.Duration(elements) * slowEvery)
	checkObserved(t, observed)
	c.checkCreated()
	testkit.Eventually(t, time.Minute, "its checkpoints are removed", func() bool {
		return len(c.names("")) == 0
	})
}
