package faults

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// Harnesses that are killed cost their bundles another attempt, and nothing else: no restart of the job, no element.
func TestKilledHarnesses(t *testing.T) {
	for _, o := range oracles {
		if kills := o.harnesses.now(); kills > 0 {
			t.Run(o.name, func(t *testing.T) { testKilledHarnesses(t, o, kills) })
		}
	}
}

func testKilledHarnesses(t *testing.T, o oracle, kills int) {
	random := seeded(t)
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	s := start(t, dir, o.workers(t, dir))
	takes := time.Duration(kills+1) * (o.replace + time.Second)
	o.submit(s, takes, observed)
	s.awaitOutput(observed)
	var recovered []time.Duration
	for range kills {
		time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
		running := s.harnesses()
		if _, state := s.job(); state != "RUNNING" || len(running) == 0 {
			break // the machine is slow
		}
		if err := running[random.IntN(len(running))](); err != nil {
			t.Fatal(err)
		}
		recovered = append(recovered, s.awaitOutput(observed))
	}
	if len(recovered) < (kills+1)/2 {
		t.Fatalf("the job ended after %d kills", len(recovered))
	}
	s.awaitExact(takes)
	checkObserved(t, observed)
	median, most := quantiles(recovered)
	t.Logf("%d kills; first output %v after one at the median, %v at the most", len(recovered), median, most)
	if *long && most > o.replace {
		t.Errorf("want %v at the most", o.replace)
	}
	s.checkHarnessesOnly(len(recovered))
}

// checkHarnessesOnly looks at what it took to go on: harnesses.
func (s *server) checkHarnessesOnly(kills int) {
	s.t.Helper()
	job, _ := s.job()
	log := s.jobLog(job)
	if n := strings.Count(log, "a harness was lost and is replaced"); n != kills {
		s.t.Errorf("%d harnesses were replaced after %d kills\n%s", n, kills, log)
	}
	if strings.Contains(log, "goes on from") {
		s.t.Errorf("the job was started again\n%s", log)
	}
	s.t.Logf("%.0f bundles were tried again", s.metric(`lintel_bundles_total{outcome="failed"}`))
}

// awaitOutput waits until something new has left the pipeline's slowest branch, that with state, and returns how long that
// took. Whoever kills only then leaves bundles that are tried again the time that they take.
func (s *server) awaitOutput(observed string) time.Duration {
	s.t.Helper()
	states := func() (n int) {
		for place := range totals(s.t, observed) {
			if strings.HasPrefix(place, "state ") {
				n++
			}
		}
		return n
	}
	began, had, size := time.Now(), states(), int64(0)
	testkit.Eventually(s.t, 3*time.Minute, "new output", func() bool {
		f, err := os.Stat(observed)
		if err != nil || f.Size() == size {
			return false
		}
		size = f.Size()
		return states() > had
	})
	return time.Since(began)
}

// quantiles are the median and the most of what took so long.
func quantiles(took []time.Duration) (median, most time.Duration) {
	slices.Sort(took)
	return took[len(took)/2], took[len(took)-1]
}

var seed = flag.Uint64("seed", 0, "of what happens at random; 0 takes a new one")

// seeded is a source of what happens at random, which the flag -seed has happen again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	of := *seed
	if of == 0 {
		of = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", of)
	return rand.New(rand.NewPCG(of, 0))
}
