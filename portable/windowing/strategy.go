// Package windowing reads windowing strategies and does what a runner does
// with windows itself: their bounds, merging of sessions, timestamps of groups.
package windowing

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/urns"
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

var kinds = [...]string{"global", "fixed", "sliding", "session", "custom"}

// String returns the kind's name for messages and plans.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return kinds[k]
}

// TimestampCombiner says which timestamp a group gets from those of its
// elements (beam_runner_api.proto, OutputTime).
type TimestampCombiner int

// Timestamp combiners.
const (
	EndOfWindow TimestampCombiner = iota
	Earliest
	Latest
)

// Combine folds two timestamps in ms of one group into one. It is associative
// and commutative; a fold starts with the first element's timestamp. It also
// combines the folds of windows that merge.
func (c TimestampCombiner) Combine(a, b int64) int64 {
	if c == Earliest {
		return min(a, b)
	}
	return max(a, b)
}

// Finish returns the timestamp of a group, given the fold of its elements'
// timestamps and the maximum timestamp of its window, all in ms.
func (c TimestampCombiner) Finish(acc, windowMax int64) int64 {
	if c == EndOfWindow {
		return windowMax
	}
	return acc
}

// Strategy is a windowing strategy (beam_runner_api.proto, WindowingStrategy).
// It is immutable and safe for concurrent use. Times are in ms.
type Strategy struct {
	Kind Kind
	// Merging is true where windows of a key have yet to be merged. It is
	// false after a grouping that has merged them, for sessions too.
	Merging bool

	Size   int64 // length of a window: Fixed and Sliding
	Period int64 // between the starts of windows: Sliding
	Offset int64 // where a window starts: Fixed and Sliding
	Gap    int64 // Session

	Combiner        TimestampCombiner
	AllowedLateness int64
	Trigger         *pipepb.Trigger // as in the proto; never nil; must not be changed
	DefaultTrigger  bool
	Accumulating    bool
	// EmptyFinal is true where a window that has had elements ends with a pane that is
	// last, even if that has none (ClosingBehavior.EMIT_ALWAYS).
	EmptyFinal bool
	// EmptyOnTime is true where a window that has had elements has a pane on time, even if
	// that has none (OnTimeBehavior.FIRE_ALWAYS).
	EmptyOnTime bool

	WindowCoder *coders.Coder
}

// FromProto reads a windowing strategy. The coder of its windows must be in
// components, with unknown coders length prefixed already. A malformed
// strategy is a fault.Invalid; one that needs what we lack a fault.Unsupported.
func FromProto(ws *pipepb.WindowingStrategy, components map[string]*pipepb.Coder) (*Strategy, error) {
	s := &Strategy{Trigger: ws.GetTrigger(), AllowedLateness: ws.GetAllowedLateness()}
	if s.Trigger.GetTrigger() == nil {
		return nil, fault.New(fault.Invalid, "windowing: the strategy has no trigger")
	}
	if s.AllowedLateness < 0 {
		return nil, fault.New(fault.Invalid, "windowing: an allowed lateness of %d ms", s.AllowedLateness)
	}
	_, s.DefaultTrigger = s.Trigger.GetTrigger().(*pipepb.Trigger_Default_)
	if err := s.readWindowFn(ws.GetWindowFn()); err != nil {
		return nil, fmt.Errorf("windowing: window function %q: %w", ws.GetWindowFn().GetUrn(), err)
	}
	if err := s.readModes(ws); err != nil {
		return nil, err
	}
	var err error
	if s.WindowCoder, err = coders.Compile(ws.GetWindowCoderId(), components); err != nil {
		return nil, fmt.Errorf("windowing: window coder: %w", err)
	}
	if want := s.Kind.windowCoder(); want != "" && s.WindowCoder.URN() != want {
		return nil, fault.New(fault.Invalid, "windowing: %s windows are encoded with %s, not %s", s.Kind, s.WindowCoder.URN(), want)
	}
	return s, nil
}

// windowCoder returns the URN of the coder of the kind's windows, empty if it is up to the SDK.
func (k Kind) windowCoder() string {
	switch k {
	case Global:
		return urns.CoderGlobalWindow
	case Fixed, Sliding, Session:
		return urns.CoderIntervalWindow
	}
	return ""
}

// readModes reads the enumerations of ws. All are required, but for the closing and on-time
// behaviours, which are younger than the message.
func (s *Strategy) readModes(ws *pipepb.WindowingStrategy) error {
	switch m := ws.GetMergeStatus(); m {
	case pipepb.MergeStatus_NON_MERGING, pipepb.MergeStatus_ALREADY_MERGED:
	case pipepb.MergeStatus_NEEDS_MERGE:
		s.Merging = true
	default:
		return fault.New(fault.Invalid, "windowing: merge status %v", m)
	}
	switch {
	case s.Merging && (s.Kind == Global || s.Kind == Fixed || s.Kind == Sliding):
		return fault.New(fault.Invalid, "windowing: %s windows never merge, but their status is NEEDS_MERGE", s.Kind)
	case s.Kind == Session && ws.GetMergeStatus() == pipepb.MergeStatus_NON_MERGING:
		return fault.New(fault.Invalid, "windowing: session windows merge, but their status is NON_MERGING")
	}
	switch m := ws.GetAccumulationMode(); m {
	case pipepb.AccumulationMode_DISCARDING:
	case pipepb.AccumulationMode_ACCUMULATING:
		s.Accumulating = true
	case pipepb.AccumulationMode_RETRACTING:
		return fault.New(fault.Unsupported, "windowing: accumulation mode RETRACTING is not supported; use DISCARDING or ACCUMULATING")
	default:
		return fault.New(fault.Invalid, "windowing: accumulation mode %v", m)
	}
	s.EmptyFinal = ws.GetClosingBehavior() == pipepb.ClosingBehavior_EMIT_ALWAYS
	s.EmptyOnTime = ws.GetOnTimeBehavior() != pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
	switch o := ws.GetOutputTime(); o {
	case pipepb.OutputTime_END_OF_WINDOW:
		s.Combiner = EndOfWindow
	case pipepb.OutputTime_EARLIEST_IN_PANE:
		s.Combiner = Earliest
	case pipepb.OutputTime_LATEST_IN_PANE:
		s.Combiner = Latest
	default:
		return fault.New(fault.Invalid, "windowing: output time %v", o)
	}
	return nil
}

// MaxTimestamp returns the maximum timestamp in ms of one encoded window, the
// last that is inside, and within event time. Windows of a custom function need a
// beam:coder:custom_window:v1 to tell; with another coder, it is a
// fault.Unsupported. Bytes that aren't exactly one window are a fault.Corruption.
func (s *Strategy) MaxTimestamp(window []byte) (int64, error) {
	n, err := s.WindowCoder.Skip(window)
	if err != nil || n != len(window) {
		return 0, fault.New(fault.Corruption, "windowing: %d bytes are not one window of %s (%v)", len(window), s.WindowCoder.URN(), err)
	}
	switch s.WindowCoder.URN() {
	case urns.CoderGlobalWindow:
		return coders.EndOfGlobalWindow, nil
	case urns.CoderIntervalWindow:
		w, _, err := DecodeInterval(window)
		return w.MaxTimestamp(), err
	case urns.CoderCustomWindow:
		end, err := coders.Timestamp(window)
		return withinTime(end), err
	}
	return 0, fault.New(fault.Unsupported, "windowing: the end of windows encoded with %s is not known; their coder must be wrapped in %s",
		s.WindowCoder.URN(), urns.CoderCustomWindow)
}

// KnowsEnds tells whether MaxTimestamp can tell when windows end.
func (s *Strategy) KnowsEnds() bool {
	switch s.WindowCoder.URN() {
	case urns.CoderGlobalWindow, urns.CoderIntervalWindow, urns.CoderCustomWindow:
		return true
	}
	return false
}

// WindowAt appends the encoding of the window that the function assigns to a timestamp in
// ms, the earliest if there are several, as side inputs are read by default. It returns false
// if there is none, or if only an SDK can tell: for session and custom windows.
func (s *Strategy) WindowAt(dst []byte, timestamp int64) ([]byte, bool) {
	var w Interval
	switch s.Kind {
	case Global:
		return dst, true
	case Fixed:
		w.Start = timestamp - floorMod(timestamp-s.Offset, s.Size)
	case Sliding:
		// The least start above timestamp - size.
		first := timestamp - s.Size + 1
		w.Start = first + floorMod(s.Offset-first, s.Period)
		if w.Start > timestamp {
			return dst, false
		}
	default:
		return dst, false
	}
	w.End = w.Start + s.Size
	return w.Append(dst), true
}

// floorMod is a mod n, never negative. n is positive.
func floorMod(a, n int64) int64 {
	if a %= n; a < 0 {
		a += n
	}
	return a
}

// FiresOnceOnBoundedInput tells whether each key and window fires exactly
// once, on time and with all its elements, when the watermark goes from the
// beginning to the end of time after all input has come: no element is late
// then, and nothing passes between the window's end and its expiry. So it is
// for the default trigger, for AfterEndOfWindow without early firings, whatever
// it does with late ones, and for Never, which leaves all to the window's
// expiry. It is false for all others, even where they amount to the same.
func (s *Strategy) FiresOnceOnBoundedInput() bool {
	switch t := s.Trigger.GetTrigger().(type) {
	case *pipepb.Trigger_Default_, *pipepb.Trigger_Never_:
		return true
	case *pipepb.Trigger_AfterEndOfWindow_:
		return t.AfterEndOfWindow.GetEarlyFirings() == nil
	}
	return false
}
