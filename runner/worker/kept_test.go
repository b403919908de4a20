package worker

import (
	"archive/zip"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/rpc"
)

var keep = flag.String("keep", "", "version of which to keep checkpoints, which later builds are to restore")

// keptDir has a folder of each version, and in it a checkpoint of each job: its objects, and in keptRest what
// the job puts out that goes on from it.
const (
	keptDir      = "testdata/checkpoints"
	keptRest     = "rest"
	keptManifest = "manifest"
)

// jobsKept are the jobs of which there are checkpoints. What they are must not change.
func jobsKept() map[string]interrupted {
	all := jobsToInterrupt()
	delete(all, "stable panes") // it waits for checkpoints, and nobody takes any of what is kept
	all["tables"] = interrupted{made: all["timers"].made, with: []protocol.PartKind{protocol.Tables, protocol.Inbox}}
	side := all["waiting for windows"]
	all["side input"] = interrupted{made: side.made, with: []protocol.PartKind{protocol.Side}}
	return all
}

// keptRig is a rig for a kept job.
func keptRig(t *testing.T, name string, c *interrupted) (r *rig, got func() []string) {
	p, got := c.made(t)
	for id, do := range p.fns {
		p.fns[id] = slowly(time.Millisecond, do)
	}
	inPanes(p.plan)
	r = newRig(t, p.script)
	r.cfg.MemoryBytes = LeastMemoryBytes
	if name == "tables" {
		r.cfg.State = stateBackend(t, "pebble")
	}
	r.deployment.Plan = p.plan
	return r, got
}

// goOn runs a kept job from a checkpoint to its end, finding its tasks by their names, and returns what it has put out.
func goOn(t *testing.T, name string, c *interrupted, m *protocol.Manifest, open func(context.Context, protocol.File) (io.ReadCloser, error)) []string {
	t.Helper()
	r, got := keptRig(t, name, c)
	store := files{generation: m.Generation + 1}
	r.deployment.Checkpoints = &store
	r.deployment.Restore = &rpc.Restore{Manifest: m, Open: open, Metrics: metricsOf(t, m)}
	e := r.start(t.Context(), r.deployment)
	if err := e.Restored(); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(e); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(got()))
}

// Checkpoints of all versions that there were are restored, and the jobs do what is left and nothing else. The newest version
// has all kinds of parts. With -keep VERSION those of this build are kept.
func TestKeptCheckpoints(t *testing.T) {
	if *keep != "" {
		keepCheckpoints(t, filepath.Join(keptDir, *keep))
	}
	all, err := filepath.Glob(filepath.Join(keptDir, "*", "*.zip"))
	if err != nil || len(all) < len(jobsKept()) {
		t.Fatalf("%d checkpoints are kept, %v", len(all), err)
	}
	found := map[string]map[protocol.PartKind]bool{} // by version
	for _, path := range all {
		version, name := filepath.Base(filepath.Dir(path)), strings.TrimSuffix(filepath.Base(path), ".zip")
		t.Run(version+"/"+name, func(t *testing.T) {
			name = strings.ReplaceAll(name, "-", " ")
			c, ok := jobsKept()[name]
			if !ok {
				t.Fatal("there is no such job any more")
			}
			m, data := readKept(t, path)
			if found[version] == nil {
				found[version] = map[protocol.PartKind]bool{}
			}
			for _, task := range m.Tasks {
				for _, p := range task.Parts {
					found[version][p.Kind] = true
				}
			}
			want := strings.Split(strings.TrimSuffix(string(data[keptRest]), "\n"), "\n")
			got := goOn(t, name, &c, m, func(_ context.Context, f protocol.File) (io.ReadCloser, error) {
				b, ok := data[f.Name()]
				if !ok || int64(len(b)) != f.Size || protocol.Checksum(b) != f.CRC32C {
					return nil, fault.New(fault.Corruption, "no file %s as the manifest says", f.Name())
				}
				return io.NopCloser(bytes.NewReader(b)), nil
			})
			if diff := cmp.Diff(want, printable(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for version, kinds := range found {
		for kind := protocol.State; kind <= protocol.Spool; kind++ {
			if !kinds[kind] && kind != protocol.Finalizers { // which nobody writes
				t.Errorf("no checkpoint of version %s has a part of kind %v", version, kind)
			}
		}
	}
}

// printable are lines without line breaks in them.
func printable(lines []string) []string {
	all := make([]string, len(lines))
	for i, line := range lines {
		all[i] = fmt.Sprintf("%q", line)
	}
	return all
}

// readKept returns the manifest and all that lies in a kept checkpoint, by name.
func readKept(t *testing.T, path string) (*protocol.Manifest, map[string][]byte) {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all := map[string][]byte{}
	for _, f := range z.File {
		if all[f.Name], err = fs.ReadFile(z, f.Name); err != nil {
			t.Fatal(err)
		}
	}
	m, err := protocol.DecodeManifest(all[keptManifest])
	if err != nil {
		t.Fatal(err)
	}
	return m, all
}

// keepCheckpoints makes a checkpoint of each job and keeps it.
func keepCheckpoints(t *testing.T, dir string) {
	if _, err := os.Stat(dir); err == nil {
		t.Fatalf("%s is there, and is kept as it is", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range jobsKept() {
		for seed := uint64(0); !keepOne(t, filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".zip"), name, &c, seed); seed++ {
			if seed == 50 {
				t.Fatalf("%s has no checkpoint with %v", name, c.with)
			}
		}
	}
}

// keepOne keeps a checkpoint with all that it is to have, if it comes by one.
func keepOne(t *testing.T, path, name string, c *interrupted, seed uint64) bool {
	r, _ := keptRig(t, name, c)
	v := newRecovery(t, r, seed)
	whole := func() bool {
		return v.newest != nil && !slices.ContainsFunc(c.with, func(k protocol.PartKind) bool { return !v.has(k) })
	}
	v.run(whole)
	if !whole() {
		return false
	}
	rest := goOn(t, name, c, v.newest, v.store.open)
	if len(rest) == 0 {
		return false
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) {
		if bytes.Contains(data, []byte(os.TempDir())) {
			t.Fatalf("%s has a path of this machine", name)
		}
		out, err := z.Create(name)
		if err == nil {
			_, err = out.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(keptManifest, v.newest.Encode())
	for _, f := range v.newest.Files {
		add(f.Name(), v.store.all[f.FileID])
	}
	add(keptRest, []byte(strings.Join(printable(rest), "\n")+"\n"))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return true
}
