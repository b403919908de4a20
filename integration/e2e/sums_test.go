package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/internal/testkit"
)

// TestPythonTriggeredCombines has a window that lasts fire for every second element: sums are of
// all elements, while few accumulators of them are ever there. Panes may be empty of CombineFns
// that can't merge nothing.
func TestPythonTriggeredCombines(t *testing.T) {
	testkit.Python(t, root)
	s := startServer(t)
	const elements = 1000
	out := s.pythonPipeline("../../integration/e2e/testdata/sums.py", "--elements", strconv.Itoa(elements), "--environment_type", "LOOPBACK").ok(t)
	told := map[string][]string{}
	for line := range strings.Lines(out.stdout) {
		what, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		told[what] = append(told[what], value)
	}
	var want []string
	for n := 2; n <= elements/2; n += 2 {
		want = append(want, fmt.Sprint(n))
	}
	want = append(want, fmt.Sprint(elements/2)) // at the end, with nothing new
	slices.Sort(want)
	for _, key := range []string{"a", "b"} {
		slices.Sort(told[key])
		if !slices.Equal(told[key], want) {
			t.Errorf("%s: panes %q, want %q", key, told[key], want)
		}
	}
	const most = 64 + 2 // and those of the pane that is one too many
	for _, text := range told["merges"] {
		if n, err := strconv.Atoi(text); err != nil || n > most {
			t.Fatalf("%q accumulators are merged at once", text)
		}
	}
	if means := told["mean"]; !slices.Equal(means, []string{"1.5", "of nothing"}) {
		t.Errorf("means %q", means)
	}
}
