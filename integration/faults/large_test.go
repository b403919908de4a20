package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// Fault 17: elements and state cells that are large are in checkpoints as small ones are. The server is killed once it has a
// checkpoint with some of them, and the job goes on and comes to the right sum.
func TestLargeElementsSurviveKills(t *testing.T) {
	sizes := []struct{ mB, n int }{{10, 40}}
	if *long {
		sizes = append(sizes, struct{ mB, n int }{64, 24}, struct{ mB, n int }{512, 6})
	}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d MB", size.mB), func(t *testing.T) {
			dir := t.TempDir()
			s := startServer(t, dir)
			s.mustRun(append(s.environment(), "--case", "state", "--stream", "--async", "--checkpoint_interval", "200ms",
				"--n", fmt.Sprint(size.n), "--value", fmt.Sprint(size.mB*mB), "--keys", "100000")...)
			job, _ := s.job()
			var newest checkpoint
			testkit.Eventually(t, time.Minute, "a checkpoint with an element", func() bool {
				for _, c := range s.checkpoints(job) {
					if c.State == "complete" && c.Bytes > int64(size.mB*mB) {
						newest = c
					}
				}
				return newest.Bytes > 0
			})
			if _, state := s.job(); state != "RUNNING" {
				t.Fatalf("the job is %s already", state)
			}
			s.kill()
			s = startServer(t, dir)
			s.awaitExact(time.Minute)
			t.Logf("%d MB in checkpoint %d, %.1f s; %d MiB of memory after it", newest.Bytes/mB, newest.Epoch, newest.Seconds, s.status("VmHWM")>>10)
		})
	}
}
