package faults

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// checkpoint is one that a job has taken, or failed to.
type checkpoint struct {
	Epoch, Generation uint64
	State, Error      string
	Seconds           float64
	Bytes             int64
}

// checkpoints are those of a job.
func (s *server) checkpoints(job string) []checkpoint {
	s.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(s.http + "/v1/jobs/" + job + "/checkpoints")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var list struct{ Checkpoints []checkpoint }
	if err := json.Unmarshal(b, &list); err != nil || r.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %v: %s", r.Status, err, b)
	}
	return list.Checkpoints
}

// Workers that take 30 s for an element hold up no checkpoint: each takes less than a second.
func TestSlowWorkersHoldUpNoCheckpoint(t *testing.T) {
	interval, want := "250ms", 10
	if *long {
		interval, want = "1s", 60
	}
	s := startServer(t, t.TempDir(), "--memory-budget", "64M")
	s.mustRun(append(s.environment(), "--case", "slow", "--n", "40000", "--value", "1000", "--checkpoint_interval", interval, "--async")...)
	job, _ := s.job()
	var taken []checkpoint
	testkit.Eventually(t, time.Duration(want)*2*time.Second+time.Minute, "checkpoints are taken", func() bool {
		taken = s.checkpoints(job)
		return len(taken) >= want
	})
	var took []float64
	for _, c := range taken {
		if c.State != "complete" {
			t.Errorf("%+v", c)
		}
		took = append(took, c.Seconds)
	}
	slices.Sort(took)
	t.Logf("%d checkpoints of up to %d bytes: %.3f s at the median, %.3f s at the most", len(took), taken[len(taken)-1].Bytes, took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > 1 {
		t.Errorf("checkpoints took %v s", took)
	}
	s.lintel(nil, "jobs", "cancel", job)
}
