package spillmap

import "encoding/binary"

// Place is where in memory the values of a retained group, or the rest of them, begin. A
// group has bytes at its place, so the zero Place is none.
type Place uint64

func place(chunk ref, off uint32) Place { return Place(chunk)<<32 | Place(off) }

// Retained reads the groups that a cursor has retained. It is safe for concurrent use, also
// with that of the cursor, and keeps their memory after the Map is closed.
type Retained struct{ slabs [][]byte }

// Retained returns what reads the groups that the map's cursors retain. It is called
// after Read.
func (m *Map) Retained() *Retained { return &Retained{m.table.arena.slabs} }

// Append appends the next n bytes of a group from p on, or all that are left, to dst.
func (r *Retained) Append(dst []byte, p Place, n int) []byte {
	r.walk(p, n, func(piece []byte) { dst = append(dst, piece...) })
	return dst
}

// Advance returns the place n bytes after p, which is in the group's bytes and not its end.
func (r *Retained) Advance(p Place, n int) Place { return r.walk(p, n, func([]byte) {}) }

// walk yields n bytes from p on, in pieces, and returns where the next are.
func (r *Retained) walk(p Place, n int, yield func([]byte)) Place {
	chunk, off := ref(p>>32), uint32(p)
	for chunk != 0 {
		b := (&arena{slabs: r.slabs}).at(chunk)
		header := binary.LittleEndian.Uint64(b)
		used := uint32(header >> 32)
		if left := used - off; int(left) > n {
			yield(b[chunkHeader+off : chunkHeader+off+uint32(n)])
			return place(chunk, off+uint32(n))
		}
		yield(b[chunkHeader+off : chunkHeader+used])
		n -= int(used - off)
		chunk, off = ref(header), 0
	}
	return 0
}

// Retain leaves the values of the cursor's group where they are if they are all in memory
// and take more than limit bytes. Then the group has no pieces, and Retained
// reads size bytes at its place. It is called before the group's first Piece.
func (c *Cursor) Retain(limit int) (p Place, size int64, ok bool) {
	s, inMemory := c.src.(*tableSource)
	if !inMemory || !c.inGroup || !c.fresh {
		return 0, 0, false
	}
	if p, size, ok = s.retain(limit); ok {
		c.fresh = false
	}
	return p, size, ok
}

// retain ends the current group without a release of its chunks.
func (s *tableSource) retain(limit int) (Place, int64, bool) {
	g := s.group
	size := int64(len(s.rec.value))
	for chunk := s.chunk; chunk != 0; {
		header := binary.LittleEndian.Uint64(s.table.arena.at(chunk))
		if chunk == g.tail {
			size += int64(g.tailUsed)
			break
		}
		size += int64(header >> 32)
		chunk = ref(header)
	}
	if size <= int64(limit) {
		return 0, 0, false
	}
	// From now on the last chunk tells by itself what it holds.
	binary.LittleEndian.PutUint64(s.table.arena.at(g.tail), uint64(g.tailUsed)<<32)
	s.held, s.chunk = 0, 0
	return place(g.head, g.keyLen), size, true
}
