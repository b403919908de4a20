package faults

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

const (
	kB = 1000
	mB = 1000 * kB
	// allowed is how much of its budget a server may have in memory.
	allowed = 1.3
)

// hard is a pipeline that needs more memory than there is.
type hard struct {
	name  string
	mib   int // the budget
	args  string
	value int // bytes of a value
	n     int // elements
	keys  int
}

// shortCases are the same as longCases, with less of everything.
var shortCases = []hard{
	{"groups of four times the budget", 64, "group", kB, 268 * kB, 1000},
	{"a key of a million values", 64, "group", 8, mB, 1},
	{"a pane of one key", 64, "group --stream", kB, 268 * kB, 1},
	{"an iterable larger than the budget", 64, "iterable", kB, 100 * kB, 1000},
	{"a multimap larger than the budget", 64, "multimap", kB, 100 * kB, 1000},
	{"elements of 1 MB, shuffled", 64, "reshuffle", mB, 100, 10},
	{"elements of 1 MB, grouped", 64, "group", mB, 100, 10},
	{"elements of 10 MB, grouped", 256, "group", 10 * mB, 10, 2},
	{"state cells of 20 MB", 256, "state", 10 * mB, 10, 5},
}

var longCases = []hard{
	{"groups of four times the budget", 256, "group", kB, 1074 * kB, 1000},
	{"groups of four times the default budget", 512, "group", kB, 2148 * kB, 10000},
	{"small groups of four times the budget", 256, "group", 16, 15 * mB, 5 * mB},
	{"a key of ten million values", 64, "group", 8, 10 * mB, 1},
	{"a key of ten million values", 512, "group", 100, 10 * mB, 1},
	{"a pane of one key", 64, "group --stream", kB, 500 * kB, 1},
	{"an iterable larger than the budget", 512, "iterable", kB, 700 * kB, 1000},
	{"a multimap larger than the budget", 512, "multimap", kB, 700 * kB, 1000},
	{"elements of 10 MB, shuffled", 256, "reshuffle", 10 * mB, 50, 10},
	{"elements of 100 MB, shuffled", 512, "reshuffle", 100 * mB, 4, 4},
	{"elements of 100 MB, grouped", 512, "group", 100 * mB, 4, 2},
	{"state of eight times the budget", 256, "state", 64 * kB, 31250, 10000},
	{"an element as large as the budget", 488, "group", 512 * mB, 1, 1},
}

func TestMemoryStaysWithinTheBudget(t *testing.T) {
	cases := shortCases
	if *long {
		cases = append(cases, longCases...)
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s, %d MiB", c.name, c.mib), func(t *testing.T) {
			s := startServer(t, t.TempDir(), "--memory-budget", fmt.Sprintf("%dM", c.mib))
			args := append([]string{"--case"}, strings.Fields(c.args)...)
			s.mustRun(append(args, "--n", fmt.Sprint(c.n), "--value", fmt.Sprint(c.value), "--keys", fmt.Sprint(c.keys))...)
			top := s.status("VmHWM")
			ratio := float64(top) / float64(c.mib<<10)
			// In memory an element is as it came and once more; a cell, of each task, several times while tables are written
			// and merged, and the collector is late to find that they aren't any more.
			copies := 2.2
			if strings.HasPrefix(c.args, "state") {
				copies = 50
			}
			allowed := max(allowed, copies*float64(c.value)/float64(c.mib<<20))
			spilled := s.metric("lintel_spilled_bytes_total")
			t.Logf("%d MiB at the most, %.2f of the budget; %.0f MB spilled", top>>10, ratio, spilled/mB)
			if ratio > allowed {
				t.Errorf("%d MiB are %.2f of the budget, want at most %.1f", top>>10, ratio, allowed)
			}
			if c.n*c.value > c.mib<<20 && spilled == 0 {
				t.Error("nothing was spilled: this has tested nothing")
			}
		})
	}
}

// Jobs that run at once share the budget.
func TestLargeJobsShareTheBudget(t *testing.T) {
	jobs, n := 4, 80*kB
	if *long {
		n = 268 * kB
	}
	const budget = 256
	s := startServer(t, t.TempDir(), "--memory-budget", fmt.Sprintf("%dM", budget))
	var running sync.WaitGroup
	for range jobs {
		running.Go(func() {
			if out, err := s.run("--case", "group", "--n", fmt.Sprint(n), "--value", "1000"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	running.Wait()
	top := s.status("VmHWM") >> 10
	t.Logf("%d MiB at the most; %.0f MB spilled", top, s.metric("lintel_spilled_bytes_total")/mB)
	if ratio := float64(top) / budget; ratio > allowed {
		t.Errorf("%d MiB are %.2f of the budget, want at most %.1f", top, ratio, allowed)
	}
}
