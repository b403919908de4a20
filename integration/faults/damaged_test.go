package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/filestore"
	"github.com/lintelrun/lintel/checkpointing/memstore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
)

// harms are what becomes of an object of a checkpoint, given its bytes and those of another; nil is that it is gone.
var harms = map[string]func(data, other []byte) []byte{
	"cut":     func(data, _ []byte) []byte { return data[:len(data)/2] },
	"flipped": func(data, _ []byte) []byte { data[len(data)/2] ^= 4; return data },
	"removed": func([]byte, []byte) []byte { return nil },
	"swapped": func(_, other []byte) []byte { return other },
}

// damage is one harm done to one object.
type damage struct{ how, victim string }

// taken is what a job that was killed has left: the folder of its server, and its checkpoints.
type taken struct {
	dir, job  string
	objects   map[string][]byte    // of the job's checkpoints, by name
	manifests []*protocol.Manifest // the newest first
}

// takeCheckpoints runs a job, and kills its server, until it has three checkpoints, of two generations.
func takeCheckpoints(t *testing.T, elements int, observed string) *taken {
	t.Helper()
	k := &taken{dir: t.TempDir(), objects: map[string][]byte{}}
	s := startServer(t, k.dir, "--state-backend", "pebble")
	s.submitExact(elements, observed, "--every", slowEvery.String())
	k.job, _ = s.job()
	s.awaitCheckpoints(k.job, 2)
	s.kill()
	s = startServer(t, k.dir, "--state-backend", "pebble")
	s.awaitCheckpoints(k.job, 1)
	s.kill()
	store, err := filestore.New(k.folder(k.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = store.List(t.Context(), "", func(name string, _ int64) (err error) {
		k.objects[name], err = os.ReadFile(filepath.Join(k.folder(k.dir), name))
		if err != nil || !strings.HasPrefix(name, "manifest-") {
			return err
		}
		m, err := protocol.DecodeManifest(k.objects[name])
		k.manifests = slices.Insert(k.manifests, 0, m)
		return err
	})
	if err != nil || len(k.manifests) < 3 {
		t.Fatalf("%d checkpoints: %v", len(k.manifests), err)
	}
	return k
}

// awaitCheckpoints waits until a job has taken so many more checkpoints. The last is in its record; the next is an interval away.
func (s *server) awaitCheckpoints(job string, more int) {
	s.t.Helper()
	newest := newestComplete(s.checkpoints(job))
	for ; more > 0; more-- {
		was := newest
		testkit.Eventually(s.t, time.Minute, "a checkpoint", func() bool {
			newest = newestComplete(s.checkpoints(job))
			return newest > was
		})
	}
}

// newestComplete returns the epoch of the newest of the checkpoints that are complete, 0 if none is.
func newestComplete(all []checkpoint) (newest uint64) {
	for _, c := range all {
		if c.State == "complete" {
			newest = max(newest, c.Epoch)
		}
	}
	return newest
}

// folder is where the checkpoints are in a copy of the server's folder.
func (k *taken) folder(dir string) string { return filepath.Join(dir, "data", "checkpoints", k.job) }

// newest returns the epoch of the newest checkpoint that a damage leaves whole, 0 if there is none.
func (k *taken) newest(d damage) uint64 {
	for _, m := range k.manifests {
		named := slices.ContainsFunc(m.Files, func(f protocol.File) bool { return f.Name() == d.victim })
		if !named && d.victim != protocol.ManifestName(m.Epoch) {
			return m.Epoch
		}
	}
	return 0
}

// damages are all that can be done to the manifest and the files of the newest checkpoint.
func (k *taken) damages() (all []damage) {
	victims := []string{protocol.ManifestName(k.manifests[0].Epoch)}
	for _, f := range k.manifests[0].Files {
		victims = append(victims, f.Name())
	}
	for _, victim := range victims {
		for how := range harms {
			all = append(all, damage{how, victim})
		}
	}
	slices.SortFunc(all, func(a, b damage) int { return strings.Compare(a.victim+a.how, b.victim+b.how) })
	return all
}

// harmed returns what a damage makes of its victim, which it swaps with another of its kind that is not the same.
func (k *taken) harmed(d damage) []byte {
	kind, _, _ := strings.Cut(d.victim, "0")
	var other []byte
	for _, name := range slices.Sorted(maps.Keys(k.objects)) {
		if strings.HasPrefix(name, kind) && !bytes.Equal(k.objects[name], k.objects[d.victim]) {
			other = k.objects[name]
		}
	}
	return harms[d.how](bytes.Clone(k.objects[d.victim]), other)
}

// copied returns a copy of the server's folder with a damage.
func (k *taken) copied(t *testing.T, d damage) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(k.dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(k.folder(dir), d.victim)
	err := os.Remove(path)
	if data := k.harmed(d); err == nil && data != nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// stored returns a store with what the job has left, but for one object; nil data is that it is gone.
func (k *taken) stored(t *testing.T, victim string, data []byte) checkpointing.Store {
	t.Helper()
	s := new(memstore.Store)
	for name, was := range k.objects {
		if name == victim {
			was = data
		}
		if was == nil {
			continue
		}
		if err := s.Create(t.Context(), name, bytes.NewReader(was)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Fault 5: each object of the newest checkpoint of a real job is cut, changed in one bit, removed or swapped with another. That is found
// out before anything of it is used, and the newest checkpoint that is whole is taken, with a warning in the job's log that names
// the object; the sums are exact. Each damage is tried on what decides that, some (-long: all) on whole servers.
func TestDamagedCheckpoints(t *testing.T) {
	elements, servers := 60, 6
	observed := filepath.Join(t.TempDir(), "observed")
	k := takeCheckpoints(t, elements, observed)
	all := k.damages()
	for _, d := range all {
		k.decide(t, d)
	}
	k.tear(t)
	random := seeded(t)
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if *long {
		servers = len(all)
	}
	t.Logf("%d damages to %d objects; %d of them with a server", len(all), len(all)/len(harms), servers)
	for _, d := range all[:min(servers, len(all))] {
		t.Run(d.how+" "+strings.ReplaceAll(d.victim, "/", " "), func(t *testing.T) {
			s := startServer(t, k.copied(t, d), "--state-backend", "pebble")
			if k.newest(d) > 0 {
				s.awaitExact(time.Duration(elements) * slowEvery)
			} else {
				s.awaitFailed()
			}
			k.checkLog(t, s.onlyLog(), d)
		})
	}
	checkObserved(t, observed)
}

// decide finds out what a job would go on from after a damage.
func (k *taken) decide(t *testing.T, d damage) {
	t.Helper()
	_, got := k.goesOnFrom(t, d.victim, k.harmed(d))
	if want := k.newest(d); want == 0 && got.Outcome != protocol.Refuse || want > 0 && (got.Manifest == nil || got.Manifest.Epoch != want) {
		t.Errorf("%s %s: %v, %v; want epoch %d", d.victim, d.how, got.Outcome, got.Skipped, want)
	}
	if len(got.Skipped) == 0 {
		t.Errorf("%s %s: not found out", d.victim, d.how)
	}
}

// goesOnFrom asks the repository what a job would go on from, where one object is another, and reads all that it would read.
func (k *taken) goesOnFrom(t *testing.T, victim string, data []byte) (*checkpointing.Repository, protocol.Decision) {
	t.Helper()
	r, err := checkpointing.NewGeneration(t.Context(), checkpointing.Config{Store: k.stored(t, victim, data)})
	if err != nil {
		t.Fatal(err)
	}
	w := checkpointing.Wish{AtLeast: k.manifests[0].Epoch, Bad: map[uint64]string{}}
	for {
		got, err := r.Recover(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		if got.Outcome == protocol.Restore {
			if err := readAll(t, r, got.Manifest); err != nil {
				w.Bad[got.Manifest.Epoch] = err.Error()
				continue
			}
		}
		return r, got
	}
}

// Claims, bases and manifests that end at any byte are no others: what is gone on from is the newest checkpoint, or that before a
// manifest that is torn, and no epoch is claimed a second time.
func (k *taken) tear(t *testing.T) {
	t.Helper()
	torn, newest := 0, k.manifests[0].Epoch
	for name, whole := range k.objects {
		if strings.HasPrefix(name, "files/") {
			continue
		}
		want := k.newest(damage{victim: name})
		step := 1
		if !*long {
			step += len(whole) / 50 // manifests are long
		}
		for n := 0; n < len(whole); n += step {
			torn++
			r, got := k.goesOnFrom(t, name, whole[:n])
			if got.Outcome != protocol.Restore || got.Manifest.Epoch != want {
				t.Errorf("%s of %d bytes: %v %v; want epoch %d", name, n, got.Outcome, got.Err, want)
				continue
			}
			if err := r.Begin(t.Context(), got, ""); err != nil {
				t.Errorf("%s of %d bytes: %v", name, n, err)
			}
			if epoch, err := r.Claim(t.Context()); err != nil || epoch <= newest || k.objects[protocol.ClaimName(epoch)] != nil {
				t.Errorf("%s of %d bytes: epoch %d is claimed, %v", name, n, epoch, err)
			}
		}
	}
	t.Logf("%d torn records", torn)
}

// readAll reads all files of a checkpoint, and returns the first that is damaged.
func readAll(t *testing.T, r *checkpointing.Repository, m *protocol.Manifest) error {
	t.Helper()
	for _, f := range m.Files {
		in, err := r.Open(t.Context(), f)
		if err == nil {
			_, err = io.Copy(io.Discard, in)
			err = errors.Join(err, in.Close())
		}
		if err != nil && fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v", f.Name(), err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkLog looks for what a job has to say of a damage.
func (k *taken) checkLog(t *testing.T, log string, d damage) {
	t.Helper()
	newest := k.manifests[0].Epoch
	wants := []string{
		fmt.Sprintf("checkpoint %d can't be used, so an older one is: ", newest), fmt.Sprintf("the job goes on from checkpoint %d of", k.newest(d)),
	}
	if k.newest(d) == 0 { // all that there are name it
		wants = []string{fmt.Sprintf("no checkpoint can be used: checkpoint %d: ", newest)}
	}
	if strings.HasPrefix(d.victim, "files/") {
		wants = append(wants, d.victim)
	}
	for _, want := range wants {
		if !strings.Contains(log, want) {
			t.Errorf("the job's log has no %q:\n%s", want, log)
		}
	}
}

// awaitFailed waits until the server's only job has failed.
func (s *server) awaitFailed() {
	s.t.Helper()
	testkit.Eventually(s.t, time.Minute, "the job has failed", func() bool {
		_, state := s.job()
		return state == "FAILED"
	})
}

// onlyLog returns the messages of the server's only job.
func (s *server) onlyLog() string {
	s.t.Helper()
	id, _ := s.job()
	return s.jobLog(id)
}
