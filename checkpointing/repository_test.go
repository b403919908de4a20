package checkpointing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/checkpointingtest"
	"github.com/lintelrun/lintel/checkpointing/memstore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
)

var none = func() []protocol.UnderWay { return nil }

// start begins the next generation of a job, and returns what it begins with.
func start(t testing.TB, s checkpointing.Store, w checkpointing.Wish) (*checkpointing.Repository, protocol.Decision) {
	t.Helper()
	r, err := checkpointing.NewGeneration(t.Context(), checkpointing.Config{Store: s, Retain: 2, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Recover(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if d.Outcome != protocol.Refuse {
		if err := r.Begin(t.Context(), d, ""); err != nil {
			t.Fatal(err)
		}
	}
	return r, d
}

// take takes a checkpoint of a job with one task, whose state is text and the files before.
func take(ctx context.Context, r *checkpointing.Repository, text string, before ...protocol.File) (*protocol.Manifest, error) {
	epoch, err := r.Claim(ctx)
	if err != nil {
		return nil, err
	}
	own, err := r.Put(ctx, epoch, 1, strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	m := &protocol.Manifest{
		Epoch: epoch, Generation: r.Generation(), KeyGroups: 1,
		Files: append([]protocol.File{own}, before...),
		Tasks: []protocol.Task{{Stage: "s", Of: 1, EndGroup: 1}},
	}
	for i, f := range m.Files {
		m.Tasks[0].Parts = append(m.Tasks[0].Parts, protocol.Part{Kind: protocol.State, EndGroup: 1, Span: protocol.Span{File: i, Length: f.Size}})
	}
	return m, r.Commit(ctx, m)
}

func content(t testing.TB, r *checkpointing.Repository, f protocol.File) (string, error) {
	t.Helper()
	in, err := r.Open(t.Context(), f)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(in)
	return string(data), errors.Join(err, in.Close())
}

func names(t testing.TB, s checkpointing.Store) []string {
	t.Helper()
	var all []string
	if err := s.List(t.Context(), "", func(name string, _ int64) error { all = append(all, name); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestGoesOnWhereItWas(t *testing.T) {
	s := new(memstore.Store)
	r, d := start(t, s, checkpointing.Wish{})
	if d.Outcome != protocol.Fresh {
		t.Fatalf("%v", d.Outcome)
	}
	first, err := take(t.Context(), r, "one")
	if err != nil {
		t.Fatal(err)
	}
	second, err := take(t.Context(), r, "two", first.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	r, d = start(t, s, checkpointing.Wish{AtLeast: 2})
	if diff := cmp.Diff(second, d.Manifest); d.Outcome != protocol.Restore || diff != "" || r.Generation() != 2 {
		t.Errorf("%v, generation %d: %s", d.Outcome, r.Generation(), diff)
	}
	for i, want := range []string{"two", "one"} {
		if got, err := content(t, r, d.Manifest.Files[i]); err != nil || got != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	if third, err := take(t.Context(), r, "three", second.Files...); err != nil || third.Epoch != 3 {
		t.Errorf("%+v, %v", third, err)
	}
}

func TestReplacedRunsStop(t *testing.T) {
	s := new(memstore.Store)
	old, _ := start(t, s, checkpointing.Wish{})
	if _, err := take(t.Context(), old, "one"); err != nil {
		t.Fatal(err)
	}
	now, _ := start(t, s, checkpointing.Wish{})
	if _, err := take(t.Context(), old, "zombie"); fault.ClassOf(err) != fault.Fenced {
		t.Errorf("a replaced run took a checkpoint: %v", err)
	}
	if _, err := old.Collect(t.Context(), none); fault.ClassOf(err) != fault.Fenced {
		t.Errorf("a replaced run collected garbage: %v", err)
	}
	if _, err := take(t.Context(), now, "two"); err != nil {
		t.Error(err)
	}
	_, d := start(t, s, checkpointing.Wish{})
	if d.Outcome != protocol.Restore || d.Manifest.Generation != now.Generation() {
		t.Errorf("%v %+v", d.Outcome, d.Manifest)
	}
}

// However many begin at once, each has a generation of its own, and the highest is the one that counts.
func TestGenerationsAreGivenOnce(t *testing.T) {
	s := checkpointingtest.NewFaulty(new(memstore.Store), 1, checkpointingtest.Faults{LostAck: 0.3, StaleList: 0.5})
	numbers := make([]uint64, 20)
	var all sync.WaitGroup
	for i := range numbers {
		all.Go(func() {
			r, err := checkpointing.NewGeneration(t.Context(), checkpointing.Config{Store: s, Pause: time.Microsecond})
			if err != nil {
				t.Error(err)
				return
			}
			numbers[i] = r.Generation()
		})
	}
	all.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i)+1 {
			t.Fatalf("%v", numbers)
		}
	}
}

func TestRetention(t *testing.T) {
	s := new(memstore.Store)
	r, _ := start(t, s, checkpointing.Wish{})
	var before []protocol.File
	for i := range 6 {
		m, err := take(t.Context(), r, fmt.Sprint(i), before...)
		if err != nil {
			t.Fatal(err)
		}
		if before = m.Files; len(before) > 2 {
			before = before[:2]
		}
		if _, err := r.Claim(t.Context()); err != nil { // one that comes to nothing
			t.Fatal(err)
		}
		if _, err := r.Collect(t.Context(), none); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"epoch-000000000009", "epoch-000000000011", "epoch-000000000012",
		"files/000000000005-1-1-0", "files/000000000007-1-1-0", "files/000000000009-1-1-0", "files/000000000011-1-1-0",
		"generation-00000001", "generation-00000001.base",
		"manifest-000000000009", "manifest-000000000011",
	}
	if got := names(t, s); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if n, err := r.Collect(t.Context(), none); n != 0 || err != nil {
		t.Errorf("%d more, %v", n, err)
	}
}

// Fault 5: each object of the newest checkpoint is cut, changed in one bit, removed or swapped with
// another: that is always found out before its content is used, and the checkpoint before it is taken.
func TestDamageIsFound(t *testing.T) {
	harm := map[string]func(data, other []byte) []byte{
		"cut":     func(data, _ []byte) []byte { return data[:len(data)-1] },
		"flipped": func(data, _ []byte) []byte { data[len(data)/2] ^= 4; return data },
		"removed": func([]byte, []byte) []byte { return nil },
		"swapped": func(_, other []byte) []byte { return other },
	}
	for how, change := range harm {
		for victim := range 3 {
			s := new(memstore.Store)
			r, _ := start(t, s, checkpointing.Wish{})
			first, err := take(t.Context(), r, "first state")
			if err != nil {
				t.Fatal(err)
			}
			own, err := r.Put(t.Context(), 2, 7, strings.NewReader("other state"))
			if err != nil {
				t.Fatal(err)
			}
			second, err := take(t.Context(), r, "third state", own)
			if err != nil {
				t.Fatal(err)
			}
			name := []string{protocol.ManifestName(2), second.Files[0].Name(), second.Files[1].Name()}[victim]
			other := []string{protocol.ManifestName(1), first.Files[0].Name(), first.Files[0].Name()}[victim]
			replace(t, s, name, change(get(t, s, name), get(t, s, other)))

			r, err = checkpointing.NewGeneration(t.Context(), checkpointing.Config{Store: s})
			if err != nil {
				t.Fatal(err)
			}
			w := checkpointing.Wish{AtLeast: 2, Bad: map[uint64]string{}}
			d, err := r.Recover(t.Context(), w)
			if err != nil {
				t.Fatal(err)
			}
			if d.Outcome == protocol.Restore && d.Manifest.Epoch == 2 { // it shows when it is read
				for _, f := range d.Manifest.Files {
					if _, err := content(t, r, f); err != nil {
						if fault.ClassOf(err) != fault.Corruption {
							t.Errorf("%s %s: %v", name, how, err)
						}
						w.Bad[2] = err.Error()
					}
				}
				if d, err = r.Recover(t.Context(), w); err != nil {
					t.Fatal(err)
				}
			}
			if d.Outcome != protocol.Restore || d.Manifest.Epoch != 1 || len(d.Skipped) != 1 || d.Skipped[0].Epoch != 2 {
				t.Errorf("%s %s: %v, skipped %v", name, how, d.Outcome, d.Skipped)
			}
		}
	}
}

func get(t testing.TB, s checkpointing.Store, name string) []byte {
	t.Helper()
	in, err := s.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(data)
}

// replace does to an object what a Store never does. A nil data removes it.
func replace(t testing.TB, s checkpointing.Store, name string, data []byte) {
	t.Helper()
	if err := s.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if data != nil {
		if err := s.Create(t.Context(), name, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
}

// Faults 8 and 9: calls fail, answers are lost, uploads break off, listings are old; runs are given up
// anywhere and others begin. What was committed is what the next run begins with, or something newer,
// and can be read; and nothing is left that no checkpoint names once all is well again.
func TestBadStores(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			good := new(memstore.Store)
			faults := checkpointingtest.Faults{Unavailable: 0.2, LostAck: 0.2, Partial: 0.1, StaleList: 0.3, Latency: 10 * time.Millisecond}
			bad := checkpointingtest.NewFaulty(good, seed, faults)
			random := rand.New(rand.NewPCG(seed, 0))
			committed := uint64(0)
			for range 8 {
				r, d := start(t, bad, checkpointing.Wish{AtLeast: committed})
				if committed > 0 && (d.Outcome != protocol.Restore || d.Manifest.Epoch < committed || len(d.Skipped) > 0) {
					t.Fatalf("seed %d: %d was committed, and the next run: %v %v %v", seed, committed, d.Outcome, d.Err, d.Skipped)
				}
				var before []protocol.File
				if d.Manifest != nil {
					before = d.Manifest.Files
					for _, f := range before {
						if _, err := content(t, r, f); err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
					}
				}
				for range random.IntN(6) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000))*time.Millisecond)
					m, err := take(ctx, r, fmt.Sprint(random.Uint64()), before[:min(len(before), 2)]...)
					cancel()
					if err == nil {
						committed, before = m.Epoch, m.Files
						_, err = r.Collect(t.Context(), none)
					}
					if err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			}
			r, d := start(t, good, checkpointing.Wish{AtLeast: committed})
			if _, err := take(t.Context(), r, "last", d.Manifest.Files[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Collect(t.Context(), none); err != nil {
				t.Fatal(err)
			}
			named := map[string]bool{}
			files := 0
			for _, name := range names(t, good) {
				if strings.HasPrefix(name, "manifest") {
					m, err := protocol.DecodeManifest(get(t, good, name))
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range m.Files {
						named[f.Name()] = true
					}
				}
				if strings.HasPrefix(name, "files/") {
					files++
				}
			}
			if files != len(named) {
				t.Errorf("seed %d: %d files, %d of them named", seed, files, len(named))
			}
		})
	}
}

// A total outage is waited for, at a pace that harms nobody.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := checkpointingtest.NewFaulty(new(memstore.Store), 1, checkpointingtest.Faults{})
		r, _ := start(t, s, checkpointing.Wish{})
		s.Set(checkpointingtest.Faults{Unavailable: 1})
		before := s.Calls()
		time.AfterFunc(10*time.Minute, func() { s.Set(checkpointingtest.Faults{}) })
		began := time.Now()
		if _, err := take(t.Context(), r, "state"); err != nil {
			t.Fatal(err)
		}
		if late := time.Since(began) - 10*time.Minute; late > 5*time.Second {
			t.Errorf("%v after the end of the outage", late)
		}
		if n := s.Calls() - before; n > 10*60/2 {
			t.Errorf("%d calls in ten minutes", n)
		}
	})
}

// A file that was cut while it was uploaded is uploaded again, under another name.
func TestTornFiles(t *testing.T) {
	s := checkpointingtest.NewFaulty(new(memstore.Store), 1, checkpointingtest.Faults{})
	r, _ := start(t, s, checkpointing.Wish{})
	epoch, err := r.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Set(checkpointingtest.Faults{Torn: 0.7})
	f, err := r.Put(t.Context(), epoch, 1, strings.NewReader("the state"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := content(t, r, f); err != nil || got != "the state" || f.Number == 0 {
		t.Errorf("file %d: %q, %v", f.Number, got, err)
	}
}

func TestSavepoints(t *testing.T) {
	jobs, points := new(memstore.Store), new(memstore.Store)
	r, _ := start(t, jobs, checkpointing.Wish{})
	first, err := take(t.Context(), r, "one")
	if err != nil {
		t.Fatal(err)
	}
	m, err := take(t.Context(), r, "two", first.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := checkpointingtest.NewFaulty(points, 1, checkpointingtest.Faults{Unavailable: 0.3, LostAck: 0.5, Partial: 0.3})
	s, err := r.Export(t.Context(), m, bad, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Export(t.Context(), m, points, t.TempDir()); err != nil || !cmp.Equal(s, again) {
		t.Errorf("the same again: %v", err)
	}
	for _, name := range names(t, jobs) {
		replace(t, jobs, name, nil) // it needs nothing of the job
	}
	got, err := checkpointing.ReadSavepoint(t.Context(), points)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if err := checkpointing.Verify(t.Context(), points, got); err != nil {
		t.Error(err)
	}
	replace(t, points, got.Files[1].Name(), []byte("two"))
	if err := checkpointing.Verify(t.Context(), points, got); fault.ClassOf(errors.Unwrap(err)) != fault.Corruption && !strings.Contains(fmt.Sprint(err), "checksum") {
		t.Errorf("a changed file: %v", err)
	}
	replace(t, points, "notes.txt", []byte("mine"))
	if err := checkpointing.DeleteSavepoint(t.Context(), points); err != nil {
		t.Fatal(err)
	}
	if got := names(t, points); !slices.Equal(got, []string{"notes.txt"}) {
		t.Errorf("%v", got)
	}
	if _, err := checkpointing.ReadSavepoint(t.Context(), points); !errors.Is(err, checkpointing.ErrAbsent) {
		t.Errorf("%v", err)
	}
	if err := checkpointing.DeleteSavepoint(t.Context(), points); !errors.Is(err, checkpointing.ErrAbsent) {
		t.Errorf("there is none any more: %v", err)
	}

	// A job that begins with a savepoint begins with it again, until it has a checkpoint of its own.
	job := new(memstore.Store)
	r, err = checkpointing.NewGeneration(t.Context(), checkpointing.Config{Store: job})
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Recover(t.Context(), checkpointing.Wish{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Begin(t.Context(), d, "file:///points"); err != nil {
		t.Fatal(err)
	}
	r, d = start(t, job, checkpointing.Wish{})
	if d.Outcome != protocol.RestoreSavepoint || d.Savepoint != "file:///points" {
		t.Errorf("%v %q", d.Outcome, d.Savepoint)
	}
	if _, err := take(t.Context(), r, "own"); err != nil {
		t.Fatal(err)
	}
	if _, d = start(t, job, checkpointing.Wish{}); d.Outcome != protocol.Restore {
		t.Errorf("%v", d.Outcome)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, bad := range []checkpointing.Config{{}, {Store: new(memstore.Store), Retain: -1}} {
		if err := bad.Validate(); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// What a job leaves is removed though the store fails for a while, and foreign objects stay.
func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := new(memstore.Store)
		s := checkpointingtest.NewFaulty(good, 1, checkpointingtest.Faults{})
		r, _ := start(t, s, checkpointing.Wish{})
		if _, err := take(t.Context(), r, "state"); err != nil {
			t.Fatal(err)
		}
		replace(t, good, "notes.txt", []byte("mine"))
		s.Set(checkpointingtest.Faults{Unavailable: 1})
		time.AfterFunc(10*time.Second, func() { s.Set(checkpointingtest.Faults{Unavailable: 0.3, LostAck: 0.3}) })
		if err := checkpointing.Remove(t.Context(), checkpointing.Config{Store: s}); err != nil {
			t.Fatal(err)
		}
		if got := names(t, good); !slices.Equal(got, []string{"notes.txt"}) {
			t.Errorf("left are %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s.Set(checkpointingtest.Faults{Unavailable: 1})
		if err := checkpointing.Remove(ctx, checkpointing.Config{Store: s}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, checkpointingtest.ErrInjected) {
			t.Errorf("without a store: %v", err)
		}
	})
}
