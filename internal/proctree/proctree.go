// Package proctree reads the tree of processes from /proc (Linux).
package proctree

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process is one process as /proc showed it a moment ago.
type Process struct {
	PID    int
	Parent int
	// Zombie is set for a process that has ended and that its parent has not waited for.
	Zombie bool
	// Name is the kernel's short name of the program.
	Name string
}

// String names the process for messages.
func (p Process) String() string {
	state := ""
	if p.Zombie {
		state = ", zombie"
	}
	return fmt.Sprintf("%s (pid %d, parent %d%s)", p.Name, p.PID, p.Parent, state)
}

// All returns every process that can be seen. The list is no atomic picture: what was forked
// while it was read may be missing.
func All() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended in between
		}
		if p, ok := parseStat(pid, string(stat)); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// parseStat reads "pid (name) state parent …"; the name may itself hold blanks and brackets.
func parseStat(pid int, stat string) (Process, bool) {
	from, to := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if from < 0 || to < from {
		return Process{}, false
	}
	rest := strings.Fields(stat[to+1:])
	if len(rest) < 2 {
		return Process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	if err != nil {
		return Process{}, false
	}
	return Process{PID: pid, Parent: parent, Zombie: rest[0] == "Z" || rest[0] == "X", Name: stat[from+1 : to]}, true
}

// Descendants returns the children of pid, their children and so on, without pid itself.
func Descendants(pid int) ([]Process, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	children := map[int][]Process{}
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p)
	}
	var found []Process
	seen := map[int]bool{pid: true} // a pid used anew while we read could close a circle
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			if !seen[p.PID] {
				seen[p.PID] = true
				found = append(found, p)
				queue = append(queue, p.PID)
			}
		}
	}
	return found, nil
}

// WithEnv returns the processes that were started with the environment entry "NAME=value".
// Processes of other users and zombies, whose environment cannot be read, are not found.
func WithEnv(entry string) ([]Process, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, p := range all {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		if err != nil {
			continue
		}
		for e := range bytes.SplitSeq(env, []byte{0}) {
			if string(e) == entry {
				found = append(found, p)
				break
			}
		}
	}
	return found, nil
}
