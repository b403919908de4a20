package sideinput

import (
	"bytes"
	"testing"
)

// Whatever an index holds, an entry is within the bytes that it was read from.
func FuzzParseEntry(f *testing.F) {
	x := index{data: &store{limit: 1 << 20}}
	for _, key := range []string{"", "key"} {
		if err := x.add(&entry{rank: 1 << 60, window: 300, count: 2, size: 1 << 40, key: []byte(key)}, true); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(x.data.memory)
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e entry
		n, ok := parseEntry(b, &e)
		if !ok {
			return
		}
		if n > len(b) || !bytes.Equal(b[n-len(e.key):n], e.key) {
			t.Errorf("an entry of %d bytes with key %x, of %x", n, e.key, b)
		}
	})
}
