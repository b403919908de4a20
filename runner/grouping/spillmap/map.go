// Package spillmap is the memory of grouping: a map from key and window to all the
// values added for them, which moves to sorted, compressed files when it outgrows its
// budget and is read once, at the end, group by group. Keys, windows and values are bytes.
package spillmap

import (
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"sync/atomic"

	"github.com/lintelrun/lintel/internal/fault"
)

// DefaultMemory is the memory budget in bytes of a configuration that sets none.
const DefaultMemory = 64 << 20

const (
	maxMemory  = 16 << 30
	leastShare = 1 << 20 // bytes
	minFanIn   = 8
	maxFanIn   = 128
)

// Config configures a Map. The zero value is usable.
type Config struct {
	// MemoryBytes is how many bytes arenas and tables may take before they are
	// written to disk; one added value may exceed it. 0 is DefaultMemory, 16 GiB the most.
	// Reading back takes up to a quarter of it on top for blocks, and at least 2 MiB.
	MemoryBytes int64
	// Sharers is among how many, all of them alike, MemoryBytes are divided at a time; it may
	// change. Each has 1 MiB at least. Nil is one.
	Sharers *atomic.Int64
	// Dir is an existing folder for files; empty is the system's for temporary files.
	Dir string
	// Combine folds the timestamps of a group's values: it is associative and
	// commutative. Nil keeps that of any one of them.
	Combine func(a, b int64) int64
	// Sorted has groups read by hash, key and window even if nothing was written to disk.
	Sorted bool
}

// Validate says what is wrong with a configuration, as a fault.Invalid.
func (c Config) Validate() error {
	if c.MemoryBytes < 0 || c.MemoryBytes > maxMemory {
		return fault.New(fault.Invalid, "grouping: a memory budget of %d bytes is not between 0 and %d", c.MemoryBytes, int64(maxMemory))
	}
	return nil
}

// Stats tells what a Map holds and has done.
type Stats struct {
	Groups       int   // keys and windows in memory
	Values       int64 // added in all
	MemoryBytes  int64 // used by arenas and tables
	SpilledBytes int64 // written to disk in all, packed
	Runs         int   // on disk
}

// Map collects values. It belongs to one goroutine. Use: Add, then Read once, then
// Close. After an error nothing but Close and Stats may be called.
type Map struct {
	cfg     Config
	budget  int
	fanIn   int
	table   table
	runs    []run
	readers []*runReader
	long    longKeys
	stats   Stats
}

// New returns an empty Map. The caller closes it.
func New(cfg Config) (*Map, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = DefaultMemory
	}
	fanIn := max(minFanIn, min(int(cfg.MemoryBytes/blockSize)/4, maxFanIn))
	return &Map{cfg: cfg, budget: int(cfg.MemoryBytes), fanIn: fanIn, long: longKeys{dir: cfg.Dir}}, nil
}

// Add adds one value, which is prefix and rest one after the other, to the group of a
// key and window. hash is a hash of the key; groups are read in its order once
// they have been on disk. Add copies what it keeps.
func (m *Map) Add(hash uint64, key, window []byte, timestamp int64, prefix, rest []byte) error {
	if len(key) > math.MaxInt32 {
		return fault.New(fault.Unsupported, "grouping: a key of %d bytes is too long, keys may have 2 GiB", len(key))
	}
	long := len(key) >= longKey
	if long {
		before := m.long.size
		var err error
		if key, err = m.long.name(hash, key); err != nil {
			return err
		}
		m.stats.SpilledBytes += m.long.size - before
	}
	t := &m.table
	g := t.find(hash, key, long, t.intern(window), len(prefix)+len(rest))
	if g.count == 0 {
		g.timestamp = timestamp
	} else if m.cfg.Combine != nil {
		g.timestamp = m.cfg.Combine(g.timestamp, timestamp)
	}
	g.count++
	m.stats.Values++
	if len(prefix) > 0 {
		t.append(g, prefix)
	}
	t.append(g, rest)
	if m.full() {
		return m.spill()
	}
	return nil
}

// full says whether the table takes more than its part of the budget.
func (m *Map) full() bool {
	used := m.table.memory()
	if used > m.budget || m.cfg.Sharers == nil || used <= leastShare {
		return used > m.budget
	}
	return int64(used)*m.cfg.Sharers.Load() > int64(m.budget)
}

// Touch announces keys, by their hashes, that are about to be added: it brings what
// Add will need into the processor's caches, for several keys at the same time.
// Keys are expected in the window of the value added last.
func (m *Map) Touch(hashes []uint64) {
	if m.table.groups >= minTouched {
		m.table.touch(hashes)
	}
}

// spill moves the table to a run.
func (m *Map) spill() error {
	err := m.write(&tableSource{table: &m.table, order: m.table.sorted()})
	m.table.reset()
	return err
}

func (m *Map) write(src source) error {
	r, err := writeRun(m.cfg.Dir, src)
	if err != nil {
		return err
	}
	m.runs = append(m.runs, r)
	m.stats.SpilledBytes += r.size
	return nil
}

// Read begins reading; nothing may be added afterwards. Memory is given up as it is
// read. Without runs groups come in the order in which they were first seen unless the
// configuration says Sorted, else by hash, key and window.
func (m *Map) Read() (*Cursor, error) {
	m.table.arena.spare = nil
	mem := &tableSource{table: &m.table, release: true}
	if len(m.runs) > 0 || m.cfg.Sorted {
		mem.order = m.table.sorted()
	}
	if len(m.runs) == 0 {
		return m.newCursor(mem)
	}
	for len(m.runs) > m.fanIn {
		// The oldest first: each pass reads what earlier passes wrote last.
		n := min(m.fanIn, len(m.runs)-m.fanIn+1)
		if err := m.compact(n); err != nil {
			return nil, err
		}
	}
	sources, err := m.open(len(m.runs))
	if err != nil {
		return nil, err
	}
	merge, err := newMerge(append(sources, mem))
	if err != nil {
		return nil, err
	}
	return m.newCursor(merge)
}

// compact replaces the first n runs by one at the end.
func (m *Map) compact(n int) error {
	sources, err := m.open(n)
	if err != nil {
		return err
	}
	merge, err := newMerge(sources)
	if err != nil {
		return err
	}
	if err := m.write(merge); err != nil {
		return err
	}
	if err := m.closeReaders(); err != nil {
		return err
	}
	for _, r := range m.runs[:n] {
		if err := os.Remove(r.path); err != nil {
			return fault.New(fault.Retryable, "spilling: removing a run: %w", err)
		}
	}
	m.runs = m.runs[n:]
	return nil
}

func (m *Map) open(n int) ([]source, error) {
	var stored []byte
	sources := make([]source, 0, n+1)
	for _, r := range m.runs[:n] {
		reader, err := openRun(r, &stored)
		if err != nil {
			return nil, err
		}
		m.readers = append(m.readers, reader)
		sources = append(sources, reader)
	}
	return sources, nil
}

func (m *Map) closeReaders() (err error) {
	for _, r := range m.readers {
		err = errors.Join(err, r.close())
	}
	m.readers = nil
	return err
}

// Stats returns what the map holds and has done so far.
func (m *Map) Stats() Stats {
	s := m.stats
	s.Groups, s.MemoryBytes, s.Runs = m.table.groups, int64(m.table.memory()), len(m.runs)
	return s
}

// Close frees memory and removes all files. It may be called again.
func (m *Map) Close() error {
	err := m.closeReaders()
	for _, r := range m.runs {
		if e := os.Remove(r.path); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	m.runs = nil
	m.table = table{}
	return errors.Join(err, m.long.close())
}

// Group is one key and window. It is good until the cursor's next Next.
type Group struct {
	key    []byte // a name in long if that is set
	long   *longKeys
	Window []byte
	// Count is the number of values and Timestamp the fold of their timestamps.
	// They are final once Piece has returned io.EOF.
	Count     uint64
	Timestamp int64
}

// AppendKey appends the group's key to dst.
func (g *Group) AppendKey(dst []byte) ([]byte, error) {
	if g.long != nil {
		return g.long.appendTo(dst, g.key, math.MaxInt64)
	}
	return append(dst, g.key...), nil
}

// KeyStart returns what errors may say of the key: its first bytes in hexadecimal.
func (g *Group) KeyStart() string {
	const shown = 32
	start := g.key[:min(len(g.key), shown)]
	if g.long != nil {
		var err error
		if start, err = g.long.appendTo(nil, g.key, shown); err != nil {
			return err.Error()
		}
	}
	return hex.EncodeToString(start)
}

// Cursor reads the groups of a Map.
type Cursor struct {
	src     source
	combine func(a, b int64) int64
	longs   *longKeys
	group   Group
	hash    uint64
	inGroup bool
	fresh   bool // the source's current record has not been returned by Piece
	done    bool
}

func (m *Map) newCursor(src source) (*Cursor, error) {
	c := &Cursor{src: src, combine: m.cfg.Combine, longs: &m.long, fresh: true}
	switch err := src.next(); {
	case err == io.EOF:
		c.done = true
	case err != nil:
		return nil, err
	}
	return c, nil
}

// Next moves to the next group, past what Piece has not returned. It returns io.EOF
// when there is none.
func (c *Cursor) Next() (*Group, error) {
	for c.inGroup {
		if _, err := c.Piece(); err != nil && err != io.EOF {
			return nil, err
		}
	}
	if c.done {
		return nil, io.EOF
	}
	r := c.src.record()
	c.inGroup, c.hash = true, r.hash
	c.group.key, c.group.long = append(c.group.key[:0], r.key...), nil
	if r.long {
		c.group.long = c.longs
	}
	c.group.Window = append(c.group.Window[:0], r.window...)
	c.group.Count, c.group.Timestamp = r.count, r.timestamp
	return &c.group, nil
}

// Piece returns the next part of the group's values, cut anywhere, and io.EOF after
// the last. It is good until the next call of Piece or Next.
func (c *Cursor) Piece() ([]byte, error) {
	if !c.inGroup {
		return nil, io.EOF
	}
	if c.fresh {
		c.fresh = false
		return c.src.record().value, nil
	}
	if err := c.src.next(); err == io.EOF {
		c.done, c.inGroup = true, false
		return nil, io.EOF
	} else if err != nil {
		return nil, err
	}
	r := c.src.record()
	if r.continued {
		return r.value, nil
	}
	if !c.same(r) {
		c.inGroup, c.fresh = false, true
		return nil, io.EOF
	}
	c.group.Count += r.count
	if r.count > 0 && c.combine != nil {
		c.group.Timestamp = c.combine(c.group.Timestamp, r.timestamp)
	}
	return r.value, nil
}

func (c *Cursor) same(r *record) bool {
	return r.hash == c.hash && r.long == (c.group.long != nil) && string(r.key) == string(c.group.key) && string(r.window) == string(c.group.Window)
}
