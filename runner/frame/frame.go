// Package frame defines what travels on edges: blocks of encoded elements.
package frame

import "math"

// Watermark limits in milliseconds of event time, as in Beam's BoundedWindow.
const (
	MinTimestamp = math.MinInt64 / 1000
	MaxTimestamp = math.MaxInt64 / 1000
)

// Frame is a block of whole encoded windowed values. It is immutable: Data may
// be shared by several edges and is never written again.
type Frame struct {
	Data []byte
	// Elements is the number of windowed values in Data.
	Elements int
	// MinTimestamp is the smallest element timestamp (ms), or a lower bound of it.
	MinTimestamp int64
	// Remote is about how many bytes the elements refer to that travel apart from them: the
	// values of state-backed iterables. Whoever processes the frame reads them.
	Remote int64
	// Empty is true where all elements are groups of no values and are processed in another way
	// than those that have some, so that they share bundles only with their like.
	Empty bool
}

// Bytes returns the size of the frame's data.
func (f Frame) Bytes() int { return len(f.Data) }
