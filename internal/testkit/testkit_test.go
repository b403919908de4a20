package testkit

import (
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// recorder is a test that only notes what is reported to it.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)         { r.errors = append(r.errors, fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.errors = append(r.errors, fmt.Sprintf(f, a...)) }

func (r *recorder) end() string {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return strings.Join(r.errors, "\n")
}

func TestLeaksFindsNothingInACleanTest(t *testing.T) {
	r := &recorder{TB: t}
	Leaks(r)
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatal(err)
	}
	if got := r.end(); got != "" {
		t.Errorf("Leaks reports %q; want nothing", got)
	}
}

func TestLeaksFindsGoroutine(t *testing.T) {
	r := &recorder{TB: t}
	Leaks(r)
	stop := make(chan struct{})
	defer close(stop)
	go func() { <-stop }()
	if got := r.end(); !strings.Contains(got, "goroutines") {
		t.Errorf("Leaks reports %q; want a goroutine", got)
	}
}

func TestLeaksFindsChildAndOrphan(t *testing.T) {
	for name, script := range map[string]string{
		"child":  `echo up; read x; :`,
		"orphan": `exec 3<&0; (/bin/sh -c 'echo up; read x <&3; :' &) ; :`,
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			Leaks(r)
			cmd := exec.Command("/bin/sh", "-c", script)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			if got := r.end(); !strings.Contains(got, "process left running: sh") {
				t.Errorf("Leaks reports %q; want a shell", got)
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestEventually(t *testing.T) {
	var asked atomic.Int32
	Eventually(t, time.Minute, "the third answer", func() bool { return asked.Add(1) == 3 })
	if asked.Load() != 3 {
		t.Errorf("asked %d times; want 3", asked.Load())
	}
}
