package faults

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/internal/testkit"
)

// The server is killed at each point of a checkpoint and of a recovery, and its job counts every element once. What
// is then left of checkpoints that came to nothing goes with the second one after it.
func TestKilledInCheckpoints(t *testing.T) {
	rounds := 1
	if *long {
		rounds = 5
	}
	dir := t.TempDir()
	observed := filepath.Join(dir, "observed")
	s := startServer(t, dir)
	takes := time.Duration(rounds) * 30 * time.Second
	s.submitGo(takes, observed)
	for range rounds {
		for _, point := range failpoint.All {
			s.kill()
			s = launch(t, failing(t), dir, []string{failpoint.Variable + "=" + point + ":" + times(point)})
			select {
			case err := <-s.done:
				s.killed = true
				t.Logf("%s: %v", point, err)
			case <-time.After(time.Minute):
				t.Fatalf("the server did not come to the point %s within a minute", point)
			}
			left := readCheckpoints(t, dir)
			s = startServer(t, dir)
			left.awaitCollected(t, dir)
		}
	}
	s.awaitExact(takes)
	checkObserved(t, observed)
}

// times is at the how manieth time a point kills: points of recoveries are hit once, and of the first checkpoint there is no garbage.
func times(point string) string {
	switch point {
	case failpoint.BeforeBegin, failpoint.AfterBegin:
		return "1"
	case failpoint.BeforeSnapshot, failpoint.AfterUpload:
		return "25" // amid the tasks of a checkpoint
	}
	return "2"
}

// checkpoints are what the store has of the only job's.
type checkpoints struct {
	files     map[string]bool // that are there
	named     map[string]bool // by manifests
	manifests map[uint64]bool // their epochs
}

// readCheckpoints finds out, and whether all is there that a manifest names.
func readCheckpoints(t *testing.T, dir string) checkpoints {
	t.Helper()
	c := checkpoints{files: map[string]bool{}, named: map[string]bool{}, manifests: map[uint64]bool{}}
	paths, err := filepath.Glob(filepath.Join(dir, "data", "checkpoints", "*", "manifest-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by now
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := protocol.DecodeManifest(b)
		if err != nil {
			t.Fatal(err)
		}
		c.manifests[m.Epoch] = true
		for _, f := range m.Files {
			c.named[f.Name()] = true
			if exists(t, filepath.Join(filepath.Dir(path), f.Name())) || !exists(t, path) {
				continue
			}
			t.Errorf("%s, which the manifest of epoch %d names, is gone", f.Name(), m.Epoch)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "data", "checkpoints", "*", "files", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if name := filepath.Base(path); !strings.HasPrefix(name, ".new-") { // half an object, which the store removes after a day
			c.files["files/"+name] = true
		}
	}
	return c
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// awaitCollected waits for two more checkpoints, and a third to begin, and looks what is left then of the files that no manifest named.
func (c checkpoints) awaitCollected(t *testing.T, dir string) {
	t.Helper()
	var now checkpoints
	more := map[uint64]bool{}
	testkit.Eventually(t, time.Minute, "three more checkpoints", func() bool {
		now = readCheckpoints(t, dir)
		for epoch := range now.manifests {
			if !c.manifests[epoch] {
				more[epoch] = true
			}
		}
		return len(more) >= 3
	})
	for file := range c.files {
		if !c.named[file] && !now.named[file] && now.files[file] {
			t.Errorf("%s, which no manifest named, is still there after two checkpoints", file)
		}
	}
}
