package coders

import "encoding/binary"

// Timers is the layout of timers (beam:coder:timer:v1) of one key and one
// window coder. Immutable; safe for concurrent use.
type Timers struct {
	key, window *Coder
}

// NewTimers returns the layout of timers of keys and windows so encoded.
func NewTimers(key, window *Coder) *Timers { return &Timers{key, window} }

// Timer is a view of one encoded timer. Its slices alias the block it was cut
// from and must not be changed.
type Timer struct {
	Key        []byte // in nested encoding
	Tag        []byte // the dynamic tag, without its length
	NumWindows int
	Windows    []byte // the windows' encodings, concatenated
	// Clear is true where the timer is taken back; then the rest is not set.
	Clear bool
	// Fire and Hold are in ms: when it fires, and what holds the output watermark until then.
	Fire, Hold int64
	Pane       []byte
	Size       int // bytes that the timer takes in the block
}

// Next cuts the timer at the start of b, with the errors of Windowed.Next. It
// doesn't allocate unless it fails.
func (t *Timers) Next(b []byte, v *Timer) error {
	*v = Timer{}
	i, err := t.key.skip(b, 0)
	if err != nil {
		return err
	}
	v.Key = b[:i:i]
	n, k, err := Varint(b[i:])
	if err != nil {
		return err
	}
	i += k
	if n < 0 || n > maxLength {
		return corrupt(i, "a timer's tag of %d bytes", n)
	}
	if int64(len(b)-i) < n {
		return ErrShort
	}
	v.Tag, i = b[i:i+int(n):i+int(n)], i+int(n)
	if len(b)-i < 4 {
		return ErrShort
	}
	count := binary.BigEndian.Uint32(b[i:])
	if int32(count) < 0 {
		return corrupt(i, "a timer in %d windows", int32(count))
	}
	start := i + 4
	if i, err = skipMany(t.window, uint64(count), b, start); err != nil {
		return err
	}
	v.NumWindows, v.Windows = int(count), b[start:i:i]
	return t.rest(b, i, v)
}

// rest reads what stands behind the windows.
func (t *Timers) rest(b []byte, i int, v *Timer) error {
	if i == len(b) {
		return ErrShort
	}
	switch b[i] {
	case 0:
	case 1:
		v.Clear, v.Size = true, i+1
		return nil
	default:
		return corrupt(i, "a timer's clear bit of %d", b[i])
	}
	i++
	if len(b)-i < 2*TimestampSize {
		return ErrShort
	}
	v.Fire, v.Hold = decodeTimestamp(b[i:]), decodeTimestamp(b[i+TimestampSize:])
	i += 2 * TimestampSize
	end, err := skipPane(b, i)
	if err != nil {
		return err
	}
	v.Pane, v.Size = b[i:end:end], end
	return nil
}

// Append appends the encoding of v; its Size counts for nothing.
func (v *Timer) Append(dst []byte) []byte {
	dst = append(dst, v.Key...)
	dst = AppendBytes(dst, v.Tag)
	dst = binary.BigEndian.AppendUint32(dst, uint32(v.NumWindows))
	dst = append(dst, v.Windows...)
	if v.Clear {
		return append(dst, 1)
	}
	dst = append(dst, 0)
	dst = AppendTimestamp(dst, v.Fire)
	dst = AppendTimestamp(dst, v.Hold)
	return append(dst, v.Pane...)
}
