package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
)

// TestReadLinesSplitAnywhere reads a file in two ranges, for every place to cut it:
// each line must come once, whatever the cut.
func TestReadLinesSplitAnywhere(t *testing.T) {
	for _, text := range []string{"one\ntwo\r\n\nfour", "\n\na\n", "x", "", "last\n"} {
		path := filepath.Join(t.TempDir(), "text")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		want := readRange(t, path, 0, int64(len(text)))
		for cut := int64(0); cut <= int64(len(text)); cut++ {
			got := slices.Concat(readRange(t, path, 0, cut), readRange(t, path, cut, int64(len(text))))
			if !slices.Equal(got, want) {
				t.Errorf("%q cut at %d: got %q, want %q", text, cut, got, want)
			}
		}
		if whole := strings.Join(want, "\n"); whole != strings.TrimSuffix(strings.ReplaceAll(text, "\r", ""), "\n") {
			t.Errorf("%q read as %q", text, want)
		}
	}
}

func readRange(t *testing.T, path string, start, end int64) (lines []string) {
	t.Helper()
	rt := sdf.NewLockRTracker(offsetrange.NewTracker(offsetrange.Restriction{Start: start, End: end}))
	err := new(readLines).ProcessElement(context.Background(), rt, path, func(l string) { lines = append(lines, l) })
	if err != nil {
		t.Fatal(err)
	}
	if !rt.IsDone() {
		t.Errorf("range [%d, %d) of %s is not done after it was read: %v", start, end, path, rt.GetError())
	}
	return lines
}

func TestSplitWords(t *testing.T) {
	var got []string
	new(splitWords).ProcessElement(context.Background(), "a_1 + b2(c) = 42; naïve", func(w string, n int64) { got = append(got, w) })
	if want := []string{"a_1", "b2", "c", "naïve"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
