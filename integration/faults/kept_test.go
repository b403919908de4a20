package faults

import (
	"archive/zip"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

var keep = flag.String("keep", "", "version of which to keep savepoints, which later builds are to restore")

// keptDir has savepoints by version and state backend. The comment of each is when its elements began, in ms.
const keptDir = "testdata/savepoints"

// submitKept submits the job of which savepoints are kept. What it is must not change.
func (s *server) submitKept(start int64, observed string, flags ...string) {
	s.t.Helper()
	s.submitExact(300, observed, append(flags, "--every", "20ms", "--start", fmt.Sprint(start))...)
}

// Savepoints of all versions that there were are restored, and their job finds each element counted once. With -keep VERSION
// those of this build are kept.
func TestKeptSavepoints(t *testing.T) {
	if *keep != "" {
		for _, backend := range []string{"memory", "pebble"} {
			keepSavepoint(t, backend, filepath.Join(keptDir, *keep, backend+".zip"))
		}
	}
	all, err := filepath.Glob(filepath.Join(keptDir, "*", "*.zip"))
	if err != nil || len(all) < 2 {
		t.Fatalf("%d savepoints are kept, %v", len(all), err)
	}
	for _, path := range all {
		t.Run(strings.TrimPrefix(filepath.ToSlash(path), keptDir+"/"), func(t *testing.T) { restoreKept(t, path) })
	}
}

func restoreKept(t *testing.T, path string) {
	kept, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	start, err := strconv.ParseInt(kept.Comment, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	from, observed := filepath.Join(dir, "data", "savepoints", "kept"), filepath.Join(dir, "observed")
	if err := os.CopyFS(from, kept); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir)
	s.submitKept(start, observed, "--restore_from", (&url.URL{Scheme: "file", Path: from}).String())
	s.awaitExact(10 * time.Second)
	checkObserved(t, observed)
	checkOnce(t, observed)
}

// keepSavepoint stops the job with a savepoint and keeps that.
func keepSavepoint(t *testing.T, backend, path string) {
	t.Helper()
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	s := startServer(t, dir, "--state-backend", backend)
	pipelines(t) // which takes time, as elements are made in
	start := time.Now().UnixMilli()
	s.submitKept(start, observed)
	testkit.Eventually(t, time.Minute, "output", func() bool { return len(totals(t, observed)) >= 50 })
	from := s.stopWithSavepoint()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	if err := errors.Join(z.SetComment(fmt.Sprint(start)), z.AddFS(os.DirFS(from)), z.Close()); err != nil {
		t.Fatal(err)
	}
}
