package spillmap

import (
	"bytes"
	"encoding/binary"
	"unsafe"
)

// group is the entry of one key and window: one cache line. Its values are a chain of
// chunks in the arena, each of them
//
//	next chunk, uint32 | capacity, uint32 | capacity bytes
//
// full but for the last one. The first chunk begins with the key.
type group struct {
	hash      uint64
	prefix    uint64 // of the key, see keyPrefix
	timestamp int64
	count     uint64
	window    uint32
	keyLen    uint32
	head      ref
	tail      ref
	tailUsed  uint32
	tailCap   uint32
	long      bool // the key is the name of a long one
	_         [7]byte
}

const (
	chunkHeader  = 8
	minChunk     = 64      // bytes, of a chunk that is not the first
	maxChunk     = 8 << 10 // bytes
	firstRound   = 32      // first chunks have some room for a second short value
	pageBits     = 9
	pageSize     = 1 << pageBits
	groupBytes   = int(unsafe.Sizeof(group{}))
	minSlots     = 64
	windowStride = 0x9e3779b1
)

// table holds groups in memory: open addressing over group numbers, groups in pages.
type table struct {
	arena arena
	// slots hold, at the position of the low hash bits, low hash bits<<32 | group number+1.
	slots  []uint64
	pages  [][]group
	groups int

	windows    [][]byte          // by window number
	windowIDs  map[string]uint32 // the inverse
	lastWindow uint32
	windowUsed int // bytes

	touched byte // keeps the loads of touch
}

// memory is what the table takes, what sorting it takes included.
func (t *table) memory() int {
	return t.arena.used + t.groups*(groupBytes+sortBytes) + len(t.slots)*8 + t.windowUsed
}

func (t *table) key(g *group) []byte {
	return t.arena.at(g.head)[chunkHeader:][:g.keyLen:g.keyLen]
}

func (t *table) group(i uint32) *group { return &t.pages[i>>pageBits][i&(pageSize-1)] }

// intern returns the number of a window. Numbers last until reset.
func (t *table) intern(window []byte) uint32 {
	if len(t.windows) > 0 && bytes.Equal(t.windows[t.lastWindow], window) {
		return t.lastWindow
	}
	id, ok := t.windowIDs[string(window)]
	if !ok {
		if t.windowIDs == nil {
			t.windowIDs = map[string]uint32{}
		}
		id = uint32(len(t.windows))
		own := bytes.Clone(window)
		t.windows = append(t.windows, own)
		t.windowIDs[string(own)] = id
		t.windowUsed += 2*len(own) + 64
	}
	t.lastWindow = id
	return id
}

func slotHash(hash uint64, window uint32) uint32 { return uint32(hash) + window*windowStride }

// find returns the group of a key and window, made if there is none. A new group
// has a first chunk with room for the next value bytes.
func (t *table) find(hash uint64, key []byte, long bool, window uint32, value int) *group {
	if len(t.slots)*3 <= t.groups*4 {
		t.grow()
	}
	low, prefix, mask := slotHash(hash, window), keyPrefix(key), uint32(len(t.slots)-1)
	for i := low & mask; ; i = (i + 1) & mask {
		slot := t.slots[i]
		if slot == 0 {
			t.slots[i] = uint64(low)<<32 | uint64(t.groups+1)
			g := t.insert(hash, prefix, key, window, value)
			g.long = long
			return g
		}
		if uint32(slot>>32) != low {
			continue
		}
		g := t.group(uint32(slot) - 1)
		if g.hash == hash && g.prefix == prefix && g.window == window && int(g.keyLen) == len(key) && g.long == long &&
			(len(key) <= 8 || bytes.Equal(t.arena.at(g.head)[chunkHeader+8:chunkHeader+len(key)], key[8:])) {
			return g
		}
	}
}

func (t *table) insert(hash, prefix uint64, key []byte, window uint32, value int) *group {
	if t.groups>>pageBits == len(t.pages) {
		t.pages = append(t.pages, make([]group, pageSize))
	}
	g := t.group(uint32(t.groups))
	t.groups++
	room := (chunkHeader+len(key)+min(value, maxChunk)+firstRound-1)&^(firstRound-1) - chunkHeader
	*g = group{hash: hash, prefix: prefix, window: window, keyLen: uint32(len(key)),
		tailUsed: uint32(len(key)), tailCap: uint32(room)}
	var chunk []byte
	g.head, chunk = t.newChunk(room)
	g.tail = g.head
	copy(chunk[chunkHeader:], key)
	return g
}

func (t *table) newChunk(room int) (ref, []byte) {
	r, chunk := t.arena.alloc(chunkHeader + room)
	binary.LittleEndian.PutUint64(chunk, uint64(room)<<32)
	return r, chunk
}

// minTouched is the number of groups from which a table outgrows the processor's caches.
const minTouched = 4 << 10

// touch loads what find and append will need. Loads of one step do not depend on
// each other, so they overlap.
func (t *table) touch(hashes []uint64) {
	var numbers [32]uint32
	hashes = hashes[:min(len(hashes), len(numbers))]
	mask := uint32(len(t.slots) - 1)
	for i, hash := range hashes {
		numbers[i] = uint32(t.slots[slotHash(hash, t.lastWindow)&mask])
	}
	var tails [len(numbers)]ref
	for i := range hashes {
		if n := numbers[i]; n != 0 {
			g := t.group(n - 1)
			tails[i] = g.tail + ref((chunkHeader+g.tailUsed)>>unitBits)
		}
	}
	for i := range hashes {
		r := tails[i]
		if off := int(r & refUnitMask << unitBits); r != 0 && off < len(t.arena.slabs[r>>refSlabShift]) {
			t.touched += t.arena.slabs[r>>refSlabShift][off]
		}
	}
}

const touchAhead = 16

// touchGroups loads groups, at most touchAhead, and what their first chunks begin with.
func (t *table) touchGroups(numbers []uint32) {
	var heads [touchAhead]ref
	for i, n := range numbers {
		heads[i] = t.group(n).head
	}
	for _, head := range heads[:len(numbers)] {
		if slab := t.arena.slabs[head>>refSlabShift]; slab != nil {
			t.touched += slab[head&refUnitMask<<unitBits]
		}
	}
}

// append adds bytes to the values of a group.
func (t *table) append(g *group, value []byte) {
	if int(g.tailCap-g.tailUsed) >= len(value) {
		copy(t.arena.at(g.tail)[chunkHeader+g.tailUsed:], value)
		g.tailUsed += uint32(len(value))
		return
	}
	t.appendSplit(g, value)
}

func (t *table) appendSplit(g *group, value []byte) {
	for len(value) > 0 {
		if g.tailUsed == g.tailCap {
			room := max(minChunk, min(2*int(g.tailCap), maxChunk)) - chunkHeader
			next, _ := t.newChunk(room)
			binary.LittleEndian.PutUint32(t.arena.at(g.tail), uint32(next))
			g.tail, g.tailUsed, g.tailCap = next, 0, uint32(room)
		}
		n := copy(t.arena.at(g.tail)[chunkHeader+g.tailUsed:chunkHeader+g.tailCap], value)
		g.tailUsed += uint32(n)
		value = value[n:]
	}
}

// grow doubles the slots. A slot has the bits that say where it belongs.
func (t *table) grow() {
	old := t.slots
	t.slots = make([]uint64, max(minSlots, 2*len(old)))
	mask := uint32(len(t.slots) - 1)
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		i := uint32(slot>>32) & mask
		for t.slots[i] != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = slot
	}
}

// reset empties the table and keeps its memory.
func (t *table) reset() {
	t.arena.reset()
	clear(t.slots)
	t.groups = 0
	clear(t.windows)
	t.windows, t.lastWindow, t.windowUsed = t.windows[:0], 0, 0
	clear(t.windowIDs)
}

// keyPrefix returns up to 8 bytes of a key, different for different keys of the
// same length of at most 8.
func keyPrefix(key []byte) uint64 {
	switch n := len(key); {
	case n >= 8:
		return binary.LittleEndian.Uint64(key)
	case n >= 4:
		return uint64(binary.LittleEndian.Uint32(key)) | uint64(binary.LittleEndian.Uint32(key[n-4:]))<<32
	case n > 0:
		return uint64(key[0]) | uint64(key[n/2])<<8 | uint64(key[n-1])<<16
	default:
		return 0
	}
}
