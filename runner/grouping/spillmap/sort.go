package spillmap

import (
	"bytes"
	"cmp"
	"slices"
	"unsafe"
)

type sortEntry struct {
	hash  uint64
	group uint32
}

// sortBytes is what sorting takes for each group: two entries and a number.
const sortBytes = 2*int(unsafe.Sizeof(sortEntry{})) + 4

// sorted returns the numbers of a table's groups by hash, key and window.
func (t *table) sorted() []uint32 {
	entries := make([]sortEntry, t.groups)
	for i := range entries {
		entries[i] = sortEntry{t.group(uint32(i)).hash, uint32(i)}
	}
	entries = radixSort(entries)
	for from := 0; from < len(entries); {
		to := from + 1
		for to < len(entries) && entries[to].hash>>radixShift == entries[from].hash>>radixShift {
			to++
		}
		if to-from > 1 {
			slices.SortFunc(entries[from:to], t.compareEntries)
		}
		from = to
	}
	order := make([]uint32, t.groups)
	for i, e := range entries {
		order[i] = e.group
	}
	return order
}

func (t *table) compareEntries(a, b sortEntry) int {
	if c := cmp.Compare(a.hash, b.hash); c != 0 {
		return c
	}
	ga, gb := t.group(a.group), t.group(b.group)
	if ga.long != gb.long {
		if ga.long {
			return 1
		}
		return -1
	}
	if c := bytes.Compare(t.key(ga), t.key(gb)); c != 0 {
		return c
	}
	return bytes.Compare(t.windows[ga.window], t.windows[gb.window])
}

const (
	radixBits   = 11
	radixPasses = 3
	radixShift  = 64 - radixPasses*radixBits // of the hash, for the bits that radixSort looks at
)

// radixSort sorts entries by the high bits of their hashes.
func radixSort(entries []sortEntry) []sortEntry {
	from, to := entries, make([]sortEntry, len(entries))
	for pass := range radixPasses {
		shift := radixShift + pass*radixBits
		var next [1 << radixBits]uint32
		for i := range from {
			next[from[i].hash>>shift&(1<<radixBits-1)]++
		}
		at := uint32(0)
		for digit, n := range next {
			next[digit] = at
			at += n
		}
		for _, e := range from {
			digit := e.hash >> shift & (1<<radixBits - 1)
			to[next[digit]] = e
			next[digit]++
		}
		from, to = to, from
	}
	return from
}
