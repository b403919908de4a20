package coders

import (
	"errors"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// FuzzSkip gives arbitrary bytes to the layouts of all standard examples.
func FuzzSkip(f *testing.F) {
	all := examples(f)
	for i, x := range all {
		f.Add(uint16(i), x.encoded)
	}
	f.Fuzz(func(t *testing.T, which uint16, b []byte) {
		c := all[int(which)%len(all)].coder
		n, err := c.Skip(b)
		if err == nil {
			if n < 0 || n > len(b) {
				t.Fatalf("%s: %d of %d bytes", c.URN(), n, len(b))
			}
			if again, err := c.Skip(b[:n]); again != n || err != nil {
				t.Fatalf("%s: without what follows: %d, %v", c.URN(), again, err)
			}
			return
		}
		if n != 0 || (!errors.Is(err, ErrShort) && fault.ClassOf(err) != fault.Corruption) {
			t.Fatalf("%s: %d, %v", c.URN(), n, err)
		}
	})
}

// FuzzNext cuts arbitrary blocks; views must add up to the bytes they were cut from.
func FuzzNext(f *testing.F) {
	kv := of(urns.CoderKV, yamlBytes, of(urns.CoderIterable, yamlVarint))
	layouts := []*Windowed{
		mustWindowed(f, kv, yamlGlobal),
		mustWindowed(f, kv, yamlInterval),
		mustWindowed(f, yamlVarint, of(urns.CoderCustomWindow, yamlInterval)),
	}
	for _, x := range examples(f) {
		if w, err := CompileWindowed(x.id, x.components); err == nil {
			f.Add(uint8(len(layouts)), x.encoded)
			layouts = append(layouts, w)
		}
	}
	f.Add(uint8(0), append(AppendHeader(nil, 1, 1, nil, []byte{PaneNoFiring}), 1, 'k', 0, 0, 0, 1, 7))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		w := layouts[int(which)%len(layouts)]
		var e Element
		err := w.Next(b, &e)
		if err != nil {
			if !errors.Is(err, ErrShort) && fault.ClassOf(err) != fault.Corruption {
				t.Fatal(err)
			}
			return
		}
		size := len(e.Key) + len(e.Value)
		if !w.Constant() {
			size += TimestampSize + 4 + len(e.Windows) + len(e.Pane)
		}
		if e.Size != size || e.Size > len(b) || e.NumWindows < 0 {
			t.Fatalf("%+v of %d bytes", e, len(b))
		}
		if n, _, err := w.Count(b[:e.Size]); err != nil || n != 1 && e.Size > 0 {
			t.Fatalf("count %d, %v", n, err)
		}
	})
}
