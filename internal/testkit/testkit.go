// Package testkit holds what tests of many packages need: checks that nothing is left running,
// and waiting without sleeping.
package testkit

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lintelrun/lintel/internal/proctree"
)

// mark is inherited by every process that this test binary starts, so that those whose parents
// have ended are found as well.
var mark = sync.OnceValues(func() (string, error) {
	const name = "LINTEL_TESTKIT_MARK"
	value := fmt.Sprintf("%d.%d", os.Getpid(), time.Now().UnixNano())
	return name + "=" + value, os.Setenv(name, value)
})

// Leaks fails the test if, when it and its cleanups registered after this call have ended,
// goroutines or processes run that did not before. Call it first. It looks at the whole test
// binary, so it is of no use in parallel tests.
func Leaks(t testing.TB) {
	t.Helper()
	if _, err := mark(); err != nil {
		t.Fatal(err)
	}
	goroutines := goleak.IgnoreCurrent()
	before, err := started()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := started()
		if err != nil {
			t.Error(err)
		}
		for pid, p := range after {
			if _, ok := before[pid]; !ok {
				t.Errorf("testkit: process left running: %v", p)
			}
		}
		if err := goleak.Find(goroutines); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
}

// started returns what this process has started, by pid: descendants and bearers of the mark.
func started() (map[int]proctree.Process, error) {
	entry, err := mark()
	if err != nil {
		return nil, err
	}
	below, err := proctree.Descendants(os.Getpid())
	if err != nil {
		return nil, err
	}
	marked, err := proctree.WithEnv(entry)
	if err != nil {
		return nil, err
	}
	found := map[int]proctree.Process{}
	for _, p := range append(below, marked...) {
		found[p.PID] = p
	}
	return found, nil
}

// Eventually waits until cond holds, asking it every few milliseconds, and ends the test if it
// does not within the time given. It is for what other processes do; use testing/synctest for
// what happens in this one.
func Eventually(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("testkit: not within %v: %s", within, what)
		}
	}
}
