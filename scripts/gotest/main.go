// Command gotest runs `go test` and closes with a count of tests, skips included.
//
//	go run ./scripts/gotest [-C DIR] [go test's arguments]
//
// It prints a line per package, the output of what failed, why each skipped test
// was skipped and, at the end, "N passed, N failed, N skipped". It exits 1 if a test
// failed or a package did not build and, where the environment has CI=true, if a
// test was skipped: there the machine is expected to have every part.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	args, dir := os.Args[1:], "."
	if len(args) > 1 && args[0] == "-C" {
		dir, args = args[1], args[2:]
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	var t tally
	t.read(out, os.Stdout)
	failed := cmd.Wait() != nil
	t.print(os.Stdout)
	if strict := os.Getenv("CI") == "true"; failed || strict && t.skipped > 0 {
		if !failed {
			fmt.Println("CI=true: a skipped test is a failure")
		}
		os.Exit(1)
	}
}

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// tally counts the tests of one run, subtests included.
type tally struct {
	passed, failed, skipped int
	skips                   []string
	output                  map[string]*strings.Builder // by package and test, until it ends
}

func (t *tally) read(r io.Reader, w io.Writer) {
	t.output = map[string]*strings.Builder{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text())
			continue
		}
		t.take(e, w)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(w, "gotest: reading go test's output:", err)
		_, _ = io.Copy(io.Discard, r) // so that go test can end
	}
}

func (t *tally) take(e event, w io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "output":
		if t.output[key] == nil {
			t.output[key] = &strings.Builder{}
		}
		t.output[key].WriteString(e.Output)
	case "pass", "fail", "skip":
		text := ""
		if b := t.output[key]; b != nil {
			text = b.String()
		}
		delete(t.output, key)
		if e.Test == "" {
			printPackage(w, e, text+t.unended(e.Package))
		} else {
			t.count(w, e, text)
		}
	}
}

// unended takes the output of a package's tests that have not ended: one that panics or takes too long ends the package.
func (t *tally) unended(pkg string) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(t.output)) {
		if strings.HasPrefix(key, pkg+" ") {
			text.WriteString(t.output[key].String())
			delete(t.output, key)
		}
	}
	return text.String()
}

func (t *tally) count(w io.Writer, e event, text string) {
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		fmt.Fprint(w, text)
	case "skip":
		t.skipped++
		t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(text)))
	}
}

// printPackage prints a package's own last line, which go test makes, or all of
// its text if it failed outside a test (a panic, a leak found by TestMain).
func printPackage(w io.Writer, e event, text string) {
	if e.Action == "fail" {
		fmt.Fprint(w, text)
		return
	}
	if e.Action == "skip" { // no test files
		return
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	fmt.Fprintln(w, lines[len(lines)-1])
}

// reason is what the test gave to Skip.
func reason(text string) string {
	var why []string
	for _, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
			why = append(why, l)
		}
	}
	return strings.Join(why, " ")
}

func (t *tally) print(w io.Writer) {
	for _, s := range t.skips {
		fmt.Fprintln(w, "skipped:", s)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
