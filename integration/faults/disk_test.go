package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// smallDisk is a folder that holds so many bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	mountSmall(t, dir, bytes)
	return dir
}

// mountSmall has a folder hold so many bytes.
func mountSmall(t *testing.T, dir string, bytes int) {
	t.Helper()
	switch err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); {
	case errors.Is(err, fs.ErrPermission):
		t.Skipf("a tmpfs is this test's small disk: mounting one takes root, in a container with the capability SYS_ADMIN: %v", err)
	case err != nil:
		t.Fatalf("mounting a tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}

// fill takes all of a disk that is free, until its result is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	for chunk := make([]byte, 64*kB); err == nil; {
		_, err = f.Write(chunk)
	}
	if f == nil || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling %s: %v", dir, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// Fault 7: the disks of checkpoints, of spilled data with the state, and of records are full one after the other. The job
// says so, goes on or starts again, and is as it should be once there is space, whatever was lost meanwhile.
func TestFullDisksOfAJobWithCheckpoints(t *testing.T) {
	const elements = 240
	dir := t.TempDir()
	checkpoints, spill, records := smallDisk(t, 24*mB), filepath.Join(dir, "data", "spill"), filepath.Join(dir, "data", "jobs")
	for _, d := range []string{spill, records} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		mountSmall(t, d, 24*mB)
	}
	flags := []string{"--checkpoint-dir", "file://" + checkpoints, "--state-backend", "pebble"}
	s := startServer(t, dir, flags...)
	observed := filepath.Join(dir, "observed")
	s.submitExact(elements, observed, "--every", slowEvery.String(), "--restart_attempts", "-1", "--restart_delay", "300ms", "--restart_max_delay", "1s")
	job, _ := s.job()
	manifests := func() int {
		found, err := filepath.Glob(filepath.Join(checkpoints, job, "manifest-*"))
		if err != nil || len(found) == 0 {
			return 0
		}
		var newest int
		if _, err := fmt.Sscanf(filepath.Base(found[len(found)-1]), "manifest-%d", &newest); err != nil {
			t.Fatal(err)
		}
		return newest
	}
	told := func(what string) {
		t.Helper()
		testkit.Eventually(t, time.Minute, "the job's log tells of "+what, func() bool { return strings.Contains(s.onlyLog(), what) })
	}
	comesAgain := func() {
		t.Helper()
		before := manifests()
		testkit.Eventually(t, time.Minute, "another checkpoint", func() bool { return manifests() > before })
	}
	comesAgain()

	free := fill(t, checkpoints)
	told("no space left on " + checkpoints + ", where checkpoints are kept: free some")
	free()
	comesAgain()

	free = fill(t, spill)
	told("the disk is full; free some space")
	free()
	comesAgain()

	free = fill(t, records)
	comesAgain()
	s.kill()
	free()
	s = startServer(t, dir, flags...)
	s.awaitExact(time.Duration(elements) * slowEvery)
	checkObserved(t, observed)
	told("the server was started again, and the job goes on")
	told("the job goes on from checkpoint ")
}

// A job that fills the disk fails and says so; its files go, and the next job finds room.
func TestFullDisk(t *testing.T) {
	type job struct{ what, args string }
	run := func(backend, budget string, cases ...job) {
		t.Run(backend, func(t *testing.T) {
			disk := smallDisk(t, 24*mB)
			s := startServer(t, disk, "--memory-budget", budget, "--state-backend", backend)
			for _, c := range cases {
				out, err := s.run(strings.Fields(c.args)...)
				if err == nil {
					t.Errorf("%s: the job has not failed", c.what)
				}
				for _, want := range []string{"the disk is full; free some space", filepath.Join(disk, "data", "spill"), "no space left on device"} {
					if !strings.Contains(out, want) {
						t.Errorf("%s: the client was not told %q:\n%s", c.what, want, out)
					}
				}
				spill := filepath.Join(disk, "data", "spill")
				testkit.Eventually(t, 10*time.Second, c.what+": the job's files are gone", func() bool {
					left, err := os.ReadDir(spill)
					return err == nil && files(t, spill) == 0 && (len(left) == 0 || backend == "pebble") && used(t, disk) < mB
				})
				s.mustRun("--case", "group", "--n", "1000")
			}
		})
	}
	run("memory", "64M",
		job{"groups", "--case group --n 80000 --value 1000"},
		job{"staged output", "--case reshuffle --n 20 --value 10000000"},
		job{"an iterable", "--case iterable --n 60000 --value 1000"},
		job{"a multimap", "--case multimap --n 60000 --value 1000"})
	// Small bundles, and room for their output, so that the state is what fills the disk.
	run("pebble", "1G", job{"state", "--case state --n 200000 --value 1000 --shards 200"})
}

// files counts the files below a folder.
func files(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// used is how many bytes of a disk are taken.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}
