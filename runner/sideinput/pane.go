package sideinput

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// join returns the elements of an encoded iterable, one after the other. It shares its bytes if
// its length was known when it was written.
func (l *Live) join(iterable []byte) ([]byte, error) {
	if len(iterable) < 4 {
		return nil, fault.New(fault.Corruption, "side input: an iterable of %d bytes", len(iterable))
	}
	rest := iterable[4:]
	if int32(binary.BigEndian.Uint32(iterable)) >= 0 {
		return rest, nil
	}
	var all []byte
	for {
		n, k, err := coders.Varint(rest)
		if err != nil {
			return nil, cutError(err, 0)
		}
		rest = rest[k:]
		if n == 0 {
			return all, nil
		}
		start := rest
		for range n {
			k, err := l.cfg.Input.Element().Skip(rest)
			if err != nil {
				return nil, cutError(err, 0)
			}
			rest = rest[k:]
		}
		all = append(all, start[:len(start)-len(rest)]...)
	}
}

// largePane is how many bytes of KVs are put in order by way of the disk, if need be.
const largePane = 1 << 20

// buildPane returns a view of one window with the given elements, one after the other.
func buildPane(cfg Config, window, elements []byte) (_ *View, err error) {
	if cfg.Multimap && len(elements) > largePane {
		return buildLargePane(cfg, window, elements)
	}
	v := newView(cfg, map[string]uint64{string(window): 0}, int64(len(elements)))
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	switch {
	case cfg.Multimap:
		err = v.addPairs(cfg, elements)
	case len(elements) > 0: // they are read in the order in which they are
		if err = v.values.append(elements); err == nil {
			err = v.entries.add(&entry{count: 1, size: int64(len(elements))}, false)
		}
	}
	if err != nil {
		return nil, err
	}
	return v, errors.Join(v.values.finish(), v.entries.finish())
}

// addPairs adds all KVs of the one window of a view.
func (v *View) addPairs(cfg Config, pairs []byte) error {
	type pair struct {
		rank       uint64
		key, value []byte
	}
	var all []pair
	err := eachPair(cfg, pairs, func(key, value []byte) error {
		all = append(all, pair{rankOf(0, keygroup.Hash(key)), key, value})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), bytes.Compare(a.key, b.key))
	})
	for i := 0; i < len(all); {
		e := entry{rank: all[i].rank, key: all[i].key, off: v.values.size}
		for ; i < len(all) && bytes.Equal(all[i].key, e.key); i++ {
			if err := v.values.append(all[i].value); err != nil {
				return err
			}
			e.count++
		}
		e.size = v.values.size - e.off
		if err := v.entries.add(&e, true); err != nil {
			return err
		}
	}
	return nil
}

func buildLargePane(cfg Config, window, pairs []byte) (*View, error) {
	b, err := NewBuilder(cfg)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	err = eachPair(cfg, pairs, func(key, value []byte) error { return b.put(window, keygroup.Hash(key), key, value) })
	if err != nil {
		return nil, err
	}
	return b.Build()
}

// eachPair yields KVs that stand one after the other.
func eachPair(cfg Config, pairs []byte, yield func(key, value []byte) error) error {
	kv := cfg.Input.Element().Components()
	for len(pairs) > 0 {
		k, err := kv[0].Skip(pairs)
		if err != nil {
			return cutError(err, 0)
		}
		n, err := kv[1].Skip(pairs[k:])
		if err != nil {
			return cutError(err, 0)
		}
		if n += k; n == 0 {
			return fault.New(fault.Corruption, "side input: %d bytes of KVs that take none", len(pairs))
		}
		if err := yield(pairs[:k], pairs[k:n]); err != nil {
			return err
		}
		pairs = pairs[n:]
	}
	return nil
}
