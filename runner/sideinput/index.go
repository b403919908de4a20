package sideinput

import (
	"encoding/binary"
	"sort"

	"github.com/lintelrun/lintel/internal/fault"
)

// rankOf returns the place of a window's key in the order of entries: by window first, as
// long as there are not more than 1<<windowBits of them, then by the key's hash. Entries of
// different windows or keys may have the same rank.
func rankOf(window, hash uint64) uint64 { return window<<(64-windowBits) | hash>>windowBits }

const windowBits = 16

// entry is one key of one window; the values of an iterable have the empty key.
type entry struct {
	rank   uint64
	window uint64
	count  uint64 // of values
	off    int64  // of the values, in the view's
	size   int64  // of the values
	key    []byte
}

// index is all entries in the order of their ranks, in a store that has for each
//
//	rank, uint64 little endian | window, uvarint | count, uvarint | values size, uvarint |
//	    key length, uvarint | key
//
// The values lie in the order of entries. In memory is where each block of entries begins. Once finished
// it may be read concurrently.
type index struct {
	data    *store
	ranks   []uint64 // of each block's first entry
	places  []place
	entries int
	scratch []byte // of add
}

// place is where an entry and its values begin.
type place struct{ entry, values int64 }

// How many bytes of entries make a block, of which a look-up parses one or two; the last
// entry may exceed them. On disk they are more, to keep what is in memory small.
const (
	memoryBlock = 256
	diskBlock   = 4 << 10
)

// add appends an entry.
func (x *index) add(e *entry, keyed bool) error {
	if !keyed {
		e.rank = rankOf(e.window, 0)
	}
	block := int64(memoryBlock)
	if x.data.file != nil {
		block = diskBlock
	}
	if n := len(x.places); n == 0 || x.data.size-x.places[n-1].entry >= block {
		x.ranks = append(x.ranks, e.rank)
		x.places = append(x.places, place{x.data.size, e.off})
	}
	b := binary.LittleEndian.AppendUint64(x.scratch[:0], e.rank)
	b = binary.AppendUvarint(b, e.window)
	b = binary.AppendUvarint(b, e.count)
	b = binary.AppendUvarint(b, uint64(e.size))
	b = binary.AppendUvarint(b, uint64(len(e.key)))
	x.scratch = append(b, e.key...)
	x.entries++
	return x.data.append(x.scratch)
}

func (x *index) finish() error {
	x.scratch = nil
	return x.data.finish()
}

// seek returns where to look for the first entry of at least a rank: at it or before.
func (x *index) seek(rank uint64) place {
	i := sort.Search(len(x.ranks), func(i int) bool { return x.ranks[i] >= rank })
	if i == 0 {
		return place{}
	}
	return x.places[i-1]
}

// find returns the entry of a key in a window, if there is one.
func (x *index) find(rank, window uint64, key []byte) (entry, bool, error) {
	s := scan{index: x, at: x.seek(rank)}
	for {
		e, ok, err := s.next()
		if err != nil || !ok || e.rank > rank {
			return entry{}, false, err
		}
		if e.rank == rank && e.window == window && string(e.key) == string(key) {
			return e, true, nil
		}
	}
}

// scan reads entries in order.
type scan struct {
	index *index
	at    place  // of the next entry
	read  []byte // what was read from there on
}

// next returns the next entry, or false after the last. Its key is good until the next call.
func (s *scan) next() (e entry, ok bool, err error) {
	for want := int64(diskBlock); ; want *= 2 {
		if n, ok := parseEntry(s.read, &e); ok {
			e.off = s.at.values
			s.at.entry += int64(n)
			s.at.values += e.size
			s.read = s.read[n:]
			return e, true, nil
		}
		left := s.index.data.size - s.at.entry
		if left == 0 {
			return e, false, nil
		}
		if int64(len(s.read)) == left {
			return e, false, fault.New(fault.Corruption, "side input: the index is damaged at byte %d", s.at.entry)
		}
		if s.read, err = s.index.data.read(s.at.entry, min(want, left)); err != nil {
			return e, false, err
		}
	}
}

// parseEntry reads the entry at the start of b, whose key aliases b, and returns its length.
func parseEntry(b []byte, e *entry) (int, bool) {
	if len(b) < 8 {
		return 0, false
	}
	e.rank = binary.LittleEndian.Uint64(b)
	at := 8
	var fields [4]uint64
	for i := range fields {
		if at < len(b) && b[at] < 0x80 {
			fields[i] = uint64(b[at])
			at++
			continue
		}
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return 0, false
		}
		fields[i] = v
		at += n
	}
	if fields[3] > uint64(len(b)-at) {
		return 0, false
	}
	end := at + int(fields[3])
	e.window, e.count, e.size, e.key = fields[0], fields[1], int64(fields[2]), b[at:end:end]
	return end, true
}
