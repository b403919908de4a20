// Package sideinput holds materialised side inputs: all elements of a PCollection by
// window, and by key where they are looked up so, in the encodings that the
// state API answers with.
package sideinput

import (
	"encoding/binary"
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
	// MemoryBytes is how many bytes of elements a view keeps in memory; more lie on
	// disk. Keys and the index are always in memory. Building takes up to as
	// much again. 0 is spillmap.DefaultMemory, 64 MiB.
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
	return spillmap.Config{MemoryBytes: c.MemoryBytes, Dir: c.Dir}
}

// Builder collects the elements of a side input. It belongs to one goroutine. Use:
// Add, Build once, then Close. After an error only Close may be called.
type Builder struct {
	cfg    Config
	values *spillmap.Map
	bytes  int64 // of all values, in all windows
	// element and prefix are fields so that Add doesn't allocate.
	element coders.Element
	prefix  []byte
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

// add adds a value in each of the current element's windows. The length before it
// tells elements apart when they are laid out.
func (b *Builder) add(hash uint64, key, value []byte) error {
	e := &b.element
	b.prefix = binary.AppendUvarint(b.prefix[:0], uint64(len(value)))
	windows := e.Windows
	for range e.NumWindows {
		n, err := b.cfg.Input.Window().Skip(windows)
		if err != nil {
			return cutError(err, 0)
		}
		if n == 0 && e.NumWindows > 1 {
			return fault.New(fault.Corruption, "side input: an element in %d windows that take no bytes", e.NumWindows)
		}
		if err := b.values.Add(hash, key, windows[:n], 0, b.prefix, value); err != nil {
			return err
		}
		b.bytes += int64(len(value))
		windows = windows[n:]
	}
	return nil
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
	data, err := newStore(b.bytes, b.cfg.MemoryBytes, b.cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, data.close())
		}
	}()
	var index indexBuilder
	out := layout{data: data}
	for {
		group, err := cursor.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		start := data.size
		for err == nil {
			var piece []byte
			if piece, err = cursor.Piece(); err == nil {
				err = out.add(piece)
			}
		}
		if err != io.EOF {
			return nil, err
		}
		if b.cfg.Multimap && group.Count > math.MaxInt32 {
			return nil, fault.New(fault.Unsupported, "side input: a key has %d values in one window; it may have %d", group.Count, math.MaxInt32)
		}
		index.add(group, start, data.size-start)
	}
	if err := data.finish(); err != nil {
		return nil, err
	}
	return &View{multimap: b.cfg.Multimap, data: data, marks: out.marks, index: index.build()}, nil
}

// Close frees memory and removes files of an input that was not, or not completely,
// built. It may be called again.
func (b *Builder) Close() error { return b.values.Close() }

// layout takes the values of groups as they were added, lengths before them, and
// stores them without, with marks where elements begin.
type layout struct {
	data *store
	// marks are offsets in data at which elements begin, ascending, each the first
	// that is markEvery or more after the one before.
	marks []int64
	last  int64 // mark

	need  int64 // bytes of the current element to come
	size  uint64
	shift uint // of the next bits of size, the length being read
}

// add takes the next piece of a group, cut anywhere.
func (l *layout) add(piece []byte) error {
	for len(piece) > 0 {
		if l.need == 0 {
			c := piece[0]
			piece = piece[1:]
			l.size |= uint64(c&0x7f) << l.shift
			l.shift += 7
			if c < 0x80 {
				l.begin(int64(l.size))
				l.size, l.shift = 0, 0
			}
			continue
		}
		n := min(l.need, int64(len(piece)))
		if err := l.data.append(piece[:n]); err != nil {
			return err
		}
		l.need -= n
		piece = piece[n:]
	}
	return nil
}

func (l *layout) begin(size int64) {
	l.need = size
	if l.data.size-l.last >= markEvery {
		l.last = l.data.size
		l.marks = append(l.marks, l.last)
	}
}
