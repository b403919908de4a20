package proctree

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		stat string
		want Process
		ok   bool
	}{
		{"7 (cat) S 3 7 7 0", Process{PID: 7, Parent: 3, Name: "cat"}, true},
		{"7 (a) b (c)) Z 3 7", Process{PID: 7, Parent: 3, Zombie: true, Name: "a) b (c)"}, true},
		{"7 (cat", Process{}, false},
		{"7 (cat) S", Process{}, false},
		{"7 (cat) S x", Process{}, false},
		{"", Process{}, false},
	} {
		got, ok := parseStat(7, c.stat)
		if ok != c.ok || got != c.want {
			t.Errorf("parseStat(%q) = %v, %v; want %v, %v", c.stat, got, ok, c.want, c.ok)
		}
	}
}

func TestFindsChildAndGrandchild(t *testing.T) {
	// The outer shell says when the inner one runs; both wait for their standard input to end.
	cmd := exec.Command("/bin/sh", "-c", `/bin/sh -c 'echo up; read x; :'; :`)
	cmd.Env = append(os.Environ(), "PROCTREE_TEST=child")
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

	below, err := Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child := slices.IndexFunc(below, func(p Process) bool { return p.PID == cmd.Process.Pid })
	grandchild := slices.IndexFunc(below, func(p Process) bool { return p.Parent == cmd.Process.Pid })
	if child < 0 || grandchild < 0 {
		t.Errorf("descendants are %v; want %d and a child of it", below, cmd.Process.Pid)
	}
	marked, err := WithEnv("PROCTREE_TEST=child")
	if err != nil {
		t.Fatal(err)
	}
	if len(marked) != 2 {
		t.Errorf("marked processes are %v; want two", marked)
	}

	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if marked, _ := WithEnv("PROCTREE_TEST=child"); len(marked) != 0 {
		t.Errorf("marked processes at the end are %v; want none", marked)
	}
}
