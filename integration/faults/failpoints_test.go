package faults

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/failpoint"
)

// The server is killed at each point of a checkpoint and of a recovery, and its job counts every element once.
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
			s = startServer(t, dir)
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
