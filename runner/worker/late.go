package worker

import (
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/frame"
)

// advance notes the task's input watermark; attempts that begin later go by it.
func (k *keyed) advance(watermark int64) {
	if watermark > k.watermark.Load() {
		k.watermark.Store(watermark) // nobody else writes it
	}
}

// admit returns input without the elements that are too late for their windows:
// those whose state has gone, or is about to. An element in several windows goes
// on in the others. late counts an element once for each window that it is dropped from.
func (k *keyed) admit(coder *coders.Windowed, frames []frame.Frame) (admitted []frame.Frame, late int64, err error) {
	if !k.timers.Expire() {
		return frames, 0, nil
	}
	l := lateness{keyed: k, coder: coder, watermark: k.watermark.Load()}
	admitted = make([]frame.Frame, 0, len(frames))
	for _, f := range frames {
		if f.MinTimestamp < l.watermark { // else no window of it can have ended
			if f, err = l.drop(f); err != nil {
				return nil, 0, err
			}
		}
		if f.Elements > 0 {
			admitted = append(admitted, f)
		}
	}
	return admitted, l.dropped, nil
}

// lateness drops what is too late.
type lateness struct {
	keyed     *keyed
	coder     *coders.Windowed
	watermark int64
	dropped   int64
	windows   []byte // scratch
}

// drop returns f without elements in windows that have expired, or in none.
func (l *lateness) drop(f frame.Frame) (frame.Frame, error) {
	var el coders.Element
	out := f
	changed := false
	for off := 0; off < f.Bytes(); off += el.Size {
		if err := l.coder.Next(f.Data[off:], &el); err != nil {
			return f, err
		}
		left, err := l.live(&el)
		if err != nil {
			return f, err
		}
		if left < el.NumWindows || left == 0 {
			if !changed { // what came before goes on as it is
				out.Data = append(make([]byte, 0, f.Bytes()), f.Data[:off]...)
				changed = true
			}
			if left == 0 {
				out.Elements--
				continue
			}
			out.Data = coders.AppendHeader(out.Data, el.Timestamp, left, l.windows, el.Pane)
			out.Data = append(append(out.Data, el.Key...), el.Value...)
		} else if changed {
			out.Data = append(out.Data, f.Data[off:off+el.Size]...)
		}
	}
	return out, nil
}

// live puts the windows of el that have not expired into l.windows, and counts them.
func (l *lateness) live(el *coders.Element) (int, error) {
	l.windows = l.windows[:0]
	left := 0
	for windows, n := el.Windows, el.NumWindows; n > 0; n-- {
		size, err := l.coder.Window().Skip(windows)
		if err != nil {
			return 0, err
		}
		_, at, err := l.keyed.timers.Expires(windows[:size])
		if err != nil {
			return 0, err
		}
		if at < l.watermark {
			l.dropped++
		} else {
			left++
			l.windows = append(l.windows, windows[:size]...)
		}
		windows = windows[size:]
	}
	return left, nil
}
