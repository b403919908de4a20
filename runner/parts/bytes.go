package parts

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/runner/frame"
)

// Flags of a frame.
const (
	flagEmpty = 1 << iota
	flagRemote
	flags // from here on there are none
)

// encoder appends to a part. There is one way to write each.
type encoder struct{ out []byte }

func (e *encoder) byte(b byte)   { e.out = append(e.out, b) }
func (e *encoder) uint(v uint64) { e.out = binary.AppendUvarint(e.out, v) }
func (e *encoder) int(v int64)   { e.out = binary.AppendVarint(e.out, v) }

func (e *encoder) bool(v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	e.byte(b)
}

func (e *encoder) frame(f *frame.Frame) {
	set := byte(0)
	if f.Empty {
		set |= flagEmpty
	}
	if f.Remote > 0 {
		set |= flagRemote
	}
	e.byte(set)
	e.uint(uint64(f.Elements))
	e.int(f.MinTimestamp)
	if f.Remote > 0 {
		e.uint(uint64(f.Remote))
	}
	e.uint(uint64(len(f.Data)))
	e.out = append(e.out, f.Data...)
}

// decoder takes a part apart. Once it is bad it returns zero values.
type decoder struct {
	rest []byte
	bad  bool
	// missing is how many bytes more there would have to be at least, if that is what is bad.
	missing uint64
	// is the version, if it is none that we know.
	unknown byte
}

func newDecoder(part []byte) *decoder {
	d := &decoder{rest: part}
	d.version()
	return d
}

// version reads the version of a part, with which it begins.
func (d *decoder) version() {
	if v := d.byte(); !d.bad && v != version {
		d.unknown = v
		d.fail()
	}
}

func (d *decoder) fail() { d.bad, d.rest = true, nil }

// lack is a failure for want of bytes, unless it has failed before.
func (d *decoder) lack(bytes uint64) {
	if !d.bad {
		d.missing = bytes
	}
	d.fail()
}

// more reports whether something follows.
func (d *decoder) more() bool { return len(d.rest) > 0 }

// end says whether all was read that there is.
func (d *decoder) end(what string) error {
	switch {
	case d.unknown != 0:
		return corrupt("part %s is of version %d; this build reads version %d", what, d.unknown, version)
	case d.bad:
		return corrupt("part %s does not decode", what)
	}
	return nil
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.lack(n - uint64(len(d.rest)))
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); len(b) > 0 {
		return b[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	b := d.byte()
	if b > 1 {
		d.fail()
	}
	return b == 1
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n == 0 {
		d.lack(1)
		return 0
	}
	if n < 0 || n > 1 && d.rest[n-1] == 0 { // there is one way to write a number
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int64 {
	v := d.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) count() int {
	v := d.uint()
	if v > math.MaxInt32 {
		d.fail()
		return 0
	}
	return int(v)
}

// entry reads an entry of a queue.
func (d *decoder) entry() Entry {
	switch d.byte() {
	case recordFrame:
		return Entry{Data: true, Channel: d.count(), Hold: d.int(), Frame: d.frame()}
	case recordWatermark:
		return Entry{Channel: d.count(), Watermark: d.int()}
	default:
		d.fail()
		return Entry{}
	}
}

// frame reads a frame, which has an element at least.
func (d *decoder) frame() (f frame.Frame) {
	set := d.byte()
	f.Empty = set&flagEmpty != 0
	f.Elements = d.count()
	f.MinTimestamp = d.int()
	if set&flagRemote != 0 {
		remote := d.uint()
		if remote == 0 || remote > math.MaxInt64 {
			d.fail()
		}
		f.Remote = int64(remote)
	}
	if f.Data = d.take(d.uint()); set >= flags || f.Elements == 0 {
		d.fail()
	}
	return f
}
