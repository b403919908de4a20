// Package panes is GroupByKey where groups leave as triggers and the watermark say: values
// are kept by key and window, and leave in panes. It does what Beam's Java runners do
// (ReduceFnRunner, LateDataDroppingDoFnRunner), on encoded elements and over a state backend.
package panes

import (
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// Merged is one window that windows of a key merge into, and those it is made of.
type Merged = windowing.Merged

// MergeFunc merges windows of one key, as encoded. Windows that stay as they are need not be in
// the result. It returns a window once at most in all From. The slices that it is given are
// only valid during the call; those that it returns are not changed and not kept.
type MergeFunc func(windows [][]byte) ([]Merged, error)

// Config configures Panes.
type Config struct {
	// Input is the layout of the windowed KV<K, V> elements.
	Input *coders.Windowed
	// Windowing is the strategy of the input.
	Windowing *windowing.Strategy
	// Scope is the transform's unique name in the pipeline, under which state is kept.
	Scope string
	// Store has what doesn't fit in memory, and all of it after Flush. Panes commits to it
	// during any call; it is its caller's otherwise, who closes it.
	Store statebackend.Store
	// Merge merges windows of custom functions. Nil: sessions or none.
	Merge MergeFunc
	// MemoryBytes is about how many bytes of state stay in memory. 0 is DefaultMemory.
	MemoryBytes int64
	// KeyGroups is the number of key groups of the job. 0 is keygroup.DefaultMax.
	KeyGroups int
	// FirstGroup and EndGroup are the range [FirstGroup, EndGroup) of key groups of this task.
	// An EndGroup of 0 is all of them.
	FirstGroup, EndGroup int
}

// DefaultMemory is how many bytes of state stay in memory by default.
const DefaultMemory = 64 << 20

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
		return fault.New(fault.Invalid, "panes: windows of a custom merging window function, and nothing to merge them")
	case c.MemoryBytes < 0:
		return fault.New(fault.Invalid, "panes: a memory of %d bytes", c.MemoryBytes)
	}
	_ = keygroup.DefaultMax
	return nil
}

// Stats tells what Panes holds and has done.
type Stats struct {
	LateDropped int64 // elements, once per window, that came after their window had expired
	Closed      int64 // elements, once per window, that came after their window's trigger had finished
	Fired       int64 // panes
	MemoryBytes int64 // of state in memory, about
	Evictions   int64 // of windows from memory
}

// Panes groups the elements of one task. It belongs to one goroutine. It has no clock: now is
// the present processing time, which must not go back. After an error only Stats may be called.
type Panes struct{ cfg Config }

// New returns Panes over what the store has under the scope. The configuration is read only.
func New(cfg Config) (*Panes, error) { return &Panes{cfg: cfg}, cfg.Validate() }

// Add takes a block of whole encoded windowed KV elements, which it does not retain. Elements
// may fire panes. A block that can't be cut into elements is a fault.Corruption.
func (p *Panes) Add(block []byte, now time.Time) error { return errLater }

// Advance says how far the input watermark (ms) and processing time are. What triggers wait for
// and windows that expire so leaves panes behind, to be read with Next. Synchronized processing
// time is taken to be now.
func (p *Panes) Advance(watermark int64, now time.Time) error { return errLater }

// Next returns a block of about maxBytes of panes that have fired, as encoded windowed
// KV<K, iterable<V>> elements; false if there are none. The block belongs to the caller.
func (p *Panes) Next(maxBytes int) (frame.Frame, bool, error) { return frame.Frame{}, false, errLater }

// Hold is the timestamp (ms) that the output watermark may not pass: the least that a pane
// which is yet to be returned by Next may have. It is math.MaxInt64 if nothing is held.
func (p *Panes) Hold() int64 { return 0 }

// NextClock tells when Advance is wanted for triggers that wait for processing time.
func (p *Panes) NextClock() (time.Time, bool) { return time.Time{}, false }

// Flush writes all that is in memory to the store, but for panes that have yet to be read with Next.
func (p *Panes) Flush() error { return errLater }

// Stats returns what it holds and has done so far.
func (p *Panes) Stats() Stats { return Stats{} }

var errLater = fault.New(fault.Unsupported, "panes: not yet")
