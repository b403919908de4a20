package worker

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/sideinput"
)

// waiting keeps the elements of a task's input, window by window, until the windows that they
// read of side inputs have their first panes, or are known to be empty. Elements of a window
// stay in order. It belongs to the task's owner.
type waiting struct {
	coder *coders.Windowed
	main  *windowing.Strategy
	sides []waitedSide
	// mapWindow takes a window of the main input to that of a side input.
	mapWindow func(plan.WindowMapping, []byte) ([]byte, error)
	spill     spiller

	windows map[string]*mainWindow
	last    *mainWindow
	firstTo int64 // the least end of windows
	parked  []*mainWindow
	// released is the watermark up to which windows were let go of.
	released int64
	late     int64 // elements dropped, once for each window
	changed  bool  // there may be news of side inputs
}

// waitedSide is a side input of the stage, as one or several of its transforms map windows to it.
type waitedSide struct {
	live    *liveSide
	reader  *sideinput.Reader
	mapping plan.WindowMapping
	// back is set once a window was mapped to one that ends before it. Any may be so then,
	// and none of the side input ever goes.
	back bool
	by   []byte // that window of the main input
}

// mainWindow is a window of the main input.
type mainWindow struct {
	window []byte
	end    int64
	needs  []need // that are not ready
	gone   bool   // it needs one that has expired

	// What waits: whole frames, and one in the making.
	frames []waitingFrame
	holds  engine.Minima // of frames
	block  frame.Frame
	hold   int64 // of block
}

// waitingFrame is a frame that holds the input watermark.
type waitingFrame struct {
	exchange.Stored
	hold int64
}

type need struct {
	side   *waitedSide
	window []byte
}

// waitingBlock is about how many bytes of a window's elements are stored at once.
const waitingBlock = 64 << 10

// newWaiting returns nil for stages without side inputs that change.
func newWaiting(t *task) (*waiting, error) {
	w := &waiting{
		windows: map[string]*mainWindow{}, firstTo: math.MaxInt64, released: math.MinInt64,
		spill: t.e.spiller(),
	}
	for _, ref := range t.stage.Exec.SideInputs {
		live := t.e.lives[ref.Stage.Index]
		if live == nil || slices.ContainsFunc(w.sides, func(s waitedSide) bool { return s.live == live && sameMapping(s.mapping, ref.Mapping) }) {
			continue
		}
		w.main = ref.Mapping.Main
		w.sides = append(w.sides, waitedSide{live: live, reader: live.readers[t.stage.Index][t.index], mapping: ref.Mapping})
	}
	if len(w.sides) == 0 {
		return nil, nil
	}
	for _, in := range t.stage.In {
		if in.Kind == plan.Broadcast {
			continue
		}
		if w.coder = in.Coder; w.coder.Constant() {
			return nil, fault.New(fault.Internal, "elements that wait for side inputs have no windows of their own")
		}
	}
	return w, nil
}

func sameMapping(a, b plan.WindowMapping) bool {
	return a.Call == b.Call && a.Identity == b.Identity // and the side inputs are the same
}

// admit returns what may be processed of a frame that came after the watermark behind, and
// keeps the rest, which holds the watermark as in the task's inbox (engine.Task.Frame).
func (w *waiting) admit(f frame.Frame, behind int64) (frame.Frame, error) {
	ready := frame.Frame{MinTimestamp: f.MinTimestamp}
	remote := f.Remote / int64(max(f.Elements, 1))
	kept := 0 // where what was not looked at twice begins
	var el coders.Element
	for at := 0; at < len(f.Data); at += el.Size {
		if err := w.coder.Next(f.Data[at:], &el); err != nil {
			return ready, fmt.Errorf("at byte %d: %w", at, err)
		}
		open, err := w.opened(&el)
		if err != nil {
			return ready, err
		}
		if open == el.NumWindows {
			ready.Elements++
			continue
		}
		ready.Data = append(ready.Data, f.Data[kept:at]...)
		kept = at + el.Size
		if err := w.explode(&el, f.Data[kept-len(el.Key)-len(el.Value):kept], open, remote, behind, &ready); err != nil {
			return ready, err
		}
	}
	if kept == 0 {
		return f, nil
	}
	ready.Data = append(ready.Data, f.Data[kept:]...)
	ready.Remote = remote * int64(ready.Elements)
	return ready, nil
}

// opened counts the windows of an element in which it may be processed at once.
func (w *waiting) opened(el *coders.Element) (open int, err error) {
	err = w.eachWindow(el, func(m *mainWindow) error {
		if m.isOpen() {
			open++
		}
		return nil
	})
	return open, err
}

// isOpen tells whether elements may pass: nothing is needed, and none waits before them.
func (m *mainWindow) isOpen() bool { return len(m.needs) == 0 && !m.gone && m.empty() }

func (m *mainWindow) empty() bool { return len(m.frames) == 0 && m.block.Elements == 0 }

func (w *waiting) eachWindow(el *coders.Element, do func(*mainWindow) error) error {
	windows := el.Windows
	for range el.NumWindows {
		n := len(windows)
		if el.NumWindows > 1 {
			var err error
			if n, err = w.coder.Window().Skip(windows); err != nil {
				return err
			}
		}
		m, err := w.window(windows[:n])
		if err != nil {
			return err
		}
		if err := do(m); err != nil {
			return err
		}
		windows = windows[n:]
	}
	return nil
}

// explode passes on an element in those of its windows that are open, if any are, and
// keeps it for each of the others.
func (w *waiting) explode(el *coders.Element, body []byte, open int, remote, behind int64, ready *frame.Frame) error {
	var windows []byte
	err := w.eachWindow(el, func(m *mainWindow) error {
		switch {
		case m.isOpen():
			windows = append(windows, m.window...)
			return nil
		case m.gone:
			w.late++
			return w.checkLate(m)
		}
		if m.empty() {
			w.parked = append(w.parked, m)
		}
		if m.block.Elements == 0 {
			m.block.MinTimestamp, m.hold = math.MaxInt64, math.MaxInt64
		}
		m.block.MinTimestamp = min(m.block.MinTimestamp, el.Timestamp)
		m.hold = min(m.hold, max(el.Timestamp, behind))
		m.block.Data = append(coders.AppendHeader(m.block.Data, el.Timestamp, 1, m.window, el.Pane), body...)
		m.block.Elements++
		m.block.Remote += remote
		if len(m.block.Data) >= waitingBlock {
			return w.store(m)
		}
		return nil
	})
	if err != nil || open == 0 {
		return err
	}
	ready.Data = append(coders.AppendHeader(ready.Data, el.Timestamp, open, windows, el.Pane), body...)
	ready.Elements++
	return nil
}

// checkLate returns an error unless a window whose data is gone has itself expired.
func (w *waiting) checkLate(m *mainWindow) error {
	if m.end+w.main.AllowedLateness < w.released {
		return nil
	}
	return fault.New(fault.Unsupported, "elements of a window that ends at %d ms read a window of a side input that ended long before and is no longer kept; "+
		"a side input's window mapping must look back from the start or never", m.end)
}

// store puts away what of a window's elements lies open.
func (w *waiting) store(m *mainWindow) error {
	s, err := w.spill.store(m.block)
	if err != nil {
		return err
	}
	m.frames = append(m.frames, waitingFrame{s, m.hold})
	m.holds.Push(m.hold)
	m.block = frame.Frame{}
	return nil
}

// window returns what is known of a window of the main input.
func (w *waiting) window(window []byte) (*mainWindow, error) {
	if w.last != nil && bytes.Equal(w.last.window, window) {
		return w.last, nil
	}
	m := w.windows[string(window)]
	if m == nil {
		m = &mainWindow{window: bytes.Clone(window)}
		var err error
		if m.end, err = w.main.MaxTimestamp(window); err != nil {
			return nil, err
		}
		for i := range w.sides {
			if err := w.mapTo(m, &w.sides[i]); err != nil {
				return nil, err
			}
		}
		if err := m.look(); err != nil {
			return nil, err
		}
		w.windows[string(window)] = m
		w.firstTo = min(w.firstTo, m.end)
	}
	w.last = m
	return m, nil
}

func (w *waiting) mapTo(m *mainWindow, s *waitedSide) error {
	to, err := w.mapWindow(s.mapping, m.window)
	if err != nil {
		return err
	}
	end, err := s.mapping.Windowing.MaxTimestamp(to)
	if end < m.end && !s.back {
		s.back, s.by = true, m.window
	}
	m.needs = append(m.needs, need{s, to})
	return err
}

// look asks which of what a window needs has become ready.
func (m *mainWindow) look() (err error) {
	m.needs = slices.DeleteFunc(m.needs, func(n need) bool {
		state, failed := n.side.live.State(n.window)
		if failed != nil {
			err = failed
		}
		m.gone = m.gone || state == sideinput.Expired
		return state == sideinput.Ready
	})
	return err
}

// look asks again for all windows that have elements waiting, if there may be news.
func (w *waiting) look() error {
	if !w.changed {
		return nil
	}
	w.changed = false
	for _, m := range w.windows {
		if err := m.look(); err != nil {
			return err
		}
	}
	return nil
}

// take returns a frame whose waiting is over, and what it holds; ok is false if there is none.
func (w *waiting) take() (f frame.Frame, hold int64, ok bool, err error) {
	at := slices.IndexFunc(w.parked, func(m *mainWindow) bool { return len(m.needs) == 0 })
	if at < 0 {
		return frame.Frame{}, 0, false, nil
	}
	m := w.parked[at]
	if len(m.frames) > 0 {
		f, err = m.frames[0].Load()
		hold, m.frames = m.frames[0].hold, m.frames[1:]
		m.holds.Pop()
	} else {
		f, hold, m.block = m.block, m.hold, frame.Frame{}
	}
	if m.empty() {
		w.parked = slices.Delete(w.parked, at, at+1)
	}
	return f, hold, err == nil, err
}

// hold is what all that waits holds the input watermark at, MaxInt64 if nothing does.
func (w *waiting) hold() int64 {
	least := int64(math.MaxInt64)
	for _, m := range w.parked {
		if m.block.Elements > 0 {
			least = min(least, m.hold)
		}
		if len(m.frames) > 0 {
			least = min(least, m.holds.Least())
		}
	}
	return least
}

// release notes how far (ms) the task's output is: nothing before will be asked for again
// but what is late.
func (w *waiting) release(watermark int64) error {
	w.released = watermark
	if until := watermark - w.main.AllowedLateness; until > w.firstTo {
		w.forget(until)
	}
	for i := range w.sides {
		s := &w.sides[i]
		until := watermark - w.main.AllowedLateness
		for _, other := range w.sides {
			if other.reader == s.reader && other.back {
				until = math.MinInt64
			}
		}
		if err := s.reader.Release(until); err != nil {
			return err
		}
	}
	return nil
}

// forget drops what is known of windows that have expired.
func (w *waiting) forget(until int64) {
	w.last, w.firstTo = nil, math.MaxInt64
	for key, m := range w.windows {
		if m.end < until && m.empty() {
			delete(w.windows, key)
		} else {
			w.firstTo = min(w.firstTo, m.end)
		}
	}
}

func (w *waiting) close() {
	for _, m := range w.parked {
		for _, s := range m.frames {
			s.Drop()
		}
	}
	w.spill.close()
}
