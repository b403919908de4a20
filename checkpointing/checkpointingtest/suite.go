// Package checkpointingtest is what every checkpoint store passes, and a store that fails as real ones do.
package checkpointingtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/internal/fault"
)

// Run runs the suite; open opens an empty store.
func Run(t *testing.T, open func(t *testing.T) checkpointing.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, checkpointing.Store)
	}{
		{"CreateAndRead", testCreateAndRead},
		{"CreateIfAbsent", testCreateIfAbsent},
		{"OneOfManyWins", testOneOfManyWins},
		{"FromWhereContentIs", testFromWhereContentIs},
		{"WholeOrNothing", testWholeOrNothing},
		{"Absent", testAbsent},
		{"List", testList},
		{"ListMany", testListMany},
		{"Delete", testDelete},
		{"Names", testNames},
		{"Cancelled", testCancelled},
		{"Folder", testFolder},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func create(t *testing.T, s checkpointing.Store, name string, data []byte) {
	t.Helper()
	if err := s.Create(t.Context(), name, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s checkpointing.Store, name string) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func list(t *testing.T, s checkpointing.Store, prefix string) []string {
	t.Helper()
	var names []string
	err := s.List(t.Context(), prefix, func(name string, size int64) error {
		if got, err := s.Stat(t.Context(), name); err != nil || got != size {
			t.Errorf("%s: %d bytes in the listing, %d by itself (%v)", name, size, got, err)
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// content is data that no two places of have in common.
func content(n int) []byte {
	data := make([]byte, n)
	x := uint32(n) + 1
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	return data
}

func testCreateAndRead(t *testing.T, s checkpointing.Store) {
	for _, n := range []int{0, 1, 4096, 1 << 20, 5<<20 + 3, 17 << 20} {
		name := fmt.Sprintf("a/b-%d/c.d_e", n)
		data := content(n)
		create(t, s, name, data)
		if got := read(t, s, name); !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back as %d, or others", n, len(got))
		}
		if size, err := s.Stat(t.Context(), name); err != nil || size != int64(n) {
			t.Errorf("%d bytes have the size %d (%v)", n, size, err)
		}
	}
}

func testCreateIfAbsent(t *testing.T, s checkpointing.Store) {
	for _, n := range []int{3, 9 << 20} {
		name := fmt.Sprintf("x%d", n)
		first := content(n)
		create(t, s, name, first)
		if err := s.Create(t.Context(), name, bytes.NewReader([]byte("another"))); !errors.Is(err, checkpointing.ErrExists) {
			t.Errorf("a second one of %d bytes: %v", n, err)
		}
		if err := s.Create(t.Context(), name, bytes.NewReader(first)); !errors.Is(err, checkpointing.ErrExists) {
			t.Errorf("the same again: %v", err)
		}
		if !bytes.Equal(read(t, s, name), first) {
			t.Error("the first was changed")
		}
	}
}

func testOneOfManyWins(t *testing.T, s checkpointing.Store) {
	for round := range 5 {
		name := fmt.Sprintf("claims/%d", round)
		var mu sync.Mutex
		var winners []int
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				err := s.Create(t.Context(), name, strings.NewReader(fmt.Sprint(i)))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners = append(winners, i)
				} else if !errors.Is(err, checkpointing.ErrExists) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(winners) != 1 || string(read(t, s, name)) != fmt.Sprint(winners[0]) {
			t.Errorf("winners %v; it has %q", winners, read(t, s, name))
		}
	}
}

func testFromWhereContentIs(t *testing.T, s checkpointing.Store) {
	r := strings.NewReader("headbody")
	if _, err := r.Seek(4, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "x", r); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, "x"); string(got) != "body" {
		t.Errorf("%q", got)
	}
}

// broken fails while it is read.
type broken struct {
	io.ReadSeeker
	left int
}

var errBroken = errors.New("the disk broke")

func (b *broken) Read(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errBroken
	}
	return b.ReadSeeker.Read(p)
}

func testWholeOrNothing(t *testing.T, s checkpointing.Store) {
	err := s.Create(t.Context(), "x", &broken{bytes.NewReader(content(3 << 20)), 1 << 20})
	if !errors.Is(err, errBroken) {
		t.Errorf("content that can't be read: %v", err)
	}
	if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, checkpointing.ErrAbsent) {
		t.Errorf("a part of it is there: %v", err)
	}
	if got := list(t, s, ""); len(got) > 0 {
		t.Errorf("%v", got)
	}
	create(t, s, "x", []byte("whole"))
}

func testAbsent(t *testing.T, s checkpointing.Store) {
	create(t, s, "a/b", nil)
	for _, name := range []string{"x", "a", "a/b/c", "a/c"} {
		if _, err := s.Open(t.Context(), name); !errors.Is(err, checkpointing.ErrAbsent) {
			t.Errorf("open %s: %v", name, err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, checkpointing.ErrAbsent) {
			t.Errorf("stat %s: %v", name, err)
		}
	}
}

func testList(t *testing.T, s checkpointing.Store) {
	if got := list(t, s, ""); len(got) > 0 {
		t.Errorf("an empty store has %v", got)
	}
	names := []string{"a-b", "a.b", "a/b", "a/c/d", "a0", "ab", "b/a"}
	for _, i := range []int{4, 0, 6, 2, 5, 1, 3} {
		create(t, s, names[i], []byte(names[i]))
	}
	for prefix, want := range map[string][]string{
		"": names, "a": names[:6], "a/": names[2:4], "a/c": names[3:4], "a/c/d": names[3:4], "a/c/d/": nil, "b": names[6:], "c/": nil, "a-": names[:1],
	} {
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %v, not %v", prefix, got, want)
		}
	}
	enough := errors.New("enough")
	n := 0
	if err := s.List(t.Context(), "", func(string, int64) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("%d visits, then %v", n, err)
	}
}

func testListMany(t *testing.T, s checkpointing.Store) {
	const n = 120
	for i := range n {
		create(t, s, fmt.Sprintf("many/%04d", i), nil)
	}
	if got := list(t, s, "many/"); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d of %d", len(got), n)
	}
}

func testDelete(t *testing.T, s checkpointing.Store) {
	create(t, s, "a/x", []byte("1"))
	create(t, s, "a/y", []byte("2"))
	for range 2 {
		if err := s.Delete(t.Context(), "a/x"); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a/y"}) {
		t.Errorf("%v", got)
	}
	create(t, s, "a/x", []byte("again"))
	if got := read(t, s, "a/x"); string(got) != "again" {
		t.Errorf("%q", got)
	}
}

func testNames(t *testing.T, s checkpointing.Store) {
	for _, name := range []string{
		"", "/x", "x/", "a//b", ".", "..", "../x", "a/../../x", "a/.x", ".hidden", "-x", "a b", "a\x00b", "ä", "a\\b", "a:b", strings.Repeat("x", 513),
	} {
		if err := s.Create(t.Context(), name, strings.NewReader("x")); fault.ClassOf(err) != fault.Invalid {
			t.Errorf("create %q: %v", name, err)
		}
	}
	if got := list(t, s, ""); len(got) > 0 {
		t.Errorf("%v", got)
	}
	create(t, s, strings.Repeat("x", 200)+"/"+strings.Repeat("y", 200), nil)
}

func testCancelled(t *testing.T, s checkpointing.Store) {
	create(t, s, "x", []byte("1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Create(ctx, "y", strings.NewReader("2")); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Stat(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("stat: %v", err)
	}
	if err := s.Delete(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
	if err := s.List(ctx, "", func(string, int64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"x"}) {
		t.Errorf("%v", got)
	}
}

func testFolder(t *testing.T, s checkpointing.Store) {
	f, err := checkpointing.Folder(s, "jobs/a")
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, "jobs/ab", nil)
	create(t, f, "files/x", []byte("1"))
	if got := list(t, f, ""); !slices.Equal(got, []string{"files/x"}) {
		t.Errorf("%v", got)
	}
	if got := read(t, s, "jobs/a/files/x"); string(got) != "1" {
		t.Errorf("%q", got)
	}
	if err := f.Create(t.Context(), "../x", strings.NewReader("")); fault.ClassOf(err) != fault.Invalid {
		t.Errorf("out of the folder: %v", err)
	}
	if err := f.Delete(t.Context(), "files/x"); err != nil {
		t.Error(err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"jobs/ab"}) {
		t.Errorf("%v", got)
	}
}
