// Package grouping is GroupByKey for bounded input with triggers that fire once, at
// the end: all values of a key and window become one element. Values stay encoded, in
// memory up to a budget and in sorted files past it.
package grouping

import (
	"errors"
	"math"
	"sync/atomic"

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
	// Sharers is among how many, all of them alike, MemoryBytes are divided at a time; it may
	// change. Nil is one.
	Sharers *atomic.Int64
	// Dir is an existing folder for what exceeds them; empty is the system's for temporary files.
	Dir string

	// StateBacked is true where all readers understand state-backed iterables. Then a group
	// with more than InlineBytes of values leaves them behind, to be read from
	// Values; otherwise it is a fault.Unsupported.
	StateBacked bool
	// InlineBytes is how many bytes of values may travel with their key. 0 is DefaultInline
	// for groups that may be state-backed, and MaxInline for others.
	InlineBytes int
	// Merge merges windows where their function is custom and merges. Else it may be nil.
	Merge MergeFunc
	// BatchSize is how many values one element may have; those of a key and window then
	// leave in as many as they need. 0 is any number. Windows that merge have none.
	BatchSize uint64
	// TokenPrefix is what the tokens of state-backed iterables begin with, so that those of
	// several tables can be told apart.
	TokenPrefix []byte
}

// Limits of the values that travel with their key, in bytes.
const (
	// DefaultInline is small, as SDKs decode what travels all at once, and
	// large enough for what it takes to ask for values not to count.
	DefaultInline = 64 << 10
	// MaxInline is the most that is allowed: messages hold less than 2 GiB.
	MaxInline = 1 << 30
)

// Validate says what is wrong with a configuration, as a fault.Invalid.
func (c Config) Validate() error {
	if c.Input == nil || !c.Input.Keyed() {
		return fault.New(fault.Invalid, "grouping: the input's coder is not a KV coder")
	}
	if c.Windowing == nil {
		return fault.New(fault.Invalid, "grouping: the input has no windowing strategy")
	}
	if c.mergesCustom() && c.Merge == nil {
		return fault.New(fault.Invalid, "grouping: the windows of a custom merging window function, and nothing that merges them")
	}
	if c.BatchSize > math.MaxInt32 || c.BatchSize > 0 && c.Windowing.Merging {
		return fault.New(fault.Invalid, "grouping: batches of %d values, of windows that merge: %v", c.BatchSize, c.Windowing.Merging)
	}
	if c.InlineBytes < 0 || c.InlineBytes > MaxInline {
		return fault.New(fault.Invalid, "grouping: %d bytes of values with a key are not between 0 and %d", c.InlineBytes, MaxInline)
	}
	return c.spill().Validate()
}

// sessions tells whether windows are merged by the runner itself.
func (c Config) sessions() bool {
	return c.Windowing.Merging && c.Windowing.Kind == windowing.Session
}

// mergesCustom tells whether they are merged by Merge.
func (c Config) mergesCustom() bool { return c.Windowing.Merging && !c.sessions() }

func (c Config) inline() int {
	switch {
	case c.InlineBytes > 0:
		return c.InlineBytes
	case c.StateBacked:
		return DefaultInline
	default:
		return MaxInline
	}
}

func (c Config) spill() spillmap.Config {
	// Windows of a key that are to be merged are read one after the other.
	cfg := spillmap.Config{MemoryBytes: c.MemoryBytes, Sharers: c.Sharers, Dir: c.Dir, Sorted: c.mergesCustom()}
	if !c.sessions() && c.Windowing.Combiner != windowing.EndOfWindow {
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
	large  *Values
	groups *Groups
	// sessions is whether windows are sessions that have yet to be merged.
	sessions bool
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
	t := &Table{cfg: cfg, values: values, sessions: cfg.sessions()}
	if cfg.StateBacked {
		t.large = newValues(&cfg)
	}
	return t, nil
}

// Values returns what holds the values of large groups. It is nil unless the table is
// StateBacked. The caller closes it when all who read groups have ended.
func (t *Table) Values() *Values { return t.large }

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
	if e.NumWindows == 1 && !t.sessions {
		return t.values.Add(hash, e.Key, e.Windows, e.Timestamp, nil, e.Value)
	}
	return t.addWindows(hash, e)
}

// addWindows adds an element to each of its windows. Sessions that have yet to
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
		if t.sessions {
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

// Drain begins output: no Add afterwards. Memory is given up as groups are read, but for
// that of large groups.
func (t *Table) Drain() (*Groups, error) {
	cursor, err := t.values.Read()
	if err != nil {
		return nil, err
	}
	if t.large != nil {
		t.large.memory = t.values.Retained()
	}
	stats := t.values.Stats()
	memory := max(t.cfg.MemoryBytes, 0)
	if memory == 0 {
		memory = spillmap.DefaultMemory
	}
	t.groups = &Groups{
		windowing: t.cfg.Windowing,
		cursor:    cursor,
		values:    iterable{store: t.large, inline: t.cfg.inline()},
		sessions: sessions{
			limit:  int(memory / 8),
			sorter: spillmap.Config{MemoryBytes: max(memory/4, 1), Dir: t.cfg.Dir, Sorted: true},
		},
		estimate: stats.MemoryBytes + 4*stats.SpilledBytes,
	}
	if t.cfg.BatchSize > 0 {
		t.groups.batches = &batches{size: t.cfg.BatchSize, value: t.cfg.Input.Element().Components()[1]}
	}
	if t.cfg.mergesCustom() {
		t.groups.merging = &merging{merge: t.cfg.Merge, dir: t.cfg.Dir, limit: int(memory / 8)}
	}
	return t.groups, nil
}

// Stats returns what the table holds and has done so far. Values counts an element
// once per window; SpilledBytes has the values of large groups, too.
func (t *Table) Stats() Stats {
	s := t.values.Stats()
	if t.large != nil {
		s.SpilledBytes += t.large.file.size
	}
	if t.groups != nil {
		s.SpilledBytes += t.groups.sessions.spilled
		if m := t.groups.merging; m != nil {
			s.SpilledBytes += m.spilled
		}
	}
	return s
}

// Close frees memory and removes files, but for those of Values. It may be called again.
func (t *Table) Close() error {
	err := t.values.Close()
	if t.groups != nil {
		err = errors.Join(err, t.groups.sessions.closeLarge())
		if m := t.groups.merging; m != nil {
			err = errors.Join(err, m.close())
		}
	}
	return err
}

func cutError(err error, at int) error {
	if errors.Is(err, coders.ErrShort) {
		err = fault.Wrap(fault.Corruption, err)
	}
	return fault.New(fault.ClassOf(err), "grouping: element at byte %d of a block: %w", at, err)
}
