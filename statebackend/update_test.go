package statebackend_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
	"github.com/lintelrun/lintel/statebackend/memstate"
	"github.com/lintelrun/lintel/statebackend/pebblestate"
)

// What a transform keeps goes by its new name, but for the states and timer families that are dropped, in any backend.
func TestUpdate(t *testing.T) {
	disk, err := pebblestate.New(pebblestate.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	fill := func(s statebackend.Store, name string, families ...string) {
		var b statebackend.Batch
		for _, g := range []uint16{3, 700} {
			scope := statebackend.Scope{Group: g, Transform: name}
			for _, family := range families {
				c := statebackend.Cell{Scope: scope, Key: []byte("k"), Window: []byte("w"), State: family}
				b.Set(c.AppendKey(nil), []byte("v"))
				statebackend.PutTimer(&b, &scope, &statebackend.Timer{Key: []byte("k"), Family: family, Domain: statebackend.EventTime, Fire: 9, Hold: 7})
				statebackend.PutTimer(&b, &scope, &statebackend.Timer{Key: []byte("k"), Family: family, Tag: "c", Domain: statebackend.ProcessingTime, Fire: 9})
			}
			b.Set((&statebackend.Expiry{Scope: scope, At: 5, Key: []byte("k")}).AppendKey(nil), nil)
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	all := func(s statebackend.Store) (keys []string) {
		err := s.Scan(nil, nil, func(key, _ []byte) bool {
			keys = append(keys, string(key))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	memory := memstate.New()
	was, err := memory.Open("was")
	if err != nil {
		t.Fatal(err)
	}
	fill(was, "old\x00name", "gone", "stays")
	part := imageOf(t, was)
	part.Update = &statebackend.Update{Was: "old\x00name", Name: "new", Dropped: []string{"gone"}}
	want, err := memory.Open("want")
	if err != nil {
		t.Fatal(err)
	}
	fill(want, "new", "stays")
	for _, b := range []statebackend.Backend{memory, disk} {
		s, err := b.Restore(t.Context(), "now", []statebackend.Part{part})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := all(s), all(want); !slices.Equal(got, want) {
			t.Errorf("%T has %q, not %q", b, got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	part.Form = statebackend.Tables
	if _, err := disk.Restore(t.Context(), "tables", []statebackend.Part{part}); fault.ClassOf(err) != fault.Unsupported {
		t.Errorf("tables: %v", err)
	}
}

// imageOf is all of a store, as records.
func imageOf(t *testing.T, s statebackend.Store) statebackend.Part {
	t.Helper()
	image, err := statebackend.RecordsImage(s)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string][]byte{}
	p := statebackend.Part{Form: statebackend.Records}
	err = image.Write(t.Context(), func(f statebackend.File, content io.ReadSeeker) error {
		p.Files = append(p.Files, f)
		contents[f.Name], err = io.ReadAll(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Close(); err != nil {
		t.Fatal(err)
	}
	p.Open = func(_ context.Context, f statebackend.File) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(contents[f.Name])), nil
	}
	return p
}
