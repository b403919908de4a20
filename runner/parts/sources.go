package parts

// Stream is how far a TestStream is.
type Stream struct {
	// Acted is the number of its events that were.
	Acted int
	// Now is the virtual time, in ms since 1970.
	Now int64
	// Ended is true once no event is left.
	Ended bool
}

// AppendStream appends how far a TestStream is.
func AppendStream(dst []byte, s *Stream) []byte {
	e := encoder{append(dst, version)}
	e.uint(uint64(s.Acted))
	e.int(s.Now)
	e.bool(s.Ended)
	return e.out
}

// DecodeStream returns what AppendStream wrote.
func DecodeStream(part []byte) (*Stream, error) {
	d := newDecoder(part)
	s := &Stream{Acted: d.count(), Now: d.int(), Ended: d.bool()}
	if d.more() {
		d.fail()
	}
	return s, d.end("stream")
}

// AppendSide begins a part of what a side input has in a window. The elements follow as they are, one after the other.
func AppendSide(dst []byte) []byte { return append(dst, version) }

// DecodeSide returns the elements of a part that AppendSide began.
func DecodeSide(part []byte) (elements []byte, err error) {
	d := newDecoder(part)
	return d.rest, d.end("side")
}
