package testkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Scripts runs testdata/*.script, each as a test by its name. A script has what happens, line by
// line, and below each line, indented by a tab, what comes of it; lines that begin with # and
// empty ones are for the reader. Begin starts a script: the function that it returns acts on
// the words of a line and writes what comes of that to out. With update, what comes is written
// to the scripts as what to expect.
func Scripts(t *testing.T, update bool, begin func(out *strings.Builder) (line func(words []string) error)) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			line := begin(&out)
			for i, text := range strings.Split(strings.TrimSuffix(string(want), "\n"), "\n") {
				if strings.HasPrefix(text, "\t") {
					continue // what came before
				}
				out.WriteString(text + "\n")
				if text == "" || text[0] == '#' {
					continue
				}
				if err := line(strings.Fields(text)); err != nil {
					t.Fatalf("line %d: %s: %v", i+1, text, err)
				}
			}
			if update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("(-want +got); -update accepts it:\n%s", diff)
			}
		})
	}
}
