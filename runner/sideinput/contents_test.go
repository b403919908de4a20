package sideinput

import (
	"bytes"
	"fmt"
	"math"
	"testing"
)

// What a pin has can be given to another Live, which reads the same; what came after the pin is not in it.
func TestContentsAreRestored(t *testing.T) {
	for _, multimap := range []bool{false, true} {
		for name, value := range map[string]string{"small": "v", "large": string(bytes.Repeat([]byte("v"), 3*contentBytes/2))} {
			t.Run(fmt.Sprint(name, ", multimap ", multimap), func(t *testing.T) {
				cfg := Config{Input: layoutOf(t, multimap, true), Multimap: multimap, Dir: t.TempDir()}
				was, again := newLive(t, cfg, 0), newLive(t, cfg, 0)
				defer was.Close()
				defer again.Close()
				element := func(i int) string {
					if multimap {
						return nested(fmt.Sprint("key ", i%3)) + nested(fmt.Sprint(i, value))
					}
					return nested(fmt.Sprint(i, value))
				}
				replace := func(window int64, from, to int) {
					var elements []string
					for i := from; i < to; i++ {
						elements = append(elements, element(i))
					}
					if err := was.Replace(appendPane(nil, fixedWindow(window), false, elements...)); err != nil {
						t.Fatal(err)
					}
				}
				replace(1, 0, 1)
				replace(2, 1, 8)
				replace(3, 0, 0)
				pin := was.Pin()
				defer pin.Close()
				replace(2, 9, 10)
				replace(4, 1, 2)

				contents := pin.Contents()
				if len(contents) != 3 {
					t.Fatalf("%d windows have contents, want 3", len(contents))
				}
				for _, c := range contents {
					var elements []byte
					if err := c.Elements(func(block []byte) error { elements = append(elements, block...); return nil }); err != nil {
						t.Fatal(err)
					}
					if err := again.Restore(c.Window, elements); err != nil {
						t.Fatal(err)
					}
				}
				other := again.Pin()
				defer other.Close()
				for n := range int64(5) {
					want, err := wholeWindow(pin.View(fixedWindow(n)), fixedWindow(n), multimap)
					if err != nil {
						t.Fatal(err)
					}
					got, err := wholeWindow(other.View(fixedWindow(n)), fixedWindow(n), multimap)
					if err != nil || !bytes.Equal(want, got) {
						t.Errorf("window %d has %d bytes, want %d; %v", n, len(got), len(want), err)
					}
				}
			})
		}
	}
}

func wholeWindow(v *View, window []byte, multimap bool) (data []byte, err error) {
	if multimap {
		data, _, err = v.KeysValues(window, nil, math.MaxInt)
	} else {
		data, _, err = v.Iterable(window, nil, math.MaxInt)
	}
	return data, err
}
