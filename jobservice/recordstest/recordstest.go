// Package recordstest is what an implementation of jobservice.Records has to pass.
package recordstest

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/jobservice"
	"github.com/lintelrun/lintel/jobservice/artifact"
)

// Run tests what open returns. Every call of open opens the same storage of the
// test anew, after the former has been used for the last time.
func Run(t *testing.T, newStorage func(t *testing.T) (open func() jobservice.Records)) {
	for name, test := range map[string]func(*testing.T, *suite){
		"created records are listed":         created,
		"an ended job comes back whole":      ended,
		"a log is resumed where it ends":     resumed,
		"a replaced log has nothing else":    replaced,
		"a removed record is gone":           removed,
		"jobs don't disturb each other":      concurrent,
		"what was never written is not told": missing,
		"what was staged is kept":            kept,
		"checkpoints are listed":             checkpoints,
	} {
		t.Run(name, func(t *testing.T) {
			open := newStorage(t)
			test(t, &suite{open: open, Records: open()})
		})
	}
}

type suite struct {
	jobservice.Records
	open func() jobservice.Records
}

func (s *suite) reopen() { s.Records = s.open() }

// Job returns a record and the pipeline of a job.
func Job(id string) (jobservice.Record, *pipepb.Pipeline) {
	options, err := structpb.NewStruct(map[string]any{"beam:option:job_name:v1": id, "list": []any{1.0, nil}})
	if err != nil {
		panic(err)
	}
	return jobservice.Record{ID: id, Name: "Job é\x00 of " + id, Prepared: time.Unix(1700000000, 123456789).UTC(), Options: options, Bytes: 77},
		&pipepb.Pipeline{RootTransformIds: []string{"t", id}, Components: &pipepb.Components{Coders: map[string]*pipepb.Coder{"c": {}}}}
}

// Events returns a history of a job that runs, from a Seq on.
func Events(from int64, n int) []jobservice.Event {
	all := []jobservice.Event{
		{State: jobpb.JobState_STOPPED},
		{State: jobpb.JobState_STARTING},
		{Level: slog.LevelDebug, Text: "", Harness: true},
		{Level: slog.LevelError, Text: "lines\nof é\x00 " + strings.Repeat("x", 300)},
		{State: jobpb.JobState_RUNNING},
		{Level: slog.Level(2), Text: "more"},
	}
	events := make([]jobservice.Event, n)
	for i := range events {
		events[i] = all[(from-1+int64(i))%int64(len(all))]
		events[i].Seq = from + int64(i)
		events[i].Time = time.Unix(1700000001, events[i].Seq).UTC()
	}
	return events
}

// Ending returns how a job with the given events fails.
func Ending(events []jobservice.Event) jobservice.Ending {
	last := events[len(events)-1].Seq
	at := time.Unix(1700000009, 5).UTC()
	states := slices.DeleteFunc(slices.Clone(events), func(e jobservice.Event) bool { return e.State == jobpb.JobState_UNSPECIFIED })
	return jobservice.Ending{
		Events: append(states,
			jobservice.Event{Seq: last + 1, Time: at, Level: slog.LevelError, Text: "boom\n  at user.py:7", Failure: true},
			jobservice.Event{Seq: last + 2, Time: at, State: jobpb.JobState_FAILED}),
		Metrics: &jobpb.MetricResults{
			Attempted: []*pipepb.MonitoringInfo{{Urn: "u", Payload: []byte{1, 2}, Labels: map[string]string{"NAME": "n"}}},
			Committed: []*pipepb.MonitoringInfo{{Urn: "v"}},
		},
	}
}

func (s *suite) create(t *testing.T, id string) jobservice.RecordWriter {
	t.Helper()
	w, err := s.Create(Job(id))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load returns all records by id.
func (s *suite) load(t *testing.T) map[string]jobservice.Record {
	t.Helper()
	all := map[string]jobservice.Record{}
	check(t, s.Load(func(r jobservice.Record, err error) {
		if err != nil {
			t.Errorf("record %s: %v", r.ID, err)
		}
		if _, twice := all[r.ID]; twice {
			t.Errorf("record %s is loaded twice", r.ID)
		}
		all[r.ID] = r
	}))
	return all
}

func (s *suite) wantEvents(t *testing.T, id string, want []jobservice.Event) {
	t.Helper()
	got, err := s.Events(id)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("events of %s: %v (-want +got):\n%s", id, err, diff)
	}
}

func created(t *testing.T, s *suite) {
	check(t, s.create(t, "a").Close())
	check(t, s.create(t, "b-2").Close())
	if _, err := s.Create(Job("a")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second record of the same id: %v, want fs.ErrExist", err)
	}
	for range 2 {
		list := s.load(t)
		if len(list) != 2 {
			t.Errorf("%d records, want 2", len(list))
		}
		for _, id := range []string{"a", "b-2"} {
			want, pipeline := Job(id)
			if diff := cmp.Diff(want, list[id], protocmp.Transform()); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			got, err := s.Pipeline(id)
			if diff := cmp.Diff(pipeline, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("pipeline: %v (-want +got):\n%s", err, diff)
			}
			s.wantEvents(t, id, nil)
		}
		s.reopen()
	}
}

func ended(t *testing.T, s *suite) {
	events := Events(1, 20)
	ending := Ending(events)
	w := s.create(t, "a")
	check(t, w.Append(events[:7]))
	s.wantEvents(t, "a", events[:7]) // while it runs
	check(t, w.Append(events[7:]))
	check(t, w.End(ending))
	check(t, w.Close())
	for range 2 {
		r := s.load(t)["a"]
		if diff := cmp.Diff(ending.Events, r.Events); !r.Ended || diff != "" {
			t.Errorf("ended %v with events (-want +got):\n%s", r.Ended, diff)
		}
		s.wantEvents(t, "a", append(slices.Clone(events), ending.Events[len(ending.Events)-2:]...))
		m, err := s.Metrics("a")
		if diff := cmp.Diff(ending.Metrics, m, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("metrics: %v (-want +got):\n%s", err, diff)
		}
		if _, _, err := s.Resume("a"); err == nil {
			t.Error("an ended job is resumed")
		}
		s.reopen()
	}
}

func resumed(t *testing.T, s *suite) {
	events := Events(1, 9)
	check(t, s.create(t, "a").Close())
	for i := range 3 {
		s.reopen()
		if s.load(t)["a"].Ended {
			t.Error("it has ended")
		}
		w, got, err := s.Resume("a")
		if diff := cmp.Diff(events[:3*i], got, cmp.Transformer("", slices.Clone[[]jobservice.Event])); err != nil || len(got) != 3*i || len(got) > 0 && diff != "" {
			t.Errorf("resumed with %v (-want +got):\n%s", err, diff)
		}
		check(t, w.Append(events[3*i:3*i+3]))
		check(t, w.Close())
	}
	s.reopen()
	w, _, err := s.Resume("a")
	check(t, err)
	check(t, w.End(Ending(events)))
	check(t, w.Close())
	s.reopen()
	if !s.load(t)["a"].Ended {
		t.Error("it has not ended")
	}
}

func replaced(t *testing.T, s *suite) {
	events := Events(1, 30)
	w := s.create(t, "a")
	check(t, w.Append(events[:20]))
	kept := append(slices.Clone(events[:2]), events[15:20]...)
	check(t, w.Replace(kept))
	s.wantEvents(t, "a", kept)
	check(t, w.Append(events[20:]))
	check(t, w.Close())
	s.reopen()
	s.wantEvents(t, "a", append(kept, events[20:]...))
}

func removed(t *testing.T, s *suite) {
	for _, id := range []string{"a", "b", "c"} {
		w := s.create(t, id)
		if id == "b" {
			check(t, w.Append(Events(1, 3)))
			check(t, w.End(Ending(Events(1, 3))))
		}
		check(t, w.Close())
	}
	check(t, s.Remove("a"))
	check(t, s.Remove("b"))
	check(t, s.Remove("b"))
	if list := s.load(t); len(list) != 1 {
		t.Errorf("%d records, want 1", len(list))
	}
	s.reopen()
	for _, id := range []string{"a", "b"} {
		if _, err := s.Pipeline(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("pipeline of a removed record: %v", err)
		}
		if _, err := s.Metrics(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("metrics of a removed record: %v", err)
		}
	}
	check(t, s.create(t, "a").Close()) // the id is free again
	s.wantEvents(t, "a", nil)
}

func concurrent(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := fmt.Sprint("job-", i)
			w, err := s.Create(Job(id))
			for n := int64(1); n < 50 && err == nil; n++ {
				err = w.Append(Events(n, 1))
			}
			if err == nil && i%2 == 0 {
				err = w.End(Ending(Events(1, 49)))
			}
			if err == nil {
				err = w.Close()
			}
			if err == nil && i%4 == 0 {
				err = s.Remove(id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.reopen()
	list := s.load(t)
	if len(list) != 12 {
		t.Errorf("%d records, want 12", len(list))
	}
	for id, r := range list {
		events, err := s.Events(id)
		if want := map[bool]int{true: 51, false: 49}[r.Ended]; err != nil || len(events) != want {
			t.Errorf("%s has %d events, %v; want %d", id, len(events), err, want)
		}
	}
}

func kept(t *testing.T, s *suite) {
	check(t, s.create(t, "a").Close())
	check(t, s.create(t, "b").Close())
	staged := artifact.Staged{
		Token: "token", Blobs: []string{"aa", "bb"},
		Dependencies: map[string][]*pipepb.ArtifactInformation{"env": {{TypeUrn: "file", TypePayload: []byte{1}}}, "bare": nil},
	}
	want := jobservice.Kept{Staged: staged}
	check(t, s.Keep("a", want))
	for i := range 4 {
		if i == 2 {
			want.Replaces, want.RestoreFrom = "other-1", "file:///savepoints/one"
			check(t, s.Keep("a", want))
		}
		got, err := s.Kept("a")
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		if _, err := s.Kept("b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of a job that has kept nothing: %v", err)
		}
		s.reopen()
	}
}

func checkpoints(t *testing.T, s *suite) {
	check(t, s.create(t, "a").Close())
	const most = 5 * jobservice.KeptCheckpoints
	for n := uint64(1); n <= most; n++ {
		c := jobservice.Checkpoint{Epoch: n, Generation: 2, Began: time.Unix(int64(n), 1).UTC(), Ended: time.Unix(int64(n), 2).UTC(), Bytes: 7, NewBytes: 3}
		if n == 2 {
			c.Savepoint, c.Failure = "file:///s", "disk full"
		}
		check(t, s.AddCheckpoint("a", c))
		if n%100 == 50 {
			s.reopen()
		}
		list, err := s.Checkpoints("a")
		if err != nil || list[len(list)-1] != c || len(list) > jobservice.KeptCheckpoints+1 || n >= 2 && !slices.ContainsFunc(list, func(c jobservice.Checkpoint) bool { return c.Failure == "disk full" && c.Savepoint == "file:///s" }) {
			t.Fatalf("after %d: %d checkpoints, %v", n, len(list), err)
		}
	}
	if list, err := s.Checkpoints("nobody"); err != nil || len(list) != 0 {
		t.Errorf("of nobody: %v, %v", list, err)
	}
}

func missing(t *testing.T, s *suite) {
	if list := s.load(t); len(list) != 0 {
		t.Errorf("new storage has records %v", list)
	}
	for _, id := range []string{"nobody", "../x", "", "a/b"} {
		if p, err := s.Pipeline(id); err == nil {
			t.Errorf("pipeline of %q: %v", id, p)
		}
		if m, err := s.Metrics(id); err == nil {
			t.Errorf("metrics of %q: %v", id, m)
		}
	}
	if _, err := s.Create(Job("../x")); err == nil {
		t.Error("an id that is a path is taken")
	}
	check(t, s.Remove("nobody"))
}
