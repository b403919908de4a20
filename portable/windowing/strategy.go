// Package windowing reads windowing strategies and does what a runner does
// with windows itself: their bounds, merging of sessions, timestamps of groups.
package windowing

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
)

// Kind is the family of a window function.
type Kind int

// Kinds of window functions. Custom ones are the SDK's own: only it can assign and merge their windows.
const (
	Global Kind = iota
	Fixed
	Sliding
	Session
	Custom
)

// TimestampCombiner says which timestamp a group gets from those of its elements (Beam: OutputTime).
type TimestampCombiner int

// Timestamp combiners.
const (
	EndOfWindow TimestampCombiner = iota
	Earliest
	Latest
)

// Combine folds two timestamps of a group into one. It is associative and
// commutative; the fold starts with the first element's timestamp.
func (c TimestampCombiner) Combine(a, b int64) int64 { panic("todo") }

// Finish returns the timestamp of a group from the fold of its timestamps and
// its window's maximum timestamp, all in ms.
func (c TimestampCombiner) Finish(acc, windowMax int64) int64 { panic("todo") }

// Strategy is a windowing strategy (beam_runner_api.proto, WindowingStrategy).
// It is immutable and safe for concurrent use. Times are in ms.
type Strategy struct {
	Kind    Kind
	Merging bool // windows of a key have yet to be merged

	Size   int64 // Fixed and Sliding
	Period int64 // Sliding
	Offset int64 // Fixed and Sliding
	Gap    int64 // Session

	Combiner        TimestampCombiner
	AllowedLateness int64
	Trigger         *pipepb.Trigger // never nil
	DefaultTrigger  bool
	Accumulating    bool

	WindowCoder *coders.Coder
}

// FromProto reads a windowing strategy. The coder of its windows must be in
// components, unknown coders in it length prefixed already.
// A malformed strategy is a fault.Invalid; one that needs what we lack a fault.Unsupported.
func FromProto(ws *pipepb.WindowingStrategy, components map[string]*pipepb.Coder) (*Strategy, error) {
	panic("todo")
}

// MaxTimestamp returns the maximum timestamp in ms of one encoded window: the
// last one that is inside.
func (s *Strategy) MaxTimestamp(window []byte) (int64, error) { panic("todo") }

// FiresOnceOnBoundedInput tells whether on bounded input, where the watermark
// goes from the beginning to the end of time once all of it has come, each key
// and window fires once at the end, as with the default trigger.
func (s *Strategy) FiresOnceOnBoundedInput() bool { panic("todo") }
