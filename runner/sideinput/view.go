package sideinput

import (
	"encoding/binary"
	"errors"
	"hash/maphash"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// View is a materialised side input. It is immutable and safe for concurrent use, and
// the bytes it returns must not be changed.
//
// Look-ups answer in pages: what is whole in maxBytes, or one element if that is larger.
// They begin with an empty token; each page comes with the token of the next, empty
// after the last. A token that this view did not return for the same look-up is a
// fault.Invalid. A window or key without elements has one empty page. An unknown
// one is no error, as nothing is what it holds. Windows and keys are in nested encoding.
type View struct {
	multimap bool
	value    *coders.Coder
	windows  map[string]uint64
	entries  index
	values   *store
	seed     maphash.Seed // of what tells our tokens from others
}

// newView returns an empty view for bytes of values.
func newView(cfg Config, windows map[string]uint64, bytes int64) *View {
	v := &View{
		multimap: cfg.Multimap,
		value:    cfg.value(),
		windows:  windows,
		values:   &store{limit: cfg.MemoryBytes, dir: cfg.Dir},
		entries:  index{data: &store{limit: cfg.MemoryBytes / 4, dir: cfg.Dir}},
		seed:     maphash.MakeSeed(),
	}
	if bytes <= cfg.MemoryBytes {
		v.values.memory = make([]byte, 0, bytes)
	}
	return v
}

// Stats tells what a View holds.
type Stats struct {
	Windows int
	Keys    int   // in all windows together; of an iterable the number of windows
	Bytes   int64 // of values, or of whole elements of an iterable
	// OnDisk is how many bytes of values and keys are on disk.
	OnDisk int64
}

// Stats returns what the view holds.
func (v *View) Stats() Stats {
	s := Stats{Windows: len(v.windows), Keys: v.entries.entries, Bytes: v.values.size}
	for _, data := range []*store{v.values, v.entries.data} {
		if data.file != nil {
			s.OnDisk += data.size
		}
	}
	return s
}

// inMemory is how many bytes of values and keys are in memory.
func (v *View) inMemory() int64 {
	n := int64(0)
	for _, data := range []*store{v.values, v.entries.data} {
		if data.file == nil {
			n += data.size
		}
	}
	return n
}

// Iterable returns the elements of a window, concatenated, in nested encoding.
func (v *View) Iterable(window, token []byte, maxBytes int) (data, next []byte, err error) {
	if err := v.check(false); err != nil {
		return nil, nil, err
	}
	return v.lookUp(window, nil, token, maxBytes)
}

// Values returns the values of a key in a window, concatenated, in nested encoding.
func (v *View) Values(window, key, token []byte, maxBytes int) (data, next []byte, err error) {
	if err := v.check(true); err != nil {
		return nil, nil, err
	}
	return v.lookUp(window, key, token, maxBytes)
}

func (v *View) lookUp(window, key, token []byte, maxBytes int) (data, next []byte, err error) {
	var at place
	if len(token) > 0 {
		// The token says where the entry's values go on, and where they end.
		var ok bool
		if at, ok = v.parseToken(token, window, key, tokenValues); !ok {
			return nil, nil, badToken(token)
		}
	} else {
		id, known := v.windows[string(window)]
		if !known {
			return nil, nil, nil
		}
		hash := uint64(0)
		if v.multimap {
			hash = keygroup.Hash(key)
		}
		e, found, err := v.entries.find(rankOf(id, hash), id, key)
		if err != nil || !found {
			return nil, nil, err
		}
		at = place{values: e.off, entry: e.off + e.size}
	}
	if data, err = v.page(at.values, at.entry-at.values, maxBytes); err != nil {
		return nil, nil, err
	}
	if at.values += int64(len(data)); at.values < at.entry {
		next = v.token(at, window, key, tokenValues)
	}
	return data, next, nil
}

// page returns the first page of size bytes of values at off.
func (v *View) page(off, size int64, maxBytes int) ([]byte, error) {
	for n := int64(max(maxBytes, 1)); ; n *= 2 {
		data, err := v.values.read(off, min(n, size))
		if err != nil || n >= size {
			return data, err
		}
		whole, err := v.value.SkipAll(data)
		if err != nil {
			return nil, cutError(err, 0)
		}
		if whole > 0 {
			return data[:whole:whole], nil
		}
	}
}

// Keys returns the distinct keys of a window, concatenated.
func (v *View) Keys(window, token []byte, maxBytes int) (data, next []byte, err error) {
	return v.scan(window, token, tokenKeys, func(e *entry) (bool, error) {
		if len(data) > 0 && len(data)+len(e.key) > maxBytes {
			return false, nil
		}
		data = append(data, e.key...)
		return true, nil
	}, &data)
}

// KeysValues returns the KV<K, iterable<V>> of a window, concatenated. A key and its values
// are never divided, so a page may be as long as they are.
func (v *View) KeysValues(window, token []byte, maxBytes int) (data, next []byte, err error) {
	return v.scan(window, token, tokenKeysValues, func(e *entry) (bool, error) {
		if len(data) > 0 && int64(len(data)+len(e.key)+4)+e.size > int64(maxBytes) {
			return false, nil
		}
		data = append(data, e.key...)
		data = binary.BigEndian.AppendUint32(data, uint32(e.count))
		var err error
		data, err = v.values.appendTo(data, e.off, e.size)
		return true, err
	}, &data)
}

// scan hands the entries of a window to take until it has taken enough, and returns what
// data then is, and the token for the rest.
func (v *View) scan(window, token []byte, kind byte, take func(*entry) (bool, error), data *[]byte) (page, next []byte, err error) {
	if err := v.check(true); err != nil {
		return nil, nil, err
	}
	id, known := v.windows[string(window)]
	first := rankOf(id, 0)
	s := scan{index: &v.entries}
	if len(token) > 0 {
		if s.at, known = v.parseToken(token, window, nil, kind); !known {
			return nil, nil, badToken(token)
		}
	} else if !known {
		return nil, nil, nil
	} else {
		s.at = v.entries.seek(first)
	}
	for {
		before := s.at
		e, ok, err := s.next()
		if err != nil {
			return nil, nil, err
		}
		if !ok || e.rank>>(64-windowBits) > first>>(64-windowBits) {
			return *data, nil, nil
		}
		if e.window != id {
			continue
		}
		if ok, err = take(&e); err != nil {
			return nil, nil, err
		}
		if !ok {
			return *data, v.token(before, window, nil, kind), nil
		}
	}
}

// Close frees memory and files. No look-up may be under way or follow. It may be called again.
func (v *View) Close() error { return errors.Join(v.values.close(), v.entries.data.close()) }

func (v *View) check(multimap bool) error {
	if v.multimap == multimap {
		return nil
	}
	if multimap {
		return fault.New(fault.Invalid, "side input: a look-up by key of a side input that is an iterable")
	}
	return fault.New(fault.Invalid, "side input: a look-up of all elements of a side input that is a multimap")
}

// A token is a place, two uvarints, and a checksum, uint64, of the place, the look-up and its kind by
// a secret seed. In that of values the place says where they go on and where they end.
const (
	tokenValues     = 'v'
	tokenKeys       = 'k'
	tokenKeysValues = 'm'
)

func (v *View) token(at place, window, key []byte, kind byte) []byte {
	b := binary.AppendUvarint(nil, uint64(at.entry))
	b = binary.AppendUvarint(b, uint64(at.values))
	return binary.LittleEndian.AppendUint64(b, v.checksum(b, window, key, kind))
}

func (v *View) parseToken(token, window, key []byte, kind byte) (place, bool) {
	end := len(token) - 8
	if end < 0 || binary.LittleEndian.Uint64(token[end:]) != v.checksum(token[:end], window, key, kind) {
		return place{}, false
	}
	entry, n := binary.Uvarint(token)
	values, m := binary.Uvarint(token[max(n, 0):])
	return place{int64(entry), int64(values)}, n > 0 && m > 0
}

func (v *View) checksum(place, window, key []byte, kind byte) uint64 {
	var h maphash.Hash
	h.SetSeed(v.seed)
	h.WriteByte(kind)
	var size [binary.MaxVarintLen64]byte
	for _, b := range [][]byte{place, window} {
		h.Write(binary.AppendUvarint(size[:0], uint64(len(b))))
		h.Write(b)
	}
	h.Write(key)
	return h.Sum64()
}

func badToken(token []byte) error {
	return fault.New(fault.Invalid, "side input: continuation token %.32x is not one of this look-up", token)
}
