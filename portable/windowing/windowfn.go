package windowing

import (
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// readWindowFn reads kind and parameters of a window function (standard_window_fns.proto).
func (s *Strategy) readWindowFn(fn *pipepb.FunctionSpec) error {
	switch fn.GetUrn() {
	case "":
		return fault.New(fault.Invalid, "it has no URN")
	case urns.WindowFnGlobal:
		s.Kind = Global
	case urns.WindowFnFixed:
		s.Kind = Fixed
		var p pipepb.FixedWindowsPayload
		if err := unmarshal(fn, &p); err != nil {
			return err
		}
		return firstError(
			positive("size", p.GetSize(), &s.Size),
			millis("offset", p.GetOffset(), &s.Offset))
	case urns.WindowFnSliding:
		s.Kind = Sliding
		var p pipepb.SlidingWindowsPayload
		if err := unmarshal(fn, &p); err != nil {
			return err
		}
		return firstError(
			positive("size", p.GetSize(), &s.Size),
			positive("period", p.GetPeriod(), &s.Period),
			millis("offset", p.GetOffset(), &s.Offset))
	case urns.WindowFnSession:
		s.Kind = Session
		var p pipepb.SessionWindowsPayload
		if err := unmarshal(fn, &p); err != nil {
			return err
		}
		return positive("gap", p.GetGapSize(), &s.Gap)
	default:
		s.Kind = Custom
	}
	return nil
}

func unmarshal(fn *pipepb.FunctionSpec, to proto.Message) error {
	if err := proto.Unmarshal(fn.GetPayload(), to); err != nil {
		return fault.New(fault.Invalid, "its payload: %w", err)
	}
	return nil
}

// span is a protobuf Duration, or a Timestamp, which counts from the epoch.
type span interface {
	GetSeconds() int64
	GetNanos() int32
}

// millis stores v in ms.
func millis(name string, v span, to *int64) error {
	seconds, nanos := v.GetSeconds(), int64(v.GetNanos())
	const most = math.MaxInt64 / 1_000_000
	if seconds > most || seconds < -most || nanos >= 1e9 || nanos <= -1e9 {
		return fault.New(fault.Invalid, "its %s of %d s and %d ns is out of range", name, seconds, nanos)
	}
	if nanos%1e6 != 0 {
		return fault.New(fault.Unsupported, "its %s of %d s and %d ns is not whole milliseconds, which is how Beam encodes windows", name, seconds, nanos)
	}
	*to = seconds*1000 + nanos/1e6
	return nil
}

// positive stores v in ms and requires it to be greater than none.
func positive(name string, v span, to *int64) error {
	if err := millis(name, v, to); err != nil {
		return err
	}
	if *to <= 0 {
		return fault.New(fault.Invalid, "its %s is %d ms; it must be positive", name, *to)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
