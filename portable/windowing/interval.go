package windowing

import (
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// Interval is an interval window in ms; End is exclusive.
type Interval struct{ Start, End int64 }

// DecodeInterval decodes the interval window (beam:coder:interval_window:v1)
// at the start of b and returns its length in bytes. It returns
// coders.ErrShort if b ends within it and a fault.Corruption if its bounds are not in order or don't fit.
func DecodeInterval(b []byte) (Interval, int, error) {
	end, err := coders.Timestamp(b)
	if err != nil {
		return Interval{}, 0, err
	}
	span, n, err := coders.Varint(b[coders.TimestampSize:])
	if err != nil {
		return Interval{}, 0, err
	}
	start := end - span
	if span < 0 || start > end || end == math.MinInt64 {
		return Interval{}, 0, fault.New(fault.Corruption, "windowing: an interval window of %d ms before %d", span, end)
	}
	return Interval{Start: start, End: end}, coders.TimestampSize + n, nil
}

// Append appends the window's encoding (beam:coder:interval_window:v1). Start must not be after End.
func (w Interval) Append(dst []byte) []byte {
	return coders.AppendVarint(coders.AppendTimestamp(dst, w.End), w.End-w.Start)
}

// MaxTimestamp is the last timestamp in ms that is in the window, within event time: that of a
// window that goes on beyond its end is the end.
func (w Interval) MaxTimestamp() int64 { return withinTime(w.End - 1) }

func withinTime(ms int64) int64 { return max(coders.MinTimestamp, min(ms, coders.MaxTimestamp)) }

// MergeSessions merges the windows that overlap, as Beam's Sessions do:
// windows that only touch, where one ends as the other starts, stay apart.
// sorted must be in order of Start and is not changed. yield is called once
// for each window that results, in order, with the range [from, to) of those it was made of.
func MergeSessions(sorted []Interval, yield func(merged Interval, from, to int)) {
	for from := 0; from < len(sorted); {
		merged := sorted[from]
		to := from + 1
		for to < len(sorted) && merged.End > sorted[to].Start {
			merged.End = max(merged.End, sorted[to].End)
			to++
		}
		yield(merged, from, to)
		from = to
	}
}
