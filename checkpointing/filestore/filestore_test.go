package filestore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	checkpointingtest.Run(t, func(t *testing.T) checkpointing.Store { return open(t, t.TempDir()) })
}

// What a crash leaves of files that were being written is no object, and goes after a day.
func TestUnfinishedFilesGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Create(t.Context(), "a/x", strings.NewReader("1")); err != nil {
		t.Fatal(err)
	}
	left, young := filepath.Join(dir, "a", beginning+"OLD"), filepath.Join(dir, "a", beginning+"YOUNG")
	for _, name := range []string{left, young} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * abandoned)
	for _, name := range []string{left, filepath.Join(dir, "a", "x")} {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := s.List(t.Context(), "", func(string, int64) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d objects (%v)", n, err)
	}
	open(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an old one is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("one that may still be written is gone: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a/x"); err != nil {
		t.Error(err)
	}
}

func TestLinksLeadNowhere(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	s := open(t, dir)
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"folder": outside, "file": filepath.Join(outside, "secret")} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), "folder/x", strings.NewReader("x")); err == nil {
		t.Error("a link was followed to write")
	}
	for _, name := range []string{"folder/secret", "file"} {
		if _, err := s.Open(t.Context(), name); err == nil {
			t.Errorf("%s: a link was followed to read", name)
		}
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside are %v (%v)", entries, err)
	}
}
