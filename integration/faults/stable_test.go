package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/failpoint"
)

// Sinks whose input is to be stable see the same in each attempt, and what was finalised is never done again, wherever in a
// checkpoint or a recovery the server is killed, and whenever else.
func TestStableInputSurvivesKills(t *testing.T) {
	rounds, elements := 1, 2500 // which take longer than the kills
	if *long {
		rounds, elements = 5, 15_000
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 1))
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	s := startServer(t, dir)
	s.mustRun(append(s.environment(), "--case", "stable", "--n", fmt.Sprint(elements), "--every", "10ms", "--keys", "10", "--shards", "2",
		"--checkpoint_interval", "200ms", "--observed", observed, "--async")...)
	for range rounds {
		time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
		s.kill()
		for _, point := range failpoint.All {
			s = launch(t, failing(t), dir, []string{failpoint.Variable + "=" + point + ":" + times(point)})
			select {
			case <-s.done:
				s.killed = true
			case <-time.After(time.Minute):
				t.Fatalf("the server did not come to the point %s within a minute", point)
			}
		}
		s = startServer(t, dir)
	}
	s.awaitExact(time.Duration(elements) * 10 * time.Millisecond)
	checkStable(t, observed, 2*elements)
}

// checkStable looks at what `pipelines --case stable` has told of so many elements.
func checkStable(t *testing.T, path string, elements int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var (
		seen      = map[string]string{} // by what has to be the same
		gathered  = map[string]string{} // the firing that has an element
		finalised = map[string]string{}
		counts    = map[string]int{}
		again     = map[string]int{}
	)
	see := func(kind, what, as string) {
		if before, ok := seen[kind+what]; ok {
			again[kind]++
			if before != as {
				t.Errorf("%s %s was seen as %q, and then as %q", kind, what, before, as)
			}
		} else {
			counts[kind]++
		}
		seen[kind+what] = as
	}
	for line := range strings.Lines(string(b[:bytes.LastIndexByte(b, '\n')+1])) {
		f := strings.Fields(line)
		id, _, _ := strings.Cut(f[1], ":")
		switch f[0] {
		case "drawn":
			if was, ok := finalised[id]; ok {
				t.Errorf("%s was finalised, and then drawn again as %s", was, f[1])
			}
		case "finalised":
			finalised[id] = f[1]
			see("sunk or finalised ", id, f[1])
		case "sunk":
			see("sunk", id, f[1])
			see("sunk or finalised ", id, f[1])
		case "fired":
			see("fired", f[1]+" "+f[2], strings.Join(f[3:], " "))
			for _, element := range f[3:] {
				id, _, _ := strings.Cut(element, ":")
				if was, ok := gathered[id]; ok && was != f[1]+" "+f[2] {
					t.Errorf("element %s is in the firings %s and %s %s", id, was, f[1], f[2])
				}
				gathered[id] = f[1] + " " + f[2]
			}
		default:
			t.Fatalf("line %q", line)
		}
	}
	t.Logf("seen: %v; again: %v; %d finalised, and %d gathered", counts, again, len(finalised), len(gathered))
	if counts["sunk"] != elements || len(gathered) != elements {
		t.Errorf("of %d elements sinks saw %d, and timers %d", elements, counts["sunk"], len(gathered))
	}
	if len(finalised) == 0 {
		t.Error("nothing was finalised")
	}
}
