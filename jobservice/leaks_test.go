package jobservice_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/jobservice"
)

// usage is what a leak shows in.
type usage struct{ goroutines, files, processes, records, heap int }

func (r *rig) usage(t testing.TB, dir string) (u usage) {
	t.Helper()
	for range 3 { // finalizers and weak pointers take more than one
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	processes, err := proctree.Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(open), len(processes), len(records), int(m.HeapAlloc)}
}

// exceeds tells what is more than 5 % above before.
func (u usage) exceeds(before usage) (what []string) {
	for _, c := range []struct {
		name          string
		now, was, few int
	}{
		{"goroutines", u.goroutines, before.goroutines, 2},
		{"open files", u.files, before.files, 1},
		{"processes", u.processes, before.processes, 0},
		{"files of records", u.records, before.records, 3},
		{"bytes of heap", u.heap, before.heap, 64 << 10},
	} {
		if c.now > c.was+max(c.was/20, c.few) {
			what = append(what, fmt.Sprintf("%d %s, %d before", c.now, c.name, c.was))
		}
	}
	return what
}

// TestManyCyclesLeaveNothing submits and cancels jobs one after the other, with
// records on disk: 1,000, unless tests are to be short.
func TestManyCyclesLeaveNothing(t *testing.T) {
	const remembered = 50
	cycles := 1000
	if testing.Short() {
		cycles = 100
	}
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{MaxJobs: remembered})
	for range 2 * remembered { // from here on every job takes the place of another
		r.cycle(t)
	}
	before := r.usage(t, dir)
	durations := make([]time.Duration, cycles)
	for i := range durations {
		durations[i] = r.cycle(t)
	}
	after := r.usage(t, dir)
	slices.Sort(durations)
	median := durations[cycles/2]
	t.Logf("median of Prepare and Run %v, 99th percentile %v; before %+v, after %+v", median, durations[cycles*99/100], before, after)
	if median > 50*time.Millisecond {
		t.Errorf("median of Prepare and Run is %v, more than 50 ms", median)
	}
	if what := after.exceeds(before); len(what) > 0 {
		t.Errorf("after %d jobs there are %s", cycles, strings.Join(what, "; "))
	}
}

// cycle prepares, runs and cancels a job, waits for its end, and returns the time for the first two.
func (r *rig) cycle(t testing.TB) time.Duration {
	begin := time.Now()
	resp, err := r.client.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: &pipepb.Pipeline{}})
	if err != nil {
		t.Fatal(err)
	}
	id := resp.GetPreparationId()
	if _, err := r.client.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	r.executor.run(id).sink.Message(slog.LevelInfo, "a message")
	if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
		t.Fatal(err)
	}
	states := statesOf(r.watch(t, id))
	if states[len(states)-1] != cancelled {
		t.Fatalf("states %v", states)
	}
	r.executor.forget(id)
	return took
}

// TestManyJobsAtOnceLeaveNothing has 200 jobs running at the same time, several
// times over, with watchers; a half is cancelled, a half ends by itself.
func TestManyJobsAtOnceLeaveNothing(t *testing.T) {
	const jobs = 200
	dir := t.TempDir()
	r := newRecordedRig(t, dir, jobservice.Config{MaxJobs: jobs})
	round := func() {
		var all, live sync.WaitGroup
		live.Add(jobs)
		for i := range jobs {
			all.Go(func() {
				id := r.prepare(t)
				job := r.start(t, id)
				job.sink.Running()
				live.Done()
				live.Wait()
				if i%2 == 0 {
					job.end(nil)
				} else if _, err := r.client.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id}); err != nil {
					t.Error(err)
				}
				want := []jobservice.State{done, cancelled}[i%2]
				if states := statesOf(r.watch(t, id)); states[len(states)-1] != want {
					t.Errorf("job %d: %v, want %v", i, states, want)
				}
				r.executor.forget(id)
			})
		}
		all.Wait()
	}
	for range 4 {
		round()
	}
	// What is left behind grows each time; a step, as of a pool or a map, is made once.
	var what []string
	for range 3 {
		before := r.usage(t, dir)
		round()
		round()
		if what = r.usage(t, dir).exceeds(before); len(what) == 0 {
			return
		}
	}
	t.Errorf("after each %d jobs more there are %s", 2*jobs, strings.Join(what, "; "))
}

// BenchmarkPrepareAndRun is a job from its submission to the answer of Run, with
// its record on disk.
func BenchmarkPrepareAndRun(b *testing.B) {
	r := newRecordedRig(b, b.TempDir(), jobservice.Config{MaxJobs: 50})
	var took time.Duration
	for b.Loop() {
		took += r.cycle(b)
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs/Prepare+Run")
}
