package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lintelrun/lintel/internal/proctree"
)

// The guard is a process between us and each worker: this same program, started under another
// name. It exists because nothing in our own process can keep three promises at once: that no
// worker outlives us even if we are killed, that what a worker forks ends with it even in process
// groups of its own (as Beam's Python boot does), and that no zombie is left. The guard
//
//   - is a child subreaper: whatever the worker forks, however it detaches, becomes the guard's
//     child at the latest when its own parent ends, and the guard ends only when all are gone;
//   - reads from the lifeline, a pipe whose other end only we hold: it ends when we let go of it,
//     which the kernel does for us however we die. So stopping and dying take the same path;
//   - reports over a second pipe how the start went and how the worker ended.
//
// Stopping is SIGTERM to the worker's process group; when the worker has ended, SIGTERM to all it
// left behind; when the grace is over, or at once on hurrySignal, SIGKILL to all until none is left.
const (
	guardName   = "lintel-guard" // argument 0 by which RunGuard knows that it is one
	lifelineFD  = 3
	reportFD    = 4
	hurrySignal = syscall.SIGUSR1

	killInterval = 20 * time.Millisecond // between SIGKILLs, for what was forked meanwhile
)

// What the guard reports, one line each: the word, a blank, text.
const (
	reportStarted  = "started"  // no text
	reportUnusable = "unusable" // why the command is none that could be run here
	reportFailed   = "failed"   // why it could not be run this time
	reportEnded    = "ended"    // how it ended, as "exited with code 3"
)

var guardReady atomic.Bool

// RunGuard makes the process a worker's guard, and does not return, if a Launcher has started it
// as one; otherwise it returns at once. Launchers start guards by running the program they are in
// another time, so the main function of each such program, and TestMain where tests start
// processes, must call RunGuard before anything else. Launch fails in programs that did not.
func RunGuard() {
	guardReady.Store(true)
	if len(os.Args) == 0 || os.Args[0] != guardName {
		return
	}
	if err := guard(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", guardName, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// guard runs the command in args after the grace period.
func guard(args []string) error {
	if len(args) < 2 {
		return errors.New("is started by lintel only")
	}
	grace, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a child subreaper: %w", err)
	}
	unix.CloseOnExec(lifelineFD)
	unix.CloseOnExec(reportFD)
	report := os.NewFile(reportFD, "report")

	stop, hurry := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Notify(hurry, hurrySignal)
	go func() {
		// The lifeline carries nothing; it ends when lintel lets go of it.
		_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
		select {
		case stop <- syscall.SIGTERM:
		default: // stopping already
		}
	}()

	// Pdeathsig acts when the thread that forked ends: this one must last as long as the guard.
	runtime.LockOSThread()
	pid, err := start(args[1:])
	if err != nil {
		word := reportFailed
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
			errors.Is(err, exec.ErrNotFound) || errors.Is(err, syscall.ENOEXEC) {
			word = reportUnusable
		}
		fmt.Fprintln(report, word, strings.ReplaceAll(err.Error(), "\n", " "))
		return nil
	}
	fmt.Fprintln(report, reportStarted, "")
	watch(pid, grace, stop, hurry, report)
	return nil
}

func start(args []string) (pid int, err error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 0, err
	}
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		// SIGKILL is for the one death that the guard cannot see coming, its own by SIGKILL.
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	return pid, nil
}

// watch returns when the worker pid and all its descendants are gone.
func watch(pid int, grace time.Duration, stop, hurry <-chan os.Signal, report io.Writer) {
	gone := make(chan ended)
	go reap(gone)
	var over, again <-chan time.Time
	stopping := func(signalAll func()) {
		signalAll()
		if over == nil {
			over = time.After(grace)
		}
	}
	for {
		select {
		case e, ok := <-gone:
			if !ok {
				return
			}
			if e.pid == pid {
				fmt.Fprintln(report, reportEnded, describe(e.status))
				stop = nil // its process group may be another's soon
				stopping(func() { signalDescendants(syscall.SIGTERM) })
			}
		case <-stop:
			stopping(func() { _ = syscall.Kill(-pid, syscall.SIGTERM) })
			stop = nil
		case <-hurry:
			over = time.After(0)
		case <-over:
			over = make(chan time.Time) // never again
			again = time.Tick(killInterval)
			signalDescendants(syscall.SIGKILL)
		case <-again:
			signalDescendants(syscall.SIGKILL)
		}
	}
}

type ended struct {
	pid    int
	status syscall.WaitStatus
}

// reap waits for the children there are and become until there is none, then closes gone.
func reap(gone chan<- ended) {
	defer close(gone)
	for {
		var e ended
		var err error
		e.pid, err = syscall.Wait4(-1, &e.status, 0, nil)
		switch {
		case err == nil:
			gone <- e
		case !errors.Is(err, syscall.EINTR):
			return // ECHILD
		}
	}
}

func signalDescendants(s syscall.Signal) {
	all, err := proctree.Descendants(os.Getpid())
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", guardName, err)
	}
	for _, p := range all {
		_ = syscall.Kill(p.PID, s) // it may have ended since
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("was ended by signal %d (%v)", s.Signal(), s.Signal())
	}
	return fmt.Sprintf("exited with code %d", s.ExitStatus())
}
