package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/environment"
	"github.com/lintelrun/lintel/fnapi/environment/environmenttest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/proctree"
	"github.com/lintelrun/lintel/internal/testkit"
)

const (
	patience = 30 * time.Second
	ownerEnv = "PROCESS_TEST_OWNER" // makes the test binary a program that launches a worker
)

func TestMain(m *testing.M) {
	RunGuard()
	environmenttest.RunHelper()
	if os.Getenv(ownerEnv) != "" {
		if err := own(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newLauncher(t *testing.T, grace time.Duration) *Launcher {
	t.Helper()
	l, err := New(Config{Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func environmentOf(p *pipepb.ProcessPayload) *pipepb.Environment {
	payload, err := proto.Marshal(p)
	if err != nil {
		panic(err)
	}
	return &pipepb.Environment{Urn: environment.URNProcess, Payload: payload}
}

// self is an environment whose worker is this test binary.
func self(env map[string]string) *pipepb.Environment {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return environmentOf(&pipepb.ProcessPayload{Command: exe, Env: env})
}

// script is an environment whose worker is a shell script.
func script(t *testing.T, body string, env map[string]string) *pipepb.Environment {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a worker's script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return environmentOf(&pipepb.ProcessPayload{Command: path, Env: env})
}

func TestConformance(t *testing.T) {
	environmenttest.Run(t, environmenttest.Suite{
		Launcher:    newLauncher(t, time.Second),
		Environment: self,
		SeesProcess: true,
	})
}

func TestArgumentsAndEnvironmentArriveAsTheyAre(t *testing.T) {
	testkit.Leaks(t)
	t.Setenv("PROCESS_TEST_OURS", "ours")
	t.Setenv("PROCESS_TEST_BOTH", "ours")
	var lines []string
	w, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{
		WorkerID: `w 1 "$HOME"`,
		Environment: script(t, `for a in "$@"; do echo "$a"; done; echo "$PROCESS_TEST_OURS $PROCESS_TEST_BOTH"`,
			map[string]string{"PROCESS_TEST_BOTH": "payload's $HOME"}),
		Endpoints: environment.Endpoints{Control: "c:1", Logging: "l:2", Artifact: "a:3", Provision: "p:4"},
		Output:    func(line string) { lines = append(lines, line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	want := `--id=w 1 "$HOME"
--logging_endpoint=l:2
--artifact_endpoint=a:3
--provision_endpoint=p:4
--control_endpoint=c:1
ours payload's $HOME`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("worker printed\n%s\nwant\n%s", got, want)
	}
	if err := w.Err(); err == nil || !strings.Contains(err.Error(), "exited with code 0 before it was stopped") {
		t.Errorf("Err is %v; want an exit with code 0", err)
	}
}

func TestDeathBySignalIsNamed(t *testing.T) {
	testkit.Leaks(t)
	w, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{
		WorkerID: "w", Environment: script(t, "echo oops\nkill -SEGV $$", nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	for _, want := range []string{"signal 11 (segmentation fault)", "a worker's script", "oops"} {
		if err := w.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Err is %v; want it to hold %q", err, want)
		}
	}
}

func TestErrKeepsTheLastLines(t *testing.T) {
	testkit.Leaks(t)
	w, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{
		WorkerID:    "w",
		Environment: script(t, "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i.; done; printf unended; exit 1", nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	var want strings.Builder
	for i := 952; i <= 1000; i++ {
		fmt.Fprintf(&want, "line %d.\n", i)
	}
	want.WriteString("unended\n")
	if _, got, _ := strings.Cut(w.Err().Error(), "its last lines:\n"); got != want.String() {
		t.Errorf("last lines are\n%s\nwant\n%s", got, want.String())
	}
}

func TestSecretsOfThePayloadStayOutOfErrors(t *testing.T) {
	testkit.Leaks(t)
	env := script(t, "exit 1", map[string]string{"TOKEN": "hush"})
	w, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{WorkerID: "w", Environment: env})
	if err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	if err := w.Err(); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("Err is %v; want one without the payload's variables", err)
	}
}

func TestCommandThatCannotRun(t *testing.T) {
	testkit.Leaks(t)
	notExecutable := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(notExecutable, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"/no/such/boot":        "no such file",
		"no-such-boot-in-path": "not found",
		notExecutable:          "permission denied",
		"two\nlines":           "not found",
	} {
		_, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{
			WorkerID: "w-7", Environment: environmentOf(&pipepb.ProcessPayload{Command: command}),
		})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "w-7") {
			t.Errorf("Launch of %q: %v; want an error with %q and the worker's id", command, err, want)
		}
		if got := fault.ClassOf(err); got != fault.Invalid {
			t.Errorf("Launch of %q: class %v; want %v", command, got, fault.Invalid)
		}
	}
}

func TestCheck(t *testing.T) {
	other := "plan9"
	for _, c := range []struct {
		payload *pipepb.ProcessPayload
		want    fault.Class
		holds   string
	}{
		{&pipepb.ProcessPayload{Command: "boot", Os: other}, fault.Unsupported, other},
		{&pipepb.ProcessPayload{Command: "boot", Arch: "s390"}, fault.Unsupported, "s390"},
		{&pipepb.ProcessPayload{Command: "bo\x00ot"}, fault.Invalid, "NUL"},
		{&pipepb.ProcessPayload{Command: "boot", Env: map[string]string{"A=B": "x"}}, fault.Invalid, "A=B"},
		{&pipepb.ProcessPayload{Command: "boot", Env: map[string]string{"": "x"}}, fault.Invalid, "variable"},
	} {
		err := newLauncher(t, 0).Check(environmentOf(c.payload))
		if err == nil || fault.ClassOf(err) != c.want || !strings.Contains(err.Error(), c.holds) {
			t.Errorf("Check(%v): %v (class %v); want class %v and %q", c.payload, err, fault.ClassOf(err), c.want, c.holds)
		}
	}
	arch := map[string]string{"amd64": "X86_64", "arm64": "aarch64"}[runtime.GOARCH]
	good := environmentOf(&pipepb.ProcessPayload{Command: "boot", Os: "Linux", Arch: arch})
	if err := newLauncher(t, 0).Check(good); err != nil {
		t.Errorf("Check of our own platform by another name: %v", err)
	}
	if err := (Config{Grace: -1}).Validate(); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("Validate of a negative grace: %v; want class %v", err, fault.Invalid)
	}
}

// own launches a worker with grandchildren, prints how long after its start, and never stops it.
func own() error {
	l, err := New(Config{Grace: time.Second})
	if err != nil {
		return err
	}
	_, err = l.Launch(context.Background(), environment.Request{
		WorkerID:    "orphan",
		Environment: environmentOf(&pipepb.ProcessPayload{Command: os.Getenv(ownerEnv)}),
		Output:      func(line string) { fmt.Println(line) },
	})
	if err != nil {
		return err
	}
	select {}
}

// nested is a worker with a child in its group and one in a session of its own; all ignore SIGTERM.
const nested = `trap '' TERM HUP
/bin/sh -c 'read x <"$PROCESS_TEST_FIFO"' &
setsid /bin/sh -c 'read x <"$PROCESS_TEST_FIFO"' &
echo up
read x <"$PROCESS_TEST_FIFO"
`

// startOwner runs a program that launches nested and returns when that is up.
func startOwner(t *testing.T) (owner *exec.Cmd, mark string) {
	t.Helper()
	dir := t.TempDir()
	fifo, worker := filepath.Join(dir, "fifo"), filepath.Join(dir, "worker")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(worker, []byte("#!/bin/sh\n"+nested), 0o700); err != nil {
		t.Fatal(err)
	}
	mark = "PROCESS_TEST_FIFO=" + fifo
	owner = exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"="+worker, mark)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the owner printed %q%q, %v; want up", line, rest, err)
	}
	return owner, mark
}

func marked(t *testing.T, mark string) []proctree.Process {
	t.Helper()
	all, err := proctree.WithEnv(mark)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWorkerDoesNotOutliveAKilledOwner(t *testing.T) {
	testkit.Leaks(t)
	owner, mark := startOwner(t)
	// The owner, the guard, the worker and, as soon as they are forked, its two children.
	testkit.Eventually(t, patience, "five processes", func() bool { return len(marked(t, mark)) == 5 })
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait()
	testkit.Eventually(t, patience, "the end of all processes", func() bool { return len(marked(t, mark)) == 0 })
}

func TestWorkerDoesNotOutliveAKilledGuard(t *testing.T) {
	testkit.Leaks(t)
	mark := fmt.Sprintf("%d.%d", os.Getpid(), time.Now().UnixNano())
	w, err := newLauncher(t, 0).Launch(t.Context(), environment.Request{
		WorkerID:    "w",
		Environment: self(map[string]string{environmenttest.BehaviourEnv: string(environmenttest.NeverConnects), "PROCESS_TEST_MARK": mark}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(marked(t, "PROCESS_TEST_MARK="+mark)); got != 2 {
		t.Errorf("%d processes run; want the guard and the worker", got)
	}
	if err := w.(*worker).guard.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	testkit.Eventually(t, patience, "the end of the worker", func() bool { return len(marked(t, "PROCESS_TEST_MARK="+mark)) == 0 })
	if err := w.Err(); err == nil || !strings.Contains(err.Error(), "guard process (signal: killed)") {
		t.Errorf("Err is %v; want one that tells of the guard", err)
	}
}

func TestWorkerHasAnEmptyDirectoryOfItsOwn(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	l, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 2)
	w, err := l.Launch(t.Context(), environment.Request{
		WorkerID:    "w",
		Environment: script(t, "pwd; ls -A | wc -l; echo x >left-behind; exec sleep 1000", nil),
		Output:      func(line string) { lines <- line },
	})
	if err != nil {
		t.Fatal(err)
	}
	if cwd := <-lines; filepath.Dir(cwd) != dir {
		t.Errorf("the worker began in %q, want a directory in %q", cwd, dir)
	}
	if n := <-lines; n != "0" {
		t.Errorf("the worker's directory had %s files at first", n)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left after the worker: %v, %v", left, err)
	}
}
