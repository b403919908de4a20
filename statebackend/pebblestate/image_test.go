package pebblestate

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// Only this package restores tables.
func TestTablesAreNotForMemory(t *testing.T) {
	b := open(t, Config{Dir: "state"}, vfs.NewMem())
	s := openStore(t, b, "task")
	_, err := memstate.New().Restore(t.Context(), "task", []statebackend.Part{taken(t, s, map[string][]byte{})})
	if fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "savepoint") {
		t.Errorf("%v, want it refused, and to hear what to do", err)
	}
	closeAll(t, s, b)
}

// An image that lacks a file is refused, and nothing is left of it.
func TestIncompleteImage(t *testing.T) {
	testkit.Leaks(t)
	b := open(t, Config{Dir: "state"}, vfs.NewMem())
	s := openStore(t, b, "task")
	set(t, s, "k", "v")
	p := taken(t, s, map[string][]byte{})
	for i, f := range p.Files {
		less := p
		less.Files = slices.Delete(slices.Clone(p.Files), i, i+1)
		r, err := b.Restore(t.Context(), "restored", []statebackend.Part{less})
		if fault.ClassOf(err) != fault.Corruption {
			t.Errorf("without %s: %v, want a corruption", f.Name, err)
		}
		if err == nil {
			closeAll(t, r.(*Store), b)
		}
	}
	if stores, err := b.fs.List("state"); err != nil || len(stores) != 1 {
		t.Errorf("folders: %v, %v, want that of the store which is open", stores, err)
	}
	closeAll(t, s, b)
}

// taken takes an image and puts its files, which are held after that.
func taken(t *testing.T, s *Store, files map[string][]byte) statebackend.Part {
	t.Helper()
	i, err := s.Image(func(name string) bool { return files[name] != nil })
	if err != nil {
		t.Fatal(err)
	}
	return put(t, i, files)
}

func put(t *testing.T, i statebackend.Image, files map[string][]byte) statebackend.Part {
	t.Helper()
	p := statebackend.Part{Form: i.Form(), Open: func(_ context.Context, f statebackend.File) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files[f.Name])), nil
	}}
	err := i.Write(t.Context(), func(f statebackend.File, content io.ReadSeeker) (err error) {
		if p.Files = append(p.Files, f); content != nil {
			files[f.Name], err = io.ReadAll(content)
		}
		return err
	})
	if err := errors.Join(err, i.Close()); err != nil {
		t.Error(err)
	}
	return p
}

// What is committed after the moment of an image is in none of its tables, though they had not been written
// then, and a former memory table was still being.
func TestCommitsWaitForTheirTables(t *testing.T) {
	// Several memory tables, in few and in many commits; then such that become tables of their own.
	const memTable = 64 << 10
	check := func(size, commits int) {
		synctest.Test(t, func(t *testing.T) { testCommitsWait(t, memTable, size, commits) })
	}
	check(20_000, 40)
	check(100, 1000)
	for size := memTable/2 - 1600; size < memTable/2+100; size += 20 {
		check(size, 1)
	}
}

func testCommitsWait(t *testing.T, memTable int64, size, commits int) {
	fs := &heldFS{FS: vfs.NewMem(), until: make(chan struct{})}
	b := open(t, Config{Dir: "state", MemTableBytes: memTable * 3 / 2, Images: true}, fs)
	s := restoreStore(t, b, "task")
	set(t, s, "first", "1")
	fs.holds.Store(true)
	if _, err := s.db.AsyncFlush(); err != nil {
		t.Fatal(err)
	}
	set(t, s, "second", "2")
	want := contents(t, s)
	i, err := s.Image(nil)
	if err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, commits)
	go func() {
		for n := range commits {
			var batch statebackend.Batch
			batch.Set(fmt.Append(nil, "later ", n), make([]byte, size))
			committed <- s.Commit(&batch)
		}
	}()
	synctest.Wait() // they are done, or wait
	if done := len(committed); done == commits && commits > 1 {
		t.Errorf("%d commits of %d bytes have not waited", commits, size)
	}
	close(fs.until)
	r, err := b.Restore(t.Context(), "restored", []statebackend.Part{put(t, i, map[string][]byte{})})
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r); got != want {
		t.Errorf("%d commits of %d bytes: %.100q in the image, want %q", commits, size, got, want)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for range commits {
		if err := <-committed; err != nil {
			t.Error(err)
		}
	}
	closeAll(t, s, b)
}

// heldFS makes no tables while it holds.
type heldFS struct {
	vfs.FS
	holds atomic.Bool
	until chan struct{}
}

func (h *heldFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if h.holds.Load() && isTable(name) {
		<-h.until
	}
	return h.FS.Create(name, c)
}

// An image's files are gone when it is closed, and those that a crash left when the store is opened.
func TestImagesAreReleased(t *testing.T) {
	testkit.Leaks(t)
	fs := vfs.NewMem()
	b := open(t, Config{Dir: "state", Keep: true}, fs)
	s := openStore(t, b, "task")
	set(t, s, "k", "v")
	i, err := s.Image(nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, i, map[string][]byte{})
	images := fs.PathJoin(s.dir, imagesDir)
	if left, err := fs.List(images); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := fs.MkdirAll(fs.PathJoin(images, "7", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, b, "task")
	if left, err := fs.List(images); err == nil && len(left) > 0 {
		t.Errorf("left by a crash: %v", left)
	}
	if got := contents(t, s); got != "k=v " {
		t.Errorf("the store has %q", got)
	}
	closeAll(t, s, b)
}

// A store that is restored, from two images and to part of their keys, has the tables of the larger one by
// their names: they are not put again.
func TestRestoredTablesAreHeld(t *testing.T) {
	testkit.Leaks(t)
	b := open(t, Config{Dir: "state"}, vfs.NewMem())
	files := map[string][]byte{}
	var parts []statebackend.Part
	for n, name := range []string{"a", "b"} {
		s := openStore(t, b, name)
		for k := range 1000 * (n + 1) {
			set(t, s, fmt.Sprintf("%s%04d", name, k), strings.Repeat(fmt.Sprint(rand.Uint64()), 10))
		}
		p := taken(t, s, files)
		p.From, p.To = []byte(name+"0100"), []byte(name+"0900")
		parts = append(parts, p)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Restore(t.Context(), "both", parts)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(contents(t, r), "="); got != 1600 {
		t.Errorf("%d records were restored, want 1600", got)
	}
	again := taken(t, r.(*Store), files)
	shared := 0
	for _, f := range again.Files {
		if slices.Contains(parts[1].Files, f) {
			shared++
		}
	}
	if want := len(parts[1].Files) - 1; shared != want { // all but what is no table
		t.Errorf("%d files are the same: %v of %v", shared, again.Files, parts[1].Files)
	}
	last, err := b.Restore(t.Context(), "last", []statebackend.Part{again})
	if err != nil {
		t.Fatal(err)
	}
	if contents(t, last) != contents(t, r) {
		t.Error("the image of a restored store is of something else")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	closeAll(t, last.(*Store), b)
}

// On a disk that becomes full images fail, and neither hang nor say less than there is.
func TestFullDiskFailsImages(t *testing.T) {
	testkit.Leaks(t)
	for room := int64(0); room < 300<<10; room += 23 << 10 {
		fs := &smallFS{FS: vfs.NewMem()}
		fs.room.Store(1 << 30)
		b := open(t, Config{Dir: "state", MemTableBytes: 64 << 10}, fs)
		s := openStore(t, b, "task")
		for n := range 100 {
			set(t, s, fmt.Sprint(n), fmt.Sprintf("%02000d", n))
		}
		fs.room.Store(room)
		i, err := s.Image(nil)
		if err == nil {
			err = i.Write(t.Context(), func(statebackend.File, io.ReadSeeker) error { return nil })
			if closing := i.Close(); closing != nil {
				t.Errorf("room %d: closing: %v", room, closing)
			}
		}
		if err != nil && fault.ClassOf(err) != fault.Retryable {
			t.Errorf("room %d: %v of class %v", room, err, fault.ClassOf(err))
		}
		if err == nil && room == 0 {
			t.Error("an image on a disk without room")
		}
		if err := s.Close(); err != nil && !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("room %d: closing: %v", room, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The bytes are format: a failure here means that images of earlier builds can't be read.
func TestDatabaseFileIsFixed(t *testing.T) {
	const want = "4c4e544c504442" + "01" + "02" + "01" + "61" + "03" + "787879" + "0a" + "4d414e49464553542d31" + "00" + "e6fe4d3e"
	got := encodeRecords([]record{{"a", []byte("xxy")}, {"MANIFEST-1", nil}})
	if hex.EncodeToString(got) != want {
		t.Errorf("%x, want %s", got, want)
	}
	back, err := decodeRecords(got)
	if err != nil || len(back) != 2 || back[0].name != "a" || string(back[0].content) != "xxy" || back[1].name != "MANIFEST-1" {
		t.Errorf("%v, %v", back, err)
	}
}

// Whatever the bytes are, they decode to what makes them again or to an error of class corruption.
func FuzzDatabaseFile(f *testing.F) {
	f.Add(encodeRecords([]record{{"a", []byte("xxy")}, {"MANIFEST-1", nil}}))
	f.Add(encodeRecords([]record{{"../a", nil}}))
	f.Add([]byte(databaseMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := decodeRecords(data)
		if err != nil {
			if fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("%v, of class %v", err, fault.ClassOf(err))
			}
			return
		}
		back, err := decodeRecords(encodeRecords(records))
		if err != nil || !slices.EqualFunc(records, back, func(a, b record) bool { return a.name == b.name && bytes.Equal(a.content, b.content) }) {
			t.Fatalf("%v came back as %v, %v", records, back, err)
		}
		for _, r := range records {
			if strings.ContainsAny(r.name, "/\\") || strings.HasPrefix(r.name, ".") {
				t.Fatalf("a file by the name %q", r.name)
			}
		}
	})
}
