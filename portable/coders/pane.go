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

// DecodePane decodes the pane info at the start of b and returns its length
// in bytes. It returns ErrShort if b ends within it and a fault.Corruption if it is invalid.
func DecodePane(b []byte) (p Pane, n int, err error) { panic("todo") }

// Append appends the encoding of p.
func (p Pane) Append(dst []byte) []byte { panic("todo") }
