package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/internal/testkit"
)

// linesOf reads all lines of the files that a write has left, and their number.
func linesOf(t *testing.T, prefix string) (lines []string, files int) {
	t.Helper()
	names, err := filepath.Glob(prefix + "-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	return lines, len(names)
}

// TestPythonFiles writes with and without a number of shards: each line is in one file, once,
// and nothing else is left. Batches have the size that is asked for.
func TestPythonFiles(t *testing.T) {
	testkit.Python(t, root)
	s := startServer(t)
	const lines = 4000
	for _, shards := range []int{0, 3} {
		folder := t.TempDir()
		s.pythonPipeline("../../integration/e2e/testdata/files.py", "--folder", folder, "--lines", strconv.Itoa(lines),
			"--shards", strconv.Itoa(shards), "--environment_type", "LOOPBACK").ok(t)
		got, files := linesOf(t, filepath.Join(folder, "lines"))
		if shards > 0 && files != shards {
			t.Errorf("%d files, want %d", files, shards)
		}
		seen := map[string]bool{}
		for _, line := range got {
			if n, err := strconv.Atoi(line); err != nil || n < 0 || n >= lines || seen[line] {
				t.Fatalf("%d shards: line %q is none that was written, or there twice", shards, line)
			}
			seen[line] = true
		}
		if len(got) != lines {
			t.Errorf("%d shards: %d lines, want %d", shards, len(got), lines)
		}
		checkBatches(t, filepath.Join(folder, "batches"), lines)
		left, err := os.ReadDir(folder)
		if err != nil || len(left) != files+1 {
			t.Errorf("%d shards: %d files are left, want %d: %v, %v", shards, len(left), files+1, left, err)
		}
	}
}

// checkBatches looks at batches of ten numbers below n, by their remainder of 7.
func checkBatches(t *testing.T, prefix string, n int) {
	t.Helper()
	batches, _ := linesOf(t, prefix)
	seen, short := map[string]bool{}, map[string]int{}
	for _, batch := range batches {
		fields := strings.Fields(batch)
		key, values := fields[0], fields[1:]
		if len(values) < 10 {
			short[key]++
		}
		if len(values) > 10 || short[key] > 1 {
			t.Fatalf("batch %q of key %s, of which %d are short", batch, key, short[key])
		}
		for _, v := range values {
			if i, err := strconv.Atoi(v); err != nil || strconv.Itoa(i%7) != key || seen[v] {
				t.Fatalf("value %q of key %s does not belong there, or is there twice", v, key)
			}
			seen[v] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d values in batches, want %d", len(seen), n)
	}
}
