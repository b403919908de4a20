package grouping

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// batches cuts the values of each group into elements of at most size values.
type batches struct {
	size  uint64
	value *coders.Coder

	group *spillmap.Group // nil between groups
	given uint64          // values of the group that have left
	bytes []byte          // of the group, from start on not yet cut
	start int
	ended bool // the group has no more pieces
}

// appendBatch appends the next batch.
func (g *Groups) appendBatch(dst []byte) ([]byte, int, error) {
	b := g.batches
	if b.group == nil {
		group, err := g.cursor.Next()
		if err != nil {
			return dst, 0, err
		}
		b.group, b.given, b.bytes, b.start, b.ended = group, 0, b.bytes[:0], 0, false
	}
	n, end, err := b.cut(g.cursor)
	if err != nil {
		return dst, 0, err
	}
	last, err := g.windowing.MaxTimestamp(b.group.Window)
	if err != nil {
		return dst, 0, err
	}
	timestamp := g.windowing.Combiner.Finish(b.group.Timestamp, last)
	g.minimum = min(g.minimum, timestamp)
	if dst, err = b.group.AppendKey(appendHeader(dst, timestamp, b.group.Window)); err != nil {
		return dst, 0, err
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	dst = append(dst, b.bytes[b.start:end]...)
	b.start, b.given = end, b.given+n
	if b.ended && b.given == b.group.Count {
		b.group = nil
		if end != len(b.bytes) {
			return dst, 0, fault.New(fault.Corruption, "grouping: %d bytes follow the last value of a group", len(b.bytes)-end)
		}
	}
	return dst, 1, nil
}

// cut finds the next batch: n values, which end before b.bytes[end].
func (b *batches) cut(cursor *spillmap.Cursor) (n uint64, end int, err error) {
	end = b.start
	for {
		// How many values there are is only known when all pieces have been read, and
		// values may take no bytes.
		for n < b.size && (end < len(b.bytes) || b.ended && b.given+n < b.group.Count) {
			size, err := b.value.Skip(b.bytes[end:])
			if errors.Is(err, coders.ErrShort) && !b.ended || err == nil && size == 0 && !b.ended {
				break
			}
			if err != nil {
				return 0, 0, cutError(err, end)
			}
			n, end = n+1, end+size
		}
		// Also where the batch is full: the last one of a group is known as such.
		if b.ended || n == b.size && end < len(b.bytes) {
			return n, end, nil
		}
		if end, err = b.read(cursor, end); err != nil {
			return 0, 0, err
		}
	}
}

// read adds a piece, and returns where what was at end is now.
func (b *batches) read(cursor *spillmap.Cursor, end int) (int, error) {
	piece, err := cursor.Piece()
	if err == io.EOF {
		b.ended = true
		return end, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b.bytes)-b.start+len(piece) > MaxInline {
		return 0, fault.New(fault.Unsupported, "grouping: a batch of %d values of key %s takes more than %d bytes", b.size, b.group.KeyStart(), MaxInline)
	}
	b.bytes = append(b.bytes[:copy(b.bytes, b.bytes[b.start:])], piece...)
	end -= b.start
	b.start = 0
	return end, nil
}
