// Package sideinput holds materialised side inputs: all elements of a PCollection by
// window, and by key where they are looked up so, in the encodings that the
// state API answers with.
package sideinput

import (
	"bytes"
	"errors"
	"io"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// Config configures a Builder.
type Config struct {
	// Input is the layout of the windowed elements, for a multimap of windowed KV<K, V>.
	Input *coders.Windowed
	// Multimap is true where look-ups are by key.
	Multimap bool
	// MemoryBytes is how many bytes of elements a view keeps in memory, and a quarter of it
	// how many of keys; more lie on disk. Building takes up to as much again. 0 is
	// spillmap.DefaultMemory, 64 MiB.
	MemoryBytes int64
	// Dir is an existing folder for what exceeds them; empty is the system's for temporary files.
	Dir string
}

// Validate says what is wrong with a configuration, as a fault.Invalid.
func (c Config) Validate() error {
	if c.Input == nil || c.Multimap && !c.Input.Keyed() {
		return fault.New(fault.Invalid, "side input: the input's coder is not a coder of windowed values, or for a multimap of windowed KVs")
	}
	return c.spill().Validate()
}

func (c Config) spill() spillmap.Config {
	return spillmap.Config{MemoryBytes: c.MemoryBytes, Dir: c.Dir, Sorted: true}
}

// value is the layout of what look-ups return.
func (c Config) value() *coders.Coder {
	if c.Multimap {
		return c.Input.Element().Components()[1]
	}
	return c.Input.Element()
}

// Builder collects the elements of a side input. It belongs to one goroutine. Use:
// Add, Build once, then Close. After an error only Close may be called.
type Builder struct {
	cfg     Config
	values  *spillmap.Map
	bytes   int64 // of all values, in all windows
	windows windowIDs
	element coders.Element // a field so that Add doesn't allocate
}

// NewBuilder returns an empty Builder. The caller closes it.
func NewBuilder(cfg Config) (*Builder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = spillmap.DefaultMemory
	}
	values, err := spillmap.New(cfg.spill())
	if err != nil {
		return nil, err
	}
	return &Builder{cfg: cfg, values: values}, nil
}

// Add takes a block of whole encoded windowed elements, which it does not retain. An
// element appears in each of its windows, and nowhere if it has none. A block
// that can't be cut into elements is a fault.Corruption.
func (b *Builder) Add(block []byte) error {
	e := &b.element
	for rest := block; len(rest) > 0; rest = rest[e.Size:] {
		if err := b.cfg.Input.Next(rest, e); err != nil {
			return cutError(err, len(block)-len(rest))
		}
		if e.Size == 0 {
			return fault.New(fault.Corruption, "side input: a block of %d bytes for elements that take none", len(block))
		}
		var hash uint64
		var key []byte
		value := rest[e.Size-len(e.Key)-len(e.Value) : e.Size]
		if b.cfg.Multimap {
			hash, key, value = keygroup.Hash(e.Key), e.Key, e.Value
		}
		if err := b.add(hash, key, value); err != nil {
			return err
		}
	}
	return nil
}

// add adds a value in each of the current element's windows.
func (b *Builder) add(hash uint64, key, value []byte) error {
	e := &b.element
	windows := e.Windows
	for range e.NumWindows {
		n, err := b.cfg.Input.Window().Skip(windows)
		if err != nil {
			return cutError(err, 0)
		}
		if n == 0 && e.NumWindows > 1 {
			return fault.New(fault.Corruption, "side input: an element in %d windows that take no bytes", e.NumWindows)
		}
		if err := b.put(windows[:n], hash, key, value); err != nil {
			return err
		}
		windows = windows[n:]
	}
	return nil
}

// put adds a value in a window.
func (b *Builder) put(window []byte, hash uint64, key, value []byte) error {
	b.bytes += int64(len(value))
	return b.values.Add(rankOf(b.windows.add(window), hash), key, window, 0, nil, value)
}

func cutError(err error, at int) error {
	if errors.Is(err, coders.ErrShort) {
		err = fault.Wrap(fault.Corruption, err)
	}
	return fault.New(fault.ClassOf(err), "side input: element at byte %d of a block: %w", at, err)
}

// Build makes the view of all that was added; no Add afterwards. The view outlives
// the builder and is closed by the caller.
func (b *Builder) Build() (_ *View, err error) {
	cursor, err := b.values.Read()
	if err != nil {
		return nil, err
	}
	v := newView(b.cfg, b.windows.ids, b.bytes)
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	var key []byte
	for {
		group, err := cursor.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		start := v.values.size
		for err == nil {
			var piece []byte
			if piece, err = cursor.Piece(); err == nil {
				err = v.values.append(piece)
			}
		}
		if err != io.EOF {
			return nil, err
		}
		if b.cfg.Multimap && group.Count > math.MaxInt32 {
			return nil, fault.New(fault.Unsupported, "side input: a key has %d values in one window; it may have %d", group.Count, math.MaxInt32)
		}
		if key, err = group.AppendKey(key[:0]); err != nil {
			return nil, err
		}
		window := b.windows.add(group.Window)
		err = v.entries.add(&entry{
			rank: rankOf(window, keygroup.Hash(key)), window: window, count: group.Count,
			key: key, off: start, size: v.values.size - start,
		}, b.cfg.Multimap)
		if err != nil {
			return nil, err
		}
	}
	return v, errors.Join(v.values.finish(), v.entries.finish())
}

// SpilledBytes is how many bytes were written to disk to put elements in order; the view
// has its own (Stats).
func (b *Builder) SpilledBytes() int64 { return b.values.Stats().SpilledBytes }

// Close frees memory and removes files of an input that was not, or not completely,
// built. It may be called again.
func (b *Builder) Close() error { return b.values.Close() }

// windowIDs numbers windows in the order of their first elements.
type windowIDs struct {
	ids    map[string]uint64
	last   []byte // the window asked for last
	lastID uint64
}

func (w *windowIDs) add(window []byte) uint64 {
	if len(w.ids) > 0 && bytes.Equal(window, w.last) {
		return w.lastID
	}
	id, ok := w.ids[string(window)]
	if !ok {
		if w.ids == nil {
			w.ids = map[string]uint64{}
		}
		id = uint64(len(w.ids))
		w.ids[string(window)] = id
	}
	w.last, w.lastID = append(w.last[:0], window...), id
	return id
}
