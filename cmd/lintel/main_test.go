package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary plays several programs, by the name it is started under: lintel
// itself, and pipelines of the SDKs.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"lintel":  main,
		"python3": fakePipeline,
		"mvn":     fakePipeline,
		"node":    fakePipeline,
	})
}

// TestScripts runs testdata/script; each script has a job server of its own at $LINTEL_ENDPOINT.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			f, err := newFakeServer()
			if err != nil {
				return err
			}
			env.Defer(f.stop)
			env.Setenv("LINTEL_ENDPOINT", f.endpoint)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each program takes a second to end
			port, err := freePort()
			env.Setenv("FREE_PORT", port)
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
		},
	})
}

// exits CODE PROGRAM [ARG…] runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		got = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// freePort is a port that nobody listens on at the moment.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
