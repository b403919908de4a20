package grouping

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// MergeFunc merges, for each of several keys, its windows, as encoded, which are all
// different. It returns those that change: each at most once in all From of its key. It
// must not keep or change what it is given; what it returns is not changed.
type MergeFunc func(keys [][][]byte) ([][]windowing.Merged, error)

// merging is the memory in which windows of custom functions are merged. Values are grouped
// by the windows that they came in; all windows of a key are read one after the other. A
// batch is keys whose values fit in memory, or one that is larger, whose values go on in a
// file; its windows are merged all at once.
type merging struct {
	merge MergeFunc
	dir   string
	limit int // bytes in memory
	// ahead is the first group of the next batch, if it has been come to.
	ahead *spillmap.Group

	keys    []mergingKey
	entries []mergingEntry // of all keys, in the order of the keys and of the windows
	arena   []byte         // of keys and windows
	values  []byte
	file    *valueFile // nil unless they are too many
	groups  []mergingGroup
	order   []int32 // entries by group
	next    int     // of groups
	// spilled is the number of bytes written to files that are closed.
	spilled int64
}

// mergingKey is a key and its entries [from, to).
type mergingKey struct {
	key      []byte
	from, to int
}

// mergingEntry is the values of a key in a window before the merge: some in memory, the rest in
// the file.
type mergingEntry struct {
	window               []byte
	timestamp            int64
	count                uint64
	off, size            int
	fileOffset, fileSize int64
	taken                bool // it is part of a group
}

// mergingGroup is a key and window after the merge: the entries of order[from:to].
type mergingGroup struct {
	key      int
	window   []byte
	from, to int
}

// mergingOverhead is about what a key and its first window take beside their bytes.
const mergingOverhead = 256

// maxMergedWindows is how many bytes the windows of one key may take: all of them
// travel in one element, and all are in memory, here and in the SDK.
const maxMergedWindows = 256 << 20

// appendMerged appends the next group of a key and merged window.
func (g *Groups) appendMerged(dst []byte) ([]byte, int, error) {
	m := g.merging
	if m.next == len(m.groups) {
		if err := m.batch(g.cursor); err != nil {
			return dst, 0, err
		}
	}
	group := m.groups[m.next]
	m.next++
	end, err := g.windowing.MaxTimestamp(group.window)
	if err != nil {
		return dst, 0, err
	}
	entries := m.order[group.from:group.to]
	timestamp, count, size := m.entries[entries[0]].timestamp, uint64(0), int64(0)
	for _, i := range entries {
		e := &m.entries[i]
		timestamp = g.windowing.Combiner.Combine(timestamp, e.timestamp)
		count += e.count
		size += int64(e.size) + e.fileSize
	}
	timestamp = g.windowing.Combiner.Finish(timestamp, end)
	g.minimum = min(g.minimum, timestamp)
	key := m.keys[group.key].key
	dst = append(appendHeader(dst, timestamp, group.window), key...)
	if size <= int64(g.values.inline) {
		if err := checkCount(count); err != nil {
			return dst, 0, err
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(count))
		err = m.read(entries, func(b []byte) error {
			dst = append(dst, b...)
			return nil
		})
		return dst, 1, err
	}
	g.values.begin(hex.EncodeToString(key[:min(len(key), 32)]))
	g.values.count = count
	if err := m.read(entries, func(b []byte) error { return g.values.add(b, 0) }); err != nil {
		return dst, 0, err
	}
	dst, err = g.appendIterable(dst)
	return dst, 1, err
}

// read hands the values of entries to take.
func (m *merging) read(entries []int32, take func([]byte) error) error {
	for _, i := range entries {
		e := &m.entries[i]
		if err := take(m.values[e.off : e.off+e.size]); err != nil {
			return err
		}
		for off := int64(0); off < e.fileSize; off += writeSize {
			b, err := m.file.read(e.fileOffset+off, min(writeSize, e.fileSize-off))
			if err != nil {
				return err
			}
			if err := take(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch reads the next keys, at least one, and merges their windows. It returns io.EOF if
// there are none.
func (m *merging) batch(cursor *spillmap.Cursor) error {
	if err := m.close(); err != nil {
		return err
	}
	m.keys, m.entries, m.arena, m.values = m.keys[:0], m.entries[:0], m.arena[:0], m.values[:0]
	m.groups, m.order, m.next = m.groups[:0], m.order[:0], 0
	for {
		group := m.ahead
		m.ahead = nil
		if group == nil {
			var err error
			if group, err = cursor.Next(); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
		}
		start := len(m.arena)
		var err error
		if m.arena, err = group.AppendKey(m.arena); err != nil {
			return err
		}
		key := m.arena[start:len(m.arena):len(m.arena)]
		if k := len(m.keys); k > 0 && bytes.Equal(m.keys[k-1].key, key) {
			m.arena = m.arena[:start]
		} else {
			if k > 0 && len(m.values)+start+mergingOverhead*len(m.entries) >= m.limit/2 {
				m.ahead = group
				break
			}
			m.keys = append(m.keys, mergingKey{key: key, from: len(m.entries)})
		}
		if err := m.add(cursor, group); err != nil {
			return err
		}
	}
	if len(m.keys) == 0 {
		return io.EOF
	}
	if m.file != nil {
		if err := m.file.flush(); err != nil {
			return err
		}
	}
	return m.regroup()
}

// own copies b to the arena. What was copied before stays where it is.
func (m *merging) own(b []byte) []byte {
	start := len(m.arena)
	m.arena = append(m.arena, b...)
	return m.arena[start:len(m.arena):len(m.arena)]
}

// add reads the cursor's group as one of the last key.
func (m *merging) add(cursor *spillmap.Cursor, group *spillmap.Group) error {
	e := mergingEntry{window: m.own(group.Window), off: len(m.values)}
	if len(m.arena) > maxMergedWindows {
		return fault.New(fault.Unsupported, "grouping: the windows of key %s take more than %d bytes; a custom window function merges all windows of a key at once", group.KeyStart(), maxMergedWindows)
	}
	for {
		piece, err := cursor.Piece()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if m.file == nil && len(m.values)+len(piece) <= m.limit {
			m.values = append(m.values, piece...)
			e.size += len(piece)
			continue
		}
		if m.file == nil {
			m.file = &valueFile{dir: m.dir}
		}
		if e.fileSize == 0 {
			e.fileOffset = m.file.size
		}
		if err := m.file.append(piece); err != nil {
			return err
		}
		e.fileSize += int64(len(piece))
	}
	e.timestamp, e.count = group.Timestamp, group.Count
	m.entries = append(m.entries, e)
	m.keys[len(m.keys)-1].to = len(m.entries)
	return nil
}

// regroup asks for the windows of all keys to be merged and groups the entries so.
func (m *merging) regroup() error {
	windows := make([][][]byte, len(m.keys))
	all := make([][]byte, len(m.entries))
	for i := range m.entries {
		all[i] = m.entries[i].window
	}
	for i, k := range m.keys {
		windows[i] = all[k.from:k.to:k.to]
	}
	merged, err := m.merge(windows)
	if err != nil {
		return err
	}
	if len(merged) != len(m.keys) {
		return fault.New(fault.Internal, "grouping: windows of %d keys were merged, not of %d", len(merged), len(m.keys))
	}
	for i, k := range m.keys {
		for _, result := range merged[i] {
			if err := m.addGroup(i, result); err != nil {
				return err
			}
		}
		for j := k.from; j < k.to; j++ {
			if e := &m.entries[j]; !e.taken {
				m.order = append(m.order, int32(j))
				m.groups = append(m.groups, mergingGroup{key: i, window: e.window, from: len(m.order) - 1, to: len(m.order)})
			}
		}
	}
	return nil
}

// addGroup adds a group of the key with number i that several windows became.
func (m *merging) addGroup(i int, result windowing.Merged) error {
	k := m.keys[i]
	entries := m.entries[k.from:k.to]
	group := mergingGroup{key: i, window: result.Window, from: len(m.order)}
	for _, w := range result.From {
		at, ok := slices.BinarySearchFunc(entries, w, func(e mergingEntry, w []byte) int { return bytes.Compare(e.window, w) })
		if !ok || entries[at].taken {
			return fault.New(fault.Internal, "grouping: window %.32x was merged, but key %.32x has it no longer", w, k.key)
		}
		entries[at].taken = true
		m.order = append(m.order, int32(k.from+at))
	}
	if group.to = len(m.order); group.to > group.from {
		m.groups = append(m.groups, group)
	}
	return nil
}

// close removes the file of the batch.
func (m *merging) close() error {
	if m.file == nil {
		return nil
	}
	m.spilled += m.file.size
	err := m.file.close()
	m.file = nil
	return err
}
