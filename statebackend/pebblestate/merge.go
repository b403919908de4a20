package pebblestate

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// appendMerger concatenates what was appended. Its name is stored with the state.
var appendMerger = &pebble.Merger{
	Name: "lintel.append.v1",
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		return &concatenation{bytes: append([]byte{}, value...)}, nil
	},
}

// concatenation puts operands together, from either end. Reads come from the newest to the
// oldest, so room is kept in front: joining n operands costs their length, not n times it.
type concatenation struct {
	bytes []byte
	start int // of what is in use
}

// MergeNewer implements pebble.ValueMerger.
func (c *concatenation) MergeNewer(value []byte) error {
	c.bytes = append(c.bytes, value...)
	return nil
}

// MergeOlder implements pebble.ValueMerger.
func (c *concatenation) MergeOlder(value []byte) error {
	if c.start < len(value) {
		used := c.bytes[c.start:]
		front := max(len(used), 2*len(value), 64)
		grown := make([]byte, front+len(used))
		copy(grown[front:], used)
		c.bytes, c.start = grown, front
	}
	c.start -= len(value)
	copy(c.bytes[c.start:], value)
	return nil
}

// Finish implements pebble.ValueMerger.
func (c *concatenation) Finish(bool) ([]byte, io.Closer, error) { return c.bytes[c.start:], nil, nil }
