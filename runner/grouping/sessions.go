package grouping

import (
	"cmp"
	"encoding/binary"
	"io"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// sessions is the memory in which the values of one key are merged into sessions;
// it is used again for each key. A value that waits for that is kept as
//
//	timestamp in ms, uint64 little endian | interval window | value length, uvarint | value
type sessions struct {
	values    []byte
	entries   []sessionEntry
	intervals []windowing.Interval
	window    []byte
}

type sessionEntry struct {
	interval  windowing.Interval
	timestamp int64
	value     []byte
}

func appendSessionPrefix(dst []byte, timestamp int64, window []byte, value int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(timestamp))
	dst = append(dst, window...)
	return binary.AppendUvarint(dst, uint64(value))
}

// appendSessions appends one element for each session of a key and returns their number.
func (g *Groups) appendSessions(dst []byte, group *spillmap.Group) ([]byte, int, error) {
	s := &g.sessions
	if err := s.read(g.cursor); err != nil {
		return dst, 0, err
	}
	if err := checkCount(uint64(len(s.entries))); err != nil {
		return dst, 0, err
	}
	n := 0
	windowing.MergeSessions(s.intervals, func(merged windowing.Interval, from, to int) {
		timestamp := s.entries[from].timestamp
		for _, e := range s.entries[from+1 : to] {
			timestamp = g.windowing.Combiner.Combine(timestamp, e.timestamp)
		}
		timestamp = g.windowing.Combiner.Finish(timestamp, merged.MaxTimestamp())
		g.minimum = min(g.minimum, timestamp)
		s.window = merged.Append(s.window[:0])
		dst = appendHeader(dst, timestamp, s.window, group.Key)
		dst = binary.BigEndian.AppendUint32(dst, uint32(to-from))
		for _, e := range s.entries[from:to] {
			dst = append(dst, e.value...)
		}
		n++
	})
	return dst, n, nil
}

// read collects all values of the cursor's group, sorted by start of window.
func (s *sessions) read(cursor *spillmap.Cursor) error {
	s.values, s.entries, s.intervals = s.values[:0], s.entries[:0], s.intervals[:0]
	for {
		piece, err := cursor.Piece()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		s.values = append(s.values, piece...)
	}
	sorted := true
	for rest := s.values; len(rest) > 0; {
		var e sessionEntry
		var err error
		if e, rest, err = cutSession(rest); err != nil {
			return err
		}
		if k := len(s.entries); k > 0 && s.entries[k-1].interval.Start > e.interval.Start {
			sorted = false
		}
		s.entries = append(s.entries, e)
	}
	if !sorted {
		slices.SortStableFunc(s.entries, func(a, b sessionEntry) int { return cmp.Compare(a.interval.Start, b.interval.Start) })
	}
	for _, e := range s.entries {
		s.intervals = append(s.intervals, e.interval)
	}
	return nil
}

func cutSession(b []byte) (e sessionEntry, rest []byte, err error) {
	const stamp = coders.TimestampSize
	if len(b) < stamp {
		return e, nil, fault.Wrap(fault.Corruption, coders.ErrShort)
	}
	e.timestamp = int64(binary.LittleEndian.Uint64(b))
	interval, n, err := windowing.DecodeInterval(b[stamp:])
	if err != nil {
		return e, nil, fault.New(fault.Corruption, "grouping: session window: %w", err)
	}
	e.interval = interval
	b = b[stamp+n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return e, nil, fault.Wrap(fault.Corruption, coders.ErrShort)
	}
	end := n + int(size)
	e.value = b[n:end:end]
	return e, b[end:], nil
}
