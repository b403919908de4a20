package grouping

import (
	"cmp"
	"encoding/binary"
	"errors"
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
//
// Keys with more of them than limit bytes are sorted on disk.
type sessions struct {
	limit     int
	values    []byte
	entries   []sessionEntry
	intervals []windowing.Interval
	window    []byte

	large  *largeSessions // of the key that is being read, if it is so large
	sorter spillmap.Config
	// spilled is the number of bytes written to disk by all sorters that are closed.
	spilled int64
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

// appendSessions appends one element for each session of a key and returns their
// number. Of a key that is too large for memory it is only the first.
func (g *Groups) appendSessions(dst []byte, group *spillmap.Group) ([]byte, int, error) {
	s := &g.sessions
	if whole, err := s.collect(g.cursor); err != nil {
		return dst, 0, err
	} else if !whole {
		if s.large, err = s.sort(g.cursor, group); err != nil {
			return dst, 0, err
		}
		return g.appendLargeSession(dst)
	}
	if err := s.cut(); err != nil {
		return dst, 0, err
	}
	n := 0
	var err error
	windowing.MergeSessions(s.intervals, func(merged windowing.Interval, from, to int) {
		if err != nil {
			return
		}
		timestamp := s.entries[from].timestamp
		for _, e := range s.entries[from+1 : to] {
			timestamp = g.windowing.Combiner.Combine(timestamp, e.timestamp)
		}
		if dst, err = group.AppendKey(g.appendSessionHeader(dst, merged, timestamp)); err == nil {
			dst, err = g.appendEntries(dst, s.entries[from:to], group)
		}
		n++
	})
	return dst, n, err
}

func (g *Groups) appendSessionHeader(dst []byte, merged windowing.Interval, timestamp int64) []byte {
	timestamp = g.windowing.Combiner.Finish(timestamp, merged.MaxTimestamp())
	g.minimum = min(g.minimum, timestamp)
	g.sessions.window = merged.Append(g.sessions.window[:0])
	return appendHeader(dst, timestamp, g.sessions.window)
}

// appendEntries appends the iterable of a session.
func (g *Groups) appendEntries(dst []byte, entries []sessionEntry, group *spillmap.Group) ([]byte, error) {
	size := 0
	for _, e := range entries {
		size += len(e.value)
	}
	if size <= g.values.inline {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(entries)))
		for _, e := range entries {
			dst = append(dst, e.value...)
		}
		return dst, checkCount(uint64(len(entries)))
	}
	g.values.begin(group.KeyStart())
	for _, e := range entries {
		if err := g.values.add(e.value, 1); err != nil {
			return dst, err
		}
	}
	return g.appendIterable(dst)
}

// collect reads the values of the cursor's group. It returns false if there are more than fit.
func (s *sessions) collect(cursor *spillmap.Cursor) (whole bool, err error) {
	s.values = s.values[:0]
	for len(s.values) <= s.limit {
		piece, err := cursor.Piece()
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		s.values = append(s.values, piece...)
	}
	return false, nil
}

// cut finds the values in what was collected, and sorts them by start of window.
func (s *sessions) cut() error {
	s.entries, s.intervals = s.entries[:0], s.intervals[:0]
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
	if n < 0 {
		return e, nil, fault.New(fault.Corruption, "grouping: the length of a session's value is no varint")
	}
	if n == 0 || size > uint64(len(b)-n) {
		return e, nil, fault.Wrap(fault.Corruption, coders.ErrShort)
	}
	end := n + int(size)
	e.value = b[n:end:end]
	return e, b[end:], nil
}

// largeSessions are the values of one key that don't fit in memory, in order of the
// starts of their windows.
type largeSessions struct {
	key      []byte
	keyStart string
	sorted   *spillmap.Map
	cursor   *spillmap.Cursor
	cutter   sessionCutter
	next     sessionEntry // the first value of the next session, unless it has ended
	ended    bool
}

// sort sorts the values that were collected and all that follow in the group.
func (s *sessions) sort(from *spillmap.Cursor, group *spillmap.Group) (_ *largeSessions, err error) {
	l := &largeSessions{keyStart: group.KeyStart()}
	if l.key, err = group.AppendKey(nil); err != nil {
		return nil, err
	}
	if l.sorted, err = spillmap.New(s.sorter); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.sorted.Close())
		}
	}()
	in := sessionCutter{buffer: s.values, piece: from.Piece}
	var prefix, window []byte
	for {
		e, err := in.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		window = e.interval.Append(window[:0])
		prefix = appendSessionPrefix(prefix[:0], e.timestamp, window, len(e.value))
		// The order of the hashes is that of the starts.
		if err := l.sorted.Add(uint64(e.interval.Start)^1<<63, nil, nil, 0, prefix, e.value); err != nil {
			return nil, err
		}
	}
	s.values = nil // it may have grown large
	if l.cursor, err = l.sorted.Read(); err != nil {
		return nil, err
	}
	l.cutter.piece = l.piece
	l.next, err = l.cutter.next()
	return l, err
}

// piece returns the pieces of all groups.
func (l *largeSessions) piece() ([]byte, error) {
	for {
		if b, err := l.cursor.Piece(); err != io.EOF {
			return b, err
		}
		if _, err := l.cursor.Next(); err != nil {
			return nil, err
		}
	}
}

// appendLargeSession appends the next session of the large key.
func (g *Groups) appendLargeSession(dst []byte) ([]byte, int, error) {
	l := g.sessions.large
	merged, timestamp := l.next.interval, l.next.timestamp
	g.values.begin(l.keyStart)
	e := l.next
	for {
		if err := g.values.add(e.value, 1); err != nil {
			return dst, 0, err
		}
		var err error
		if e, err = l.cutter.next(); err == io.EOF {
			l.ended = true
			break
		} else if err != nil {
			return dst, 0, err
		}
		if e.interval.Start >= merged.End {
			break
		}
		merged.End = max(merged.End, e.interval.End)
		timestamp = g.windowing.Combiner.Combine(timestamp, e.timestamp)
	}
	l.next = e
	dst = append(g.appendSessionHeader(dst, merged, timestamp), l.key...)
	dst, err := g.appendIterable(dst)
	if err == nil && l.ended {
		err = g.sessions.closeLarge()
	}
	return dst, 1, err
}

func (s *sessions) closeLarge() error {
	if s.large == nil {
		return nil
	}
	s.spilled += s.large.sorted.Stats().SpilledBytes
	err := s.large.sorted.Close()
	s.large = nil
	return err
}

// sessionCutter cuts values with their prefixes out of pieces that end anywhere.
type sessionCutter struct {
	piece  func() ([]byte, error)
	buffer []byte
	at     int // in buffer
}

// next returns a value that is good until the next call, io.EOF after the last.
func (c *sessionCutter) next() (sessionEntry, error) {
	for {
		e, rest, err := cutSession(c.buffer[c.at:])
		if err == nil {
			c.at = len(c.buffer) - len(rest)
			return e, nil
		}
		if !errors.Is(err, coders.ErrShort) {
			return e, err
		}
		piece, next := c.piece()
		if next == io.EOF && c.at == len(c.buffer) {
			return sessionEntry{}, io.EOF
		}
		if next == io.EOF {
			return sessionEntry{}, err
		}
		if next != nil {
			return sessionEntry{}, next
		}
		if c.at > 0 {
			c.buffer = append(c.buffer[:0], c.buffer[c.at:]...)
			c.at = 0
		}
		c.buffer = append(c.buffer, piece...)
	}
}
