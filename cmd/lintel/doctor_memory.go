package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/lintelrun/lintel/runner/worker"
)

// memoryLimit compares what this process may take with what a job's data may.
func (d *doctor) memoryLimit(context.Context) []finding {
	return []finding{d.memoryWithin(os.DirFS("/"))}
}

// memoryWithin is memoryLimit for a system whose files are in root.
func (d *doctor) memoryWithin(root fs.FS) finding {
	f := finding{Name: "memory", Status: standingOK, Meaning: "the data of jobs goes to disk above their budget; the server and workers need as much again"}
	budget := uint64(d.memory)
	if budget == 0 {
		budget = worker.DefaultMemoryBytes
	}
	limit, of := memoryOf(root)
	if limit == math.MaxUint64 {
		f.Found = fmt.Sprintf("no limit found, the budget of jobs is %s", mebibytes(budget))
		return f
	}
	f.Found = fmt.Sprintf("%s by %s, the budget of jobs is %s", mebibytes(limit), of, mebibytes(budget))
	if f.Status = enough(limit, budget, 2*budget); f.Status != standingOK {
		f.Advice = fmt.Sprintf("raise the limit, or say lintel dev --memory-budget %dM", max(worker.LeastMemoryBytes>>20, limit/4>>20))
	}
	return f
}

// memoryOf is the least limit of memory on this process in bytes, and what sets it. Systems
// without such files have no limit that we could tell.
func memoryOf(root fs.FS) (limit uint64, of string) {
	limit, of = math.MaxUint64, ""
	lower := func(n uint64, by string) {
		if n < limit {
			limit, of = n, by
		}
	}
	lower(totalMemory(root), "this machine")
	for _, group := range controlGroups(root) {
		b, err := fs.ReadFile(root, group)
		if err != nil {
			continue // the group of a container's host, or another version of control groups
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil { // or "max"
			lower(n, "the control group's limit in /"+group)
		}
	}
	return limit, of
}

func totalMemory(root fs.FS) uint64 {
	file, err := root.Open("proc/meminfo")
	if err != nil {
		return math.MaxUint64
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kib uint64
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return math.MaxUint64
}

// controlGroups lists the files that may limit this process: those of its groups, versions 1 and
// 2, and of all groups above, whose limits count as well.
func controlGroups(root fs.FS) []string {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var files []string
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(parts) != 3 {
			continue
		}
		base, name := "sys/fs/cgroup", "memory.max"
		if parts[0] != "0" {
			base, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		if parts[0] != "0" && !strings.Contains(","+parts[1]+",", ",memory,") {
			continue
		}
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			files = append(files, path.Join(base, group, name))
			if group == "/" {
				break
			}
		}
	}
	return files
}
