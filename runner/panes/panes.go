// Package panes is GroupByKey where groups leave as triggers and the watermark say: values
// are kept by key and window, and leave in panes. It does what Beam's Java runners do
// (ReduceFnRunner, LateDataDroppingDoFnRunner), on encoded elements and over a state backend.
package panes

import (
	"iter"
	"math"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/trigger"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// MergeFunc merges, for each of several keys, its windows, as encoded. Windows that stay as they
// are need not be in the result. No window of a key may be in the From of more than one. The slices
// that it is given are only valid during the call; those that it returns are not changed and not kept.
type MergeFunc func(keys [][][]byte) ([][]windowing.Merged, error)

// SpoolFunc takes the values of a large pane, in pages of whole values, which are good until the
// next is asked for, and returns the token by which they can be read from then on.
type SpoolFunc func(pages iter.Seq2[[]byte, error]) (token []byte, err error)

// Config configures Panes.
type Config struct {
	// Input is the layout of the windowed KV<K, V> elements.
	Input *coders.Windowed
	// Windowing is the strategy of the input.
	Windowing *windowing.Strategy
	// Bounded says that the input is, which makes batches of it: elements don't fire panes.
	// Triggers are asked when the watermark moves, and when a delay is over before that: whoever
	// waits for early results of a long batch gets them.
	Bounded bool
	// BatchSize, if not 0, is how many values leave together, as soon as there are as many, whatever triggers
	// say; what is left of a window leaves when it expires. Batches are no panes: each is the only one. Windows must not merge.
	BatchSize uint64
	// Lag is how far synchronized processing time is taken to be behind processing time: what
	// tasks upstream put out at the same moment arrives within that, and so in one pane.
	Lag time.Duration
	// Scope is the transform's unique name in the pipeline, under which state is kept.
	Scope string
	// Store has what doesn't fit in memory, and all of it after Flush. Panes commits to it
	// during any call. It is the caller's, who closes it.
	Store statebackend.Store
	// Merge merges windows of custom functions. Nil: sessions or none.
	Merge MergeFunc
	// Combine merges accumulators, where values are accumulators of a CombineFn. Those of a
	// window are then not kept one by one for long. Nil: values are something else.
	Combine CombineFunc
	// Spool takes the values of panes of more than InlineBytes, which leave as state-backed iterables
	// (beam:coder:state_backed_iterable:v1). Nil: all values travel with their key, and a pane is
	// in memory as a whole.
	Spool SpoolFunc
	// MemoryBytes is about how many bytes of state stay in memory. 0 is DefaultMemory.
	MemoryBytes int64
	// KeyGroups is the number of key groups of the job. 0 is keygroup.DefaultMax.
	KeyGroups int
	// FirstGroup and EndGroup are the range [FirstGroup, EndGroup) of key groups of this task.
	// An EndGroup of 0 is that of KeyGroups.
	FirstGroup, EndGroup int
	// Restore, if not nil, is what to go on from, over a store as it was then. Its Pending belong to Panes.
	Restore *Snapshot
}

const (
	// DefaultMemory is how many bytes of state stay in memory by default.
	DefaultMemory = 64 << 20
	// InlineBytes is how many bytes of values travel with their key at most, where there is a Spool.
	InlineBytes = 64 << 10
)

// Validate says what is wrong with a configuration, as a fault.Invalid.
func (c *Config) Validate() error {
	switch {
	case c.Input == nil || !c.Input.Keyed():
		return fault.New(fault.Invalid, "panes: the input's coder is not a KV coder")
	case c.Windowing == nil:
		return fault.New(fault.Invalid, "panes: the input has no windowing strategy")
	case c.Store == nil:
		return fault.New(fault.Invalid, "panes: there is no store")
	case c.Windowing.Merging && c.Windowing.Kind != windowing.Session && c.Merge == nil:
		return fault.New(fault.Invalid, "panes: a custom window function that merges, and nothing to merge its windows")
	case c.BatchSize > math.MaxInt32 || c.BatchSize > 0 && c.Windowing.Merging:
		return fault.New(fault.Invalid, "panes: batches of %d values, of windows that merge: %v", c.BatchSize, c.Windowing.Merging)
	case c.MemoryBytes < 0:
		return fault.New(fault.Invalid, "panes: a memory of %d bytes", c.MemoryBytes)
	case c.KeyGroups < 0 || c.KeyGroups > statebackend.MaxGroups:
		return fault.New(fault.Invalid, "panes: %d key groups are not between 0 and %d", c.KeyGroups, statebackend.MaxGroups)
	}
	if d := c.withDefaults(); d.FirstGroup < 0 || d.FirstGroup > d.EndGroup || d.EndGroup > d.KeyGroups {
		return fault.New(fault.Invalid, "panes: key groups [%d, %d) of %d", d.FirstGroup, d.EndGroup, d.KeyGroups)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = DefaultMemory
	}
	if c.KeyGroups == 0 {
		c.KeyGroups = keygroup.DefaultMax
	}
	if c.EndGroup == 0 {
		c.EndGroup = c.KeyGroups
	}
	return c
}

// Stats tells what Panes holds and has done.
type Stats struct {
	LateDropped int64 // elements, once per window, that came after their window had expired
	Closed      int64 // elements, once per window, that came after their window's trigger had finished
	Fired       int64 // panes
	Combined    int64 // accumulators that have gone into others
	MemoryBytes int64 // of state in memory, about
	Evictions   int64 // from memory: of a key's window, or of all of them where they merge
	Loads       int64 // back to memory
}

// Panes groups the elements of one task. It belongs to one goroutine. It has no clock: now is
// processing time. After an error only Stats may be called.
//
// Times in it are ms; none stands for no time at all, and is later than all.
type Panes struct {
	cfg     Config
	machine *trigger.Machine
	store   store

	watermark int64 // of the input
	output    int64 // the most that the output watermark may have been
	now       int64

	units   map[string]*unit // in memory, by id
	ring    []*unit          // all of units, for eviction
	hand    int              // where eviction goes on in ring
	changed []*unit          // those that the store doesn't have all of
	flushed int              // where FlushSome was in changed
	events  queue            // units by wake
	clocks  queue            // units by clock, those that have one
	holds   multiset         // of all units, in memory or not
	serial  uint64           // of the newest unit

	out   output
	stats Stats

	// Scratch memory.
	element coders.Element
	id      []byte
	scratch []byte
	targets []*window
	crowds  []crowd // windows whose accumulators are to be merged, by the end of Add
	last    span    // the window that span was last asked for
}

const none = math.MaxInt64

// span is when a window ends.
type span struct {
	window      []byte
	end, expiry int64
	known       bool
}

// New returns Panes over what the store has under the scope.
func New(cfg Config) (*Panes, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if cfg.BatchSize > 0 {
		cfg.Windowing, cfg.Bounded = batching(cfg.Windowing, cfg.BatchSize), false
	}
	machine, err := trigger.Compile(cfg.Windowing.Trigger, cfg.Windowing.Merging, cfg.Lag.Milliseconds())
	if err != nil {
		return nil, err
	}
	p := &Panes{
		cfg:       cfg,
		machine:   machine,
		watermark: coders.MinTimestamp,
		output:    coders.MinTimestamp,
		now:       math.MinInt64,
		units:     make(map[string]*unit),
		events:    queue{order: byWake{}},
		clocks:    queue{order: byClock{}},
		holds:     newMultiset(),
		out:       newOutput(),
	}
	p.cfg.Restore = nil // it may be large
	if s := cfg.Restore; s != nil {
		p.watermark, p.output, p.now = s.Watermark, s.Output, s.Now
		p.out.ready = slices.Clone(s.Pending)
	}
	p.store = newStore(&p.cfg)
	return p, p.store.open(&p.holds)
}

// Add takes a block of whole encoded windowed KV elements, which it does not retain. Elements
// may fire panes. A block that can't be cut into elements is a fault.Corruption.
func (p *Panes) Add(block []byte, now time.Time) error {
	p.setNow(now)
	add := p.add
	var asked turns
	if p.cfg.Merge != nil {
		add = asked.queue
	}
	e := &p.element
	for rest := block; len(rest) > 0; rest = rest[e.Size:] {
		if err := p.cfg.Input.Next(rest, e); err != nil {
			return fault.New(fault.Corruption, "panes: element at byte %d of a block: %w", len(block)-len(rest), err)
		}
		if e.Size == 0 {
			return fault.New(fault.Corruption, "panes: a block of %d bytes for elements that take none", len(block))
		}
		if err := add(e); err != nil {
			return err
		}
	}
	if err := p.addTurns(asked); err != nil {
		return err
	}
	if err := p.combine(); err != nil {
		return err
	}
	return p.trim()
}

// Advance says how far the input watermark (ms) and processing time are; neither goes back.
// What triggers wait for and windows that expire so leave panes behind, to be read
// with Next.
func (p *Panes) Advance(watermark int64, now time.Time) error {
	p.outputWatermark()
	p.watermark = max(p.watermark, watermark)
	p.setNow(now)
	return nil
}

func (p *Panes) setNow(now time.Time) { p.now = max(p.now, now.UnixMilli()) }

// Next returns a block of about maxBytes of panes that have fired, as encoded windowed
// KV<K, iterable<V>> elements; false if there are none. The block belongs to the caller.
func (p *Panes) Next(maxBytes int) (frame.Frame, bool, error) {
	p.out.limit = maxBytes
	for !p.out.full() {
		if more, err := p.runDue(); err != nil {
			return frame.Frame{}, false, err
		} else if !more {
			break
		}
	}
	f, ok := p.out.next()
	return f, ok, p.trim()
}

// Hold is the timestamp (ms) that the output watermark may not pass: the least that a pane
// which is yet to be returned by Next may have. It is math.MaxInt64 if nothing is held.
func (p *Panes) Hold() int64 {
	hold := min(p.holds.min(), p.out.minimum())
	if wake := min(p.events.min(), p.store.events.least()); wake < p.watermark {
		return min(hold, wake) // when it is done, there may be a pane that nothing was held for
	}
	return hold
}

// NextClock tells when Advance is wanted for triggers that wait for processing time.
func (p *Panes) NextClock() (time.Time, bool) {
	at := min(p.clocks.min(), p.store.clocks.least())
	if at == none {
		return time.Time{}, false
	}
	return time.UnixMilli(at), true
}

// Stats returns what it holds and has done so far.
func (p *Panes) Stats() Stats { return p.stats }

// outputWatermark returns how far the output watermark may be. It stays while something is due:
// what becomes of one key does not depend on which other came before it.
func (p *Panes) outputWatermark() int64 {
	due := min(p.events.min(), p.store.events.least()) < p.watermark || min(p.clocks.min(), p.store.clocks.least()) <= p.now
	if !due {
		p.output = max(p.output, min(p.watermark, p.holds.min()))
	}
	return p.output
}

// moment is what the trigger of a window sees.
func (p *Panes) moment(w *window) trigger.Moment {
	return trigger.Moment{End: w.end, Watermark: p.watermark, Now: p.now}
}

// span returns when a window ends and expires. Its result is good until the next call.
func (p *Panes) span(window []byte) (*span, error) {
	s := &p.last
	if s.known && string(s.window) == string(window) {
		return s, nil
	}
	end, err := p.cfg.Windowing.MaxTimestamp(window)
	if err != nil {
		return nil, err
	}
	s.window, s.known = append(s.window[:0], window...), true
	s.end, s.expiry = end, coders.EndOfGlobalWindow // which no window outlives
	if late := p.cfg.Windowing.AllowedLateness; late <= coders.EndOfGlobalWindow-max(end, coders.MinTimestamp) {
		s.expiry = end + late
	}
	return s, nil
}

// open returns the span of an element's window, or nil if the window has expired and the
// element is late, which it counts.
func (p *Panes) open(window []byte) (*span, error) {
	s, err := p.span(window)
	if err != nil || s.expiry >= p.watermark {
		return s, err
	}
	p.stats.LateDropped++
	return nil, nil
}
