package filerecords_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
	"github.com/lintelrun/lintel/jobservice/filerecords"
	"github.com/lintelrun/lintel/jobservice/recordstest"
)

var update = flag.Bool("update", false, "write the golden record of this version of the format")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string) *filerecords.Records {
	t.Helper()
	r, err := filerecords.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestSuite(t *testing.T) {
	recordstest.Run(t, func(t *testing.T) func() jobservice.Records {
		dir := filepath.Join(t.TempDir(), "jobs")
		return func() jobservice.Records { return open(t, dir) }
	})
}

var history = recordstest.Events(1, 8)

// write makes a record of job "a", ended or not, and returns the folder of its files.
func write(t testing.TB, dir string, end bool) string {
	t.Helper()
	w, err := open(t, dir).Create(recordstest.Job("a"))
	if err == nil {
		err = w.Append(history)
	}
	if err == nil && end {
		err = w.End(recordstest.Ending(history))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "a")
}

// TestLogMayBreakOffAnywhere cuts the log at every byte: what is whole before
// that is there, and the log goes on from it.
func TestLogMayBreakOffAnywhere(t *testing.T) {
	dir := t.TempDir()
	place := filepath.Join(write(t, dir, false), "log")
	whole, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	before := 0
	for n := range len(whole) + 1 {
		for _, tail := range []string{"", strings.Repeat("\x00", 5000)} {
			if err := os.WriteFile(place, append(whole[:n:n], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			w, events, err := r.Resume("a")
			if err != nil && tail == "" {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if err != nil && fault.ClassOf(err) != fault.Corruption { // zeros in the middle of an event
				t.Fatalf("zeros from %d on: %v", n, err)
			}
			if len(events) > 0 && !cmp.Equal(history[:len(events)], events) {
				t.Fatalf("cut at %d: events %v", n, events)
			}
			if tail == "" {
				if len(events) < before {
					t.Fatalf("cut at %d: %d events, with less of the log %d", n, len(events), before)
				}
				before = len(events)
			}
			next := history[len(events):]
			if err := errors.Join(w.Append(next), w.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := r.Events("a"); err != nil || !cmp.Equal(history, got) {
				t.Fatalf("cut at %d, then resumed: %d events, %v", n, len(got), err)
			}
		}
	}
	if before != len(history) {
		t.Errorf("the whole log has %d events", before)
	}
}

// TestFlippedBitsAreFound flips one bit of each byte of each file: nothing wrong
// is ever believed, and an error names the file.
func TestFlippedBitsAreFound(t *testing.T) {
	dir := t.TempDir()
	folder := write(t, dir, true)
	r := open(t, dir)
	want := view(t, r)
	for _, name := range []string{"job", "log", "end"} {
		place := filepath.Join(folder, name)
		whole, err := os.ReadFile(place)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			bad := bytes.Clone(whole)
			bad[i] ^= 1 << (i % 8)
			if err := os.WriteFile(place, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			got := view(t, r)
			torn := name == "log" && len(got.errs) == 0 // the last event may be one that was never written in full
			if !torn && !slices.ContainsFunc(got.errs, func(err error) bool { return strings.Contains(err.Error(), "a/"+name) }) {
				t.Fatalf("%s, byte %d: errors %v", name, i, got.errs)
			}
			for _, err := range got.errs {
				if c := fault.ClassOf(err); c != fault.Corruption && c != fault.Unsupported {
					t.Fatalf("%s, byte %d: %v has class %v", name, i, err, c)
				}
			}
			if got.pipeline != nil && !proto.Equal(got.pipeline, want.pipeline) {
				t.Fatalf("%s, byte %d: another pipeline", name, i)
			}
			for _, e := range got.events {
				if !slices.Contains(want.events, e) {
					t.Fatalf("%s, byte %d: event %v", name, i, e)
				}
			}
			if diff := cmp.Diff(want.record, got.record, protocmp.Transform()); got.record.Ended && diff != "" {
				t.Fatalf("%s, byte %d: record\n%s", name, i, diff)
			}
		}
		if err := os.WriteFile(place, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// viewed is all that can be had of job "a", with all errors.
type viewed struct {
	record   jobservice.Record
	pipeline *pipepb.Pipeline
	events   []jobservice.Event
	errs     []error
}

func view(t *testing.T, r *filerecords.Records) (v viewed) {
	t.Helper()
	note := func(err error) {
		if err != nil {
			v.errs = append(v.errs, err)
		}
	}
	err := r.Load(func(rec jobservice.Record, err error) {
		note(err)
		if err == nil {
			v.record = rec
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	v.pipeline, err = r.Pipeline("a")
	note(err)
	v.events, err = r.Events("a")
	note(err)
	_, err = r.Metrics("a")
	note(err)
	return v
}

func TestHalvesOfACrashAreCleared(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, true)
	for path, content := range map[string]string{
		"b/job.new":     "begun",
		"c/log":         "of a record whose removal was begun",
		"a/end.new":     "begun",
		"README":        "not ours",
		"Not Ours/file": "not ours",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if v := view(t, open(t, dir)); len(v.errs) > 0 || !v.record.Ended {
		t.Errorf("record %v, errors %v", v.record, v.errs)
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"Not Ours", "README", "a"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left: %v, %v; want %v", names, err, want)
	}
}

// TestEndsBesideTheirPlaceCount: a crash of the machine may take back that an end was renamed, which was on
// the disk before anybody was told.
func TestEndsBesideTheirPlaceCount(t *testing.T) {
	dir := t.TempDir()
	folder := write(t, dir, true)
	whole, err := os.ReadFile(filepath.Join(folder, "end"))
	if err != nil {
		t.Fatal(err)
	}
	want := view(t, open(t, dir))
	for n := range len(whole) + 1 {
		for _, tail := range []string{"", strings.Repeat("\x00", len(whole)-n)} {
			if err := errors.Join(os.RemoveAll(filepath.Join(folder, "end")), os.WriteFile(filepath.Join(folder, "end.new"), append(whole[:n:n], tail...), 0o600)); err != nil {
				t.Fatal(err)
			}
			r := open(t, dir)
			got := view(t, r)
			if got.record.Ended != (n == len(whole)) {
				t.Fatalf("%d bytes of %d, then %d zeros: ended %v", n, len(whole), len(tail), got.record.Ended)
			}
			if !got.record.Ended {
				w, events, err := r.Resume("a")
				if err != nil || len(events) != len(history) {
					t.Fatalf("resumed with %d events, %v", len(events), err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(want.record, got.record, protocmp.Transform()); diff != "" || len(got.errs) > 0 {
				t.Fatalf("%v, record (-want +got):\n%s", got.errs, diff)
			}
		}
	}
}

func TestNewerVersionsAreLeftAlone(t *testing.T) {
	for _, name := range []string{"job", "end"} {
		dir := t.TempDir()
		place := filepath.Join(write(t, dir, true), name)
		b, err := os.ReadFile(place)
		if err != nil {
			t.Fatal(err)
		}
		b[7] = 2
		if err := os.WriteFile(place, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err = open(t, dir).Load(func(rec jobservice.Record, err error) {
			if rec.ID != "a" || fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "version 2") {
				t.Errorf("%s of version 2: %v, %v", name, rec, err)
			}
		})
		if after, readErr := os.ReadFile(place); err != nil || readErr != nil || !bytes.Equal(after, b) {
			t.Errorf("%s has changed: %v, %v", name, err, readErr)
		}
	}
}

// TestLinksAreNotFollowed: who can write to the directory gets nothing by links.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside, true)
	for from, to := range map[string]string{
		filepath.Join(outside, "a"): filepath.Join(dir, "a"),
		outside:                     filepath.Join(dir, "b"),
	} {
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
	r := open(t, dir)
	if err := r.Load(func(rec jobservice.Record, err error) { t.Errorf("loaded %v, %v", rec, err) }); err != nil {
		t.Fatal(err)
	}
	if p, err := r.Pipeline("a"); err == nil {
		t.Errorf("pipeline from outside: %v", p)
	}
	if err := r.Remove("a"); err != nil && !strings.Contains(err.Error(), "escapes") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "a", "job")); err != nil {
		t.Errorf("the record outside: %v", err)
	}
}

// TestGoldenRecord reads what the first release has written: every later one must.
func TestGoldenRecord(t *testing.T) {
	golden := filepath.Join("testdata", "v1")
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		write(t, golden, true)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(golden)); err != nil { // loading may write
		t.Fatal(err)
	}
	got := view(t, open(t, dir))
	want, pipeline := recordstest.Job("a")
	want.Ended, want.Events = true, recordstest.Ending(history).Events
	if diff := cmp.Diff(want, got.record, protocmp.Transform()); diff != "" || len(got.errs) > 0 {
		t.Errorf("record: %v (-want +got):\n%s", got.errs, diff)
	}
	if len(got.events) != len(history)+2 || !proto.Equal(pipeline, got.pipeline) {
		t.Errorf("%d events, pipeline %v", len(got.events), got.pipeline)
	}
	// What we write today is the same, byte by byte, but for the order of maps.
	folder := write(t, t.TempDir(), true)
	b, err := os.ReadFile(filepath.Join(folder, "log"))
	old, oldErr := os.ReadFile(filepath.Join(golden, "a", "log"))
	if err != nil || oldErr != nil || !bytes.Equal(b, old) {
		t.Errorf("the log's format has changed without a new version: %v, %v", err, oldErr)
	}
}

func FuzzFiles(f *testing.F) {
	folder := write(f, f.TempDir(), true)
	for i, name := range []string{"job", "log", "end"} {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), b)
		f.Add(byte(i), b[:len(b)/2])
	}
	f.Add(byte(1), []byte("LNTLJOB\x01\xff\xff\xff\x7f"))
	for i, name := range []string{"staged", "checkpoints"} {
		b := survives(f, name)
		f.Add(byte(3+i), b)
		f.Add(byte(3+i), b[:len(b)/2])
	}
	dir := f.TempDir()
	write(f, dir, true)
	r := open(f, dir)
	f.Fuzz(func(t *testing.T, which byte, content []byte) {
		folder := filepath.Join(dir, "a")
		if err := errors.Join(os.RemoveAll(folder), os.CopyFS(folder, os.DirFS(filepath.Join("testdata", "v1", "a"))),
			os.WriteFile(filepath.Join(folder, []string{"job", "log", "end", "staged", "checkpoints"}[which%5]), content, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, _ = r.Kept("a")
		list, _ := r.Checkpoints("a")
		if err := r.AddCheckpoint("a", checkpoint); fault.ClassOf(err) == fault.Unsupported {
			return // of another version
		} else if err != nil {
			t.Fatal(err)
		}
		if after, err := r.Checkpoints("a"); err != nil || len(after) == 0 || after[len(after)-1] != checkpoint || len(after) > len(list)+1 {
			t.Fatalf("%d checkpoints after %d, %v", len(after), len(list), err)
		}
		v := view(t, r)
		for i, e := range v.events {
			if i > 0 && e.Seq <= v.events[i-1].Seq {
				t.Fatalf("events out of order: %v", v.events)
			}
		}
		if v.record.Ended {
			return
		}
		w, events, err := r.Resume("a")
		if w == nil {
			if err == nil {
				t.Fatal("neither writer nor error")
			}
			return
		}
		next := int64(1)
		if len(events) > 0 {
			next = events[len(events)-1].Seq + 1
		}
		if next < 0 {
			return
		}
		if err := errors.Join(w.Append(recordstest.Events(next, 2)), w.End(recordstest.Ending(recordstest.Events(next, 2))), w.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Events("a"); err != nil || len(got) != len(events)+4 {
			t.Fatalf("after it was resumed: %d events of %d, %v", len(got), len(events)+4, err)
		}
	})
}

var checkpoint = jobservice.Checkpoint{
	Epoch: 7, Generation: 2, Began: time.Unix(100, 1).UTC(), Ended: time.Unix(101, 2).UTC(), Bytes: 300, NewBytes: 20, Savepoint: "file:///s", Failure: "disk full",
}

// survives returns a file of a job that outlives the process.
func survives(t testing.TB, name string) []byte {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, false)
	r := open(t, dir)
	staged := artifact.Staged{
		Token: "token", Blobs: []string{"aa", "bb"},
		Dependencies: map[string][]*pipepb.ArtifactInformation{"env": {{TypeUrn: "file", TypePayload: []byte{1}}}},
	}
	b := []byte(nil)
	err := errors.Join(r.Keep("a", jobservice.Kept{Staged: staged, Replaces: "other-1", RestoreFrom: "file:///s"}), r.AddCheckpoint("a", checkpoint), r.AddCheckpoint("a", jobservice.Checkpoint{Epoch: 8, Generation: 2, Began: checkpoint.Ended, Ended: checkpoint.Ended}))
	if err == nil {
		b, err = os.ReadFile(filepath.Join(dir, "a", name))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWritersGoOnAfterErrors puts folders where files should be: errors name the
// place, and once they are away the same calls complete the record.
func TestWritersGoOnAfterErrors(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	w, err := r.Create(recordstest.Job("a"))
	if err != nil {
		t.Fatal(err)
	}
	blocked := func(name string, call func() error) {
		t.Helper()
		block := filepath.Join(dir, "a", name)
		if err := os.MkdirAll(filepath.Join(block, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := call(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with a folder at %s: %v", name, err)
		}
		if err := os.RemoveAll(block); err != nil {
			t.Fatal(err)
		}
		if err := call(); err != nil {
			t.Errorf("without a folder at %s: %v", name, err)
		}
	}
	blocked("log", func() error { return w.Append(history[:3]) })
	blocked("log.new", func() error { return w.Replace(history[1:3]) })
	blocked("end.new", func() error { return w.End(recordstest.Ending(history)) })
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if v := view(t, r); len(v.errs) > 0 || !v.record.Ended || len(v.events) != 8 { // 2 of the log, 4 states that it lacks, 2 at the end
		t.Errorf("%d events, errors %v", len(v.events), v.errs)
	}
}

func BenchmarkAppend(b *testing.B) {
	r := open(b, b.TempDir())
	w, err := r.Create(recordstest.Job("a"))
	if err != nil {
		b.Fatal(err)
	}
	event := recordstest.Events(3, 1)
	event[0].Text = strings.Repeat("x", 100)
	for b.Loop() {
		if err := w.Append(event); err != nil {
			b.Fatal(err)
		}
		event[0].Seq++
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkLoad1000(b *testing.B) {
	dir := b.TempDir()
	r := open(b, dir)
	for i := range 1000 {
		w, err := r.Create(recordstest.Job(fmt.Sprint("job-", i)))
		if err == nil {
			err = errors.Join(w.Append(history), w.End(recordstest.Ending(history)), w.Close())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if err := r.Load(func(jobservice.Record, error) {}); err != nil {
			b.Fatal(err)
		}
	}
}
