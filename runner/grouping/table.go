// Package grouping is GroupByKey for bounded input with triggers that fire once, at
// the end: all values of a key and window become one element. Values stay encoded, in
// memory up to a budget and in sorted files past it.
package grouping

import (
	"errors"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// Config configures a Table.
type Config struct {
	// Input is the layout of the windowed KV<K, V> elements.
	Input *coders.Windowed
	// Windowing is the strategy of the input.
	Windowing *windowing.Strategy
	// MemoryBytes is how many bytes grouped values may take in memory. 0 is
	// spillmap.DefaultMemory, 64 MiB.
	MemoryBytes int64
	// Dir is an existing folder for what exceeds them; empty is the system's for temporary files.
	Dir string
}

// Validate says what is wrong with a configuration: a fault.Invalid, or a
// fault.Unsupported for windows that only the SDK can merge.
func (c Config) Validate() error {
	if c.Input == nil || !c.Input.Keyed() {
		return fault.New(fault.Invalid, "grouping: the input's coder is not a KV coder")
	}
	if c.Windowing == nil {
		return fault.New(fault.Invalid, "grouping: the input has no windowing strategy")
	}
	if c.Windowing.Merging && c.Windowing.Kind != windowing.Session {
		return fault.New(fault.Unsupported, "grouping: windows of a custom merging window function can't be merged yet, only sessions")
	}
	return c.spill().Validate()
}

func (c Config) spill() spillmap.Config {
	cfg := spillmap.Config{MemoryBytes: c.MemoryBytes, Dir: c.Dir}
	if !c.Windowing.Merging && c.Windowing.Combiner != windowing.EndOfWindow {
		cfg.Combine = c.Windowing.Combiner.Combine
	}
	return cfg
}

// Stats tells what a Table holds and has done.
type Stats = spillmap.Stats

// Table groups the elements of one task. It belongs to one goroutine. Use: Add,
// then Drain once, then Close. After an error only Close and Stats may be called.
type Table struct {
	cfg    Config
	values *spillmap.Map
	// elements, hashes and prefix are fields so that Add doesn't allocate.
	elements [batch]coders.Element
	hashes   [batch]uint64
	prefix   []byte
}

// batch is how many elements are cut before they are added, so that the cache
// misses of finding their groups overlap.
const batch = 16

// New returns an empty table. The caller closes it.
func New(cfg Config) (*Table, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	values, err := spillmap.New(cfg.spill())
	if err != nil {
		return nil, err
	}
	return &Table{cfg: cfg, values: values}, nil
}

// Add takes a block of whole encoded windowed elements, which it does not retain. An
// element goes to each of its windows; one in no window is dropped. A block
// that can't be cut into elements is a fault.Corruption.
func (t *Table) Add(block []byte) error {
	for rest := block; len(rest) > 0; {
		n := 0
		for ; n < batch && len(rest) > 0; n++ {
			e := &t.elements[n]
			if err := t.cfg.Input.Next(rest, e); err != nil {
				return cutError(err, len(block)-len(rest))
			}
			if e.Size == 0 {
				return fault.New(fault.Corruption, "grouping: a block of %d bytes for elements that take none", len(block))
			}
			rest = rest[e.Size:]
			t.hashes[n] = keygroup.Hash(e.Key)
		}
		t.values.Touch(t.hashes[:n])
		for i := range n {
			if err := t.add(t.hashes[i], &t.elements[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Table) add(hash uint64, e *coders.Element) error {
	if e.NumWindows == 1 && !t.cfg.Windowing.Merging {
		return t.values.Add(hash, e.Key, e.Windows, e.Timestamp, nil, e.Value)
	}
	return t.addWindows(hash, e)
}

// addWindows adds an element to each of its windows. Windows that have yet to
// be merged are kept with the values.
func (t *Table) addWindows(hash uint64, e *coders.Element) error {
	windows := e.Windows
	for range e.NumWindows {
		n, err := t.cfg.Input.Window().Skip(windows)
		if err != nil {
			return cutError(err, 0)
		}
		if n == 0 && e.NumWindows > 1 {
			return fault.New(fault.Corruption, "grouping: an element in %d windows that take no bytes", e.NumWindows)
		}
		window := windows[:n]
		windows = windows[n:]
		if t.cfg.Windowing.Merging {
			t.prefix = appendSessionPrefix(t.prefix[:0], e.Timestamp, window, len(e.Value))
			err = t.values.Add(hash, e.Key, nil, e.Timestamp, t.prefix, e.Value)
		} else {
			err = t.values.Add(hash, e.Key, window, e.Timestamp, nil, e.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Drain begins output: no Add afterwards. Memory is given up as groups are read.
func (t *Table) Drain() (*Groups, error) {
	cursor, err := t.values.Read()
	if err != nil {
		return nil, err
	}
	stats := t.values.Stats()
	return &Groups{windowing: t.cfg.Windowing, cursor: cursor, estimate: stats.MemoryBytes + 4*stats.SpilledBytes}, nil
}

// Stats returns what the table holds and has done so far. Values counts an element
// once per window.
func (t *Table) Stats() Stats { return t.values.Stats() }

// Close frees memory and removes files. It may be called again.
func (t *Table) Close() error { return t.values.Close() }

func cutError(err error, at int) error {
	if errors.Is(err, coders.ErrShort) {
		err = fault.Wrap(fault.Corruption, err)
	}
	return fault.New(fault.ClassOf(err), "grouping: element at byte %d of a block: %w", at, err)
}
