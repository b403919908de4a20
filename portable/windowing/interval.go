package windowing

// Interval is an interval window in ms; End is exclusive.
type Interval struct{ Start, End int64 }

// DecodeInterval decodes the interval window at the start of b and returns its length in bytes.
func DecodeInterval(b []byte) (Interval, int, error) { panic("todo") }

// Append appends the window's encoding (beam:coder:interval_window:v1).
func (w Interval) Append(dst []byte) []byte { panic("todo") }

// MaxTimestamp is the last timestamp in ms that is in the window.
func (w Interval) MaxTimestamp() int64 { return w.End - 1 }

// MergeSessions merges windows that intersect, sorted by start. It calls yield
// for each merged window in order, with the range [from, to) of those that it consumed.
func MergeSessions(sorted []Interval, yield func(merged Interval, from, to int)) { panic("todo") }
