package grouping

import (
	"encoding/binary"
	"io"
	"math"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// Groups is the output of a Table. It belongs to the table's goroutine and is good
// until the table is closed.
type Groups struct {
	windowing *windowing.Strategy
	cursor    *spillmap.Cursor
	sessions  sessions
	minimum   int64 // of the timestamps that the current Next has written
	// estimate is about how many bytes are to come; it only guides allocation.
	estimate int64
}

// Next appends encoded windowed KV<K, iterable<V>> elements to dst until it holds
// maxBytes or more, and returns it with the number of elements appended and the smallest of
// their timestamps in ms. Each is in one window, in the pane that is on time, first
// and last. A group is appended whole (of sessions, all groups of a key); there is at
// least one. The error is io.EOF when none are left.
func (g *Groups) Next(dst []byte, maxBytes int) (out []byte, n int, minTimestamp int64, err error) {
	g.minimum = math.MaxInt64
	start := len(dst)
	if room := min(int64(maxBytes-start), g.estimate); room > 0 {
		dst = slices.Grow(dst, int(room))
	}
	defer func() { g.estimate -= int64(len(out) - start) }()
	for n == 0 || len(dst) < maxBytes {
		group, err := g.cursor.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return dst, 0, 0, err
		}
		added := 1
		if g.windowing.Merging {
			dst, added, err = g.appendSessions(dst, group)
		} else {
			dst, err = g.appendGroup(dst, group)
		}
		if err != nil {
			return dst, 0, 0, err
		}
		n += added
	}
	if n == 0 {
		return dst, 0, 0, io.EOF
	}
	return dst, n, g.minimum, nil
}

// appendGroup appends the element of a key and window. Timestamp and count are
// filled in last: they are known when all values have been seen.
func (g *Groups) appendGroup(dst []byte, group *spillmap.Group) ([]byte, error) {
	end, err := g.windowing.MaxTimestamp(group.Window)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	dst = appendHeader(dst, 0, group.Window, group.Key)
	count := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for {
		piece, err := g.cursor.Piece()
		if err == io.EOF {
			break
		}
		if err != nil {
			return dst, err
		}
		dst = append(dst, piece...)
	}
	if err := checkCount(group.Count); err != nil {
		return dst, err
	}
	timestamp := g.windowing.Combiner.Finish(group.Timestamp, end)
	g.minimum = min(g.minimum, timestamp)
	coders.AppendTimestamp(dst[:start], timestamp)
	binary.BigEndian.PutUint32(dst[count:], uint32(group.Count))
	return dst, nil
}

// appendHeader appends what precedes the iterable of a group.
func appendHeader(dst []byte, timestamp int64, window, key []byte) []byte {
	dst = coders.AppendTimestamp(dst, timestamp)
	dst = append(dst, 0, 0, 0, 1)
	dst = append(dst, window...)
	dst = append(dst, coders.PaneOnTimeOnly)
	return append(dst, key...)
}

func checkCount(n uint64) error {
	if n > math.MaxInt32 {
		return fault.New(fault.Unsupported, "grouping: a key has %d values in one window; up to %d can be grouped", n, math.MaxInt32)
	}
	return nil
}
