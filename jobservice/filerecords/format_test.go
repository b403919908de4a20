package filerecords

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
)

// FuzzFrames reads any bytes as a file: it comes to an end or an error of a class,
// and what it reads is written again as it was.
func FuzzFrames(f *testing.F) {
	whole := appendMagic(nil)
	for _, payload := range []string{"", "\x01\x02\x03\x04\x00text", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		var err error
		if whole, err = appendFrame(whole, kindEvent, []byte(payload)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(appendMagic(nil))
	f.Add(append(appendMagic(nil), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 4))
	f.Add(append(bytes.Clone(whole), make([]byte, 5000)...))
	f.Fuzz(func(t *testing.T, file []byte) {
		frames, err := newFrames(bytes.NewReader(file), int64(len(file)))
		again := appendMagic(nil)
		for err == nil {
			var k kind
			var payload []byte
			if k, payload, err = frames.next(); err != nil {
				break
			}
			if again, err = appendFrame(again, k, payload); err != nil {
				t.Fatal(err)
			}
			if e, err := parseEvent(payload); err == nil {
				if back, err := parseEvent(appendEvent(nil, e)); err != nil || back != e {
					t.Fatalf("event %+v comes back as %+v, %v", e, back, err)
				}
			}
			if h, err := parseHeader(payload); err == nil {
				if back, err := parseHeader(appendHeader(nil, h)); err != nil || back != h {
					t.Fatalf("header %+v comes back as %+v, %v", h, back, err)
				}
			}
		}
		class := fault.ClassOf(err)
		if !errors.Is(err, io.EOF) && !errors.Is(err, errTorn) && class != fault.Corruption && class != fault.Unsupported {
			t.Fatalf("class %v: %v", class, err)
		}
		if frames != nil && (!bytes.HasPrefix(file, again) || frames.pos != int64(len(again))) {
			t.Fatalf("read %d bytes as %d others", frames.pos, len(again))
		}
	})
}
