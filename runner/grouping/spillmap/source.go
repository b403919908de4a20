package spillmap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
)

// record is a piece of a group's values. The counts of a group's records add up to
// the number of its values; the pieces, in order, are the values.
type record struct {
	hash uint64
	key  []byte
	// long is set where key is the name of a long one.
	long      bool
	window    []byte
	count     uint64
	timestamp int64
	value     []byte
	// continued is set where the record belongs to the group of the one before
	// it. Then count is zero and timestamp means nothing. It need not be set.
	continued bool
}

// compare orders records by hash, key and window; long keys by their names, after all others.
func (r *record) compare(o *record) int {
	if c := cmp.Compare(r.hash, o.hash); c != 0 {
		return c
	}
	if r.long != o.long {
		if r.long {
			return 1
		}
		return -1
	}
	if c := bytes.Compare(r.key, o.key); c != 0 {
		return c
	}
	return bytes.Compare(r.window, o.window)
}

// source is a sequence of records.
type source interface {
	// next moves to the next record, io.EOF when there is none.
	next() error
	// record is the current one. Its slices are good until next.
	record() *record
}

// tableSource reads a table.
type tableSource struct {
	table *table
	order []uint32 // of groups; nil for the order of insertion
	// release frees memory as it has been read.
	release bool
	pos     int
	group   *group
	chunk   ref // the next one
	held    ref // that of the current record, to be released
	rec     record
}

func (s *tableSource) record() *record { return &s.rec }

func (s *tableSource) next() error {
	if s.held != 0 {
		s.table.arena.release(s.held)
		s.held = 0
	}
	if s.chunk != 0 {
		s.rec.continued, s.rec.count = true, 0
		s.rec.value = s.readChunk(0)
		return nil
	}
	if s.pos == s.table.groups {
		s.rec = record{}
		return io.EOF
	}
	i := uint32(s.pos)
	if s.order != nil {
		if s.pos%touchAhead == 0 {
			s.table.touchGroups(s.order[s.pos:min(s.pos+touchAhead, len(s.order))])
		}
		i = s.order[s.pos]
	} else if s.release && s.pos > 0 && s.pos&(pageSize-1) == 0 {
		s.table.pages[s.pos>>pageBits-1] = nil
	}
	s.pos++
	g := s.table.group(i)
	s.group, s.chunk = g, g.head
	s.rec = record{hash: g.hash, window: s.table.windows[g.window], count: g.count, timestamp: g.timestamp}
	s.rec.key, s.rec.long = s.table.key(g), g.long
	s.rec.value = s.readChunk(g.keyLen)
	return nil
}

// readChunk returns what the chunk holds after skip bytes and moves to the one after it.
func (s *tableSource) readChunk(skip uint32) []byte {
	chunk := s.table.arena.at(s.chunk)
	header := binary.LittleEndian.Uint64(chunk)
	used := uint32(header >> 32)
	current, next := s.chunk, ref(header)
	if current == s.group.tail {
		used, next = s.group.tailUsed, 0
	}
	s.chunk = next
	if s.release {
		s.held = current
	}
	return chunk[chunkHeader+skip : chunkHeader+used]
}

// mergeSource merges sources that are ordered. Records of equal groups come out
// source by source.
type mergeSource struct {
	// heap has the source with the least record first.
	heap  []source
	begun bool
}

// newMerge returns the merge of sources, none of which has been read yet.
func newMerge(sources []source) (*mergeSource, error) {
	m := &mergeSource{}
	for _, s := range sources {
		if err := s.next(); err == io.EOF {
			continue
		} else if err != nil {
			return nil, err
		}
		m.heap = append(m.heap, s)
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.siftDown(i)
	}
	return m, nil
}

func (m *mergeSource) record() *record { return m.heap[0].record() }

func (m *mergeSource) next() error {
	if !m.begun {
		m.begun = true
	} else if len(m.heap) > 0 {
		switch err := m.heap[0].next(); {
		case err == io.EOF:
			last := len(m.heap) - 1
			m.heap[0] = m.heap[last]
			m.heap = m.heap[:last]
		case err != nil:
			return err
		case m.heap[0].record().continued:
			return nil
		}
		m.siftDown(0)
	}
	if len(m.heap) == 0 {
		return io.EOF
	}
	return nil
}

func (m *mergeSource) siftDown(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(m.heap); c++ {
			if m.heap[c].record().compare(m.heap[least].record()) < 0 {
				least = c
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}
