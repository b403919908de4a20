package spillmap

// Memory is handed out from slabs in units of 8 bytes, so that a reference fits
// 32 bits and nothing in the tables is a pointer that the collector must follow.
const (
	unitBits     = 3
	slabBits     = 20
	slabSize     = 1 << slabBits
	firstSlab    = 1 << 14
	refSlabShift = slabBits - unitBits
	refUnitMask  = 1<<refSlabShift - 1
)

// ref names a place in an arena. Zero is none.
type ref uint32

// arena is an append-only memory that is emptied as a whole.
type arena struct {
	slabs [][]byte
	live  []uint32 // allocations per slab that were not released
	off   int      // end of what is used in the last slab
	used  int      // bytes handed out
	spare [][]byte // full-sized slabs kept by reset
}

// alloc returns n bytes of undefined contents. n may exceed a slab's size.
func (a *arena) alloc(n int) (ref, []byte) {
	n = (n + 1<<unitBits - 1) &^ (1<<unitBits - 1)
	last := len(a.slabs) - 1
	if last < 0 || a.off+n > len(a.slabs[last]) {
		a.addSlab(n)
		last++
	}
	off := a.off
	a.off += n
	a.used += n
	a.live[last]++
	return ref(last<<refSlabShift | off>>unitBits), a.slabs[last][off : off+n : off+n]
}

func (a *arena) addSlab(n int) {
	size := min(slabSize, firstSlab<<min(len(a.slabs), slabBits))
	a.off = 0
	if len(a.slabs) == 0 {
		a.off = 1 << unitBits // reference 0 stays free
	}
	var slab []byte
	switch k := len(a.spare) - 1; {
	case a.off+n > slabSize:
		slab = make([]byte, a.off+n)
	case k >= 0:
		slab, a.spare = a.spare[k], a.spare[:k]
	default:
		slab = make([]byte, max(size, a.off+n))
	}
	a.slabs = append(a.slabs, slab)
	a.live = append(a.live, 0)
}

// at returns the memory from r to the end of its slab.
func (a *arena) at(r ref) []byte {
	return a.slabs[r>>refSlabShift][r&refUnitMask<<unitBits:]
}

// release gives an allocation up. A slab without allocations is left to the
// collector, so slices of it that are still in use stay good. No alloc may follow.
func (a *arena) release(r ref) {
	slab := r >> refSlabShift
	if a.live[slab]--; a.live[slab] == 0 {
		a.slabs[slab] = nil
	}
}

// reset empties the arena and keeps slabs of the usual size for reuse.
func (a *arena) reset() {
	for _, slab := range a.slabs {
		if len(slab) == slabSize {
			a.spare = append(a.spare, slab)
		}
	}
	clear(a.slabs)
	a.slabs, a.live = a.slabs[:0], a.live[:0]
	a.off, a.used = 0, 0
}
