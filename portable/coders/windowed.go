package coders

import pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

// Windowed is the layout of the windowed values on an edge. It is immutable
// and safe for concurrent use.
type Windowed struct {
	element, window *Coder
}

// NewWindowed returns the layout of windowed_value<element, window>.
func NewWindowed(element, window *Coder) (*Windowed, error) {
	return &Windowed{element: element, window: window}, nil
}

// CompileWindowed compiles the coder called id, which must be a
// windowed_value or a param_windowed_value. Errors are as of Compile.
func CompileWindowed(id string, components map[string]*pipepb.Coder) (*Windowed, error) {
	panic("todo")
}

// Element returns the layout of the elements without timestamp, windows and pane.
func (w *Windowed) Element() *Coder { return w.element }

// Window returns the layout of one window.
func (w *Windowed) Window() *Coder { return w.window }

// Keyed tells whether elements are KVs, so that Next finds their keys.
func (w *Windowed) Keyed() bool { panic("todo") }

// Element is a view of one encoded windowed value. Its slices alias the block
// it was cut from (or, for constant windows and panes, the layout) and must not be changed.
type Element struct {
	Timestamp  int64  // ms since the epoch, as written: it may lie outside of [MinTimestamp, MaxTimestamp]
	NumWindows int    // how many windows; 0 is legal: such an element is in no window
	Windows    []byte // the windows' encodings, concatenated
	Pane       []byte // the encoded pane info
	Key        []byte // the key in nested encoding; nil unless keyed
	Value      []byte // the value of a KV, or the whole element, in nested encoding
	Size       int    // bytes that the windowed value takes in the block
}

// Next cuts the windowed value at the start of b. It returns ErrShort if b
// ends within it and a fault.Corruption if none can begin so; e is then
// undefined. It doesn't allocate unless it fails.
func (w *Windowed) Next(b []byte, e *Element) error { panic("todo") }

// Count walks a whole block. It returns the number of elements and the
// smallest of their timestamps in ms (MaxTimestamp if there are none). A block
// that ends within an element is a fault.Corruption.
func (w *Windowed) Count(b []byte) (n int, minTimestamp int64, err error) { panic("todo") }

// AppendHeader appends what stands before the element in a windowed_value:
// timestamp in ms, windows and pane info. windows holds numWindows encoded
// windows; pane is an encoded pane info, such as []byte{PaneNoFiring}.
func AppendHeader(dst []byte, timestamp int64, numWindows int, windows, pane []byte) []byte {
	dst = AppendTimestamp(dst, timestamp)
	dst = append(dst, byte(numWindows>>24), byte(numWindows>>16), byte(numWindows>>8), byte(numWindows))
	dst = append(dst, windows...)
	return append(dst, pane...)
}
