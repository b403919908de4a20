package coders

// Encoded pane infos of one byte.
const (
	PaneOnTimeOnly byte = 0x07 // the first and last firing, on time, with index 0
	PaneNoFiring   byte = 0x0F // of elements that no trigger has fired: first and last, timing unknown
)

// Timing is when a pane fired in regard to the watermark.
type Timing byte

// Timings, numbered as they are encoded.
const (
	Early Timing = iota
	OnTime
	Late
	Unknown
)

// Pane is a decoded pane info.
type Pane struct {
	Timing      Timing
	First, Last bool
	Index       int64 // of this firing, from 0
	OnTimeIndex int64 // among the firings that are not early, from 0; -1 for early ones
}

// How many indices follow the first byte of a pane info, in its high nibble.
const (
	noIndex    = 0 // Index is 0
	oneIndex   = 1 // OnTimeIndex is the same, or the pane is early
	twoIndices = 2
)

// DecodePane decodes the pane info at the start of b and returns its length
// in bytes. It returns ErrShort if b ends within it and a fault.Corruption if it is invalid.
func DecodePane(b []byte) (p Pane, n int, err error) {
	if n, err = skipPane(b, 0); err != nil {
		return Pane{}, 0, err
	}
	p = Pane{First: b[0]&1 != 0, Last: b[0]&2 != 0, Timing: Timing(b[0] >> 2 & 3)}
	indices := b[0] >> 4
	rest := b[1:n]
	if indices != noIndex {
		v, size, err := Varint(rest)
		if err != nil {
			return Pane{}, 0, err
		}
		p.Index, rest = v, rest[size:]
	}
	switch {
	case indices == twoIndices:
		if p.OnTimeIndex, _, err = Varint(rest); err != nil {
			return Pane{}, 0, err
		}
	case p.Timing == Early:
		p.OnTimeIndex = -1
	default:
		p.OnTimeIndex = p.Index
	}
	return p, n, nil
}

// Append appends the encoding of p.
func (p Pane) Append(dst []byte) []byte {
	first := byte(p.Timing) << 2
	if p.First {
		first |= 1
	}
	if p.Last {
		first |= 2
	}
	implied := p.Index
	if p.Timing == Early {
		implied = -1
	}
	switch {
	case p.OnTimeIndex != implied:
		dst = append(dst, first|twoIndices<<4)
		return AppendVarint(AppendVarint(dst, p.Index), p.OnTimeIndex)
	case p.Index != 0:
		return AppendVarint(append(dst, first|oneIndex<<4), p.Index)
	}
	return append(dst, first|noIndex<<4)
}
