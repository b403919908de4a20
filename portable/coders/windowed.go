package coders

import (
	"encoding/binary"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// Windowed is the layout of the windowed values on an edge. It is immutable
// and safe for concurrent use.
type Windowed struct {
	element, window *Coder
	key, value      *Coder   // of a KV; otherwise key is nil and value is element
	constant        *Element // what all elements share, of a param_windowed_value; otherwise nil
}

// NewWindowed returns the layout of windowed_value<element, window>.
func NewWindowed(element, window *Coder) (*Windowed, error) {
	if element == nil || window == nil {
		return nil, fault.New(fault.Invalid, "coders: windowed values need an element and a window coder")
	}
	w := &Windowed{element: element, window: window, value: element}
	if element.urn == urns.CoderKV {
		w.key, w.value = element.components[0], element.components[1]
	}
	return w, nil
}

// CompileWindowed compiles the coder called id, which must be a
// windowed_value or a param_windowed_value. Errors are as of Compile.
func CompileWindowed(id string, components map[string]*pipepb.Coder) (*Windowed, error) {
	c, err := Compile(id, components)
	if err != nil {
		return nil, err
	}
	if c.urn != urns.CoderWindowedValue && c.urn != urns.CoderParamWindowedValue {
		return nil, fault.New(fault.Invalid, "coder %q is not of windowed values but %s", id, c.urn)
	}
	w, err := NewWindowed(c.components[0], c.components[1])
	if err == nil {
		w.constant = c.constant
	}
	return w, err
}

// parseConstant reads the payload of a param_windowed_value: a windowed value
// of no bytes, whose timestamp, windows and pane all values share.
func parseConstant(payload []byte, window *Coder) (*Element, error) {
	w, err := NewWindowed(bytesLayout, window)
	if err != nil {
		return nil, err
	}
	var e Element
	if err := w.Next(payload, &e); err != nil {
		return nil, err
	}
	if e.Size != len(payload) || len(e.Value) != 1 {
		return nil, fault.New(fault.Invalid, "it is not one windowed value of no bytes")
	}
	e.Value, e.Size = nil, 0
	return &e, nil
}

// Element returns the layout of the elements without timestamp, windows and pane.
func (w *Windowed) Element() *Coder { return w.element }

// Window returns the layout of one window.
func (w *Windowed) Window() *Coder { return w.window }

// Keyed tells whether elements are KVs, so that Next finds their keys.
func (w *Windowed) Keyed() bool { return w.key != nil }

// Constant tells whether timestamp, windows and pane are the same for all
// elements and not written with each, so that an element has no header.
func (w *Windowed) Constant() bool { return w.constant != nil }

// Element is a view of one encoded windowed value. Its slices alias the block
// it was cut from (or the layout, where that is Constant) and must not be changed.
type Element struct {
	Timestamp  int64  // ms since the epoch as written: it may lie outside of [MinTimestamp, MaxTimestamp]
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
func (w *Windowed) Next(b []byte, e *Element) error {
	var i int
	var err error
	if w.constant == nil {
		if i, err = w.header(b, e); err != nil {
			return err
		}
	} else {
		*e = *w.constant
	}
	if w.key != nil {
		start := i
		if i, err = w.key.skip(b, i); err != nil {
			return err
		}
		e.Key = b[start:i:i]
	} else {
		e.Key = nil
	}
	end, err := w.value.skip(b, i)
	if err != nil {
		return err
	}
	e.Value = b[i:end:end]
	e.Size = end
	return nil
}

// headerSize is the least that stands before an element: timestamp, window count, pane info.
const headerSize = TimestampSize + 4 + 1

// header reads what stands before the element and returns the index after it.
func (w *Windowed) header(b []byte, e *Element) (int, error) {
	if len(b) < headerSize {
		return 0, ErrShort
	}
	e.Timestamp = decodeTimestamp(b)
	count := binary.BigEndian.Uint32(b[TimestampSize:])
	const start = TimestampSize + 4
	i := start
	var err error
	switch {
	case int32(count) < 0:
		return 0, corrupt(TimestampSize, "an element in %d windows", int32(count))
	case count == 1:
		i, err = w.window.skip(b, i)
	default:
		i, err = skipMany(w.window, uint64(count), b, i)
	}
	if err != nil {
		return 0, err
	}
	e.NumWindows = int(count)
	e.Windows = b[start:i:i]
	pane := i
	if i < len(b) && b[i] < 0x10 {
		i++
	} else if i, err = skipPane(b, i); err != nil {
		return 0, err
	}
	e.Pane = b[pane:i:i]
	return i, nil
}

// Count walks a whole block. It returns the number of elements and the
// smallest of their timestamps in ms (MaxTimestamp if there are none). A block
// that ends within an element is a fault.Corruption, and so is one with bytes
// where elements take none.
func (w *Windowed) Count(b []byte) (n int, minTimestamp int64, err error) {
	minTimestamp = MaxTimestamp
	var e Element
	for i := 0; i < len(b); i += e.Size {
		if err := w.Next(b[i:], &e); err != nil {
			return 0, 0, fault.New(fault.Corruption, "coders: element %d at byte %d of a block of %d: %w", n, i, len(b), err)
		}
		if e.Size == 0 {
			return 0, 0, fault.New(fault.Corruption, "coders: a block of %d bytes for elements that take none", len(b))
		}
		minTimestamp = min(minTimestamp, e.Timestamp)
		n++
	}
	return n, minTimestamp, nil
}

// AppendHeader appends what stands before the element in a windowed_value:
// timestamp in ms, windows and pane info. windows holds numWindows encoded
// windows; pane is an encoded pane info, such as []byte{PaneNoFiring}.
func AppendHeader(dst []byte, timestamp int64, numWindows int, windows, pane []byte) []byte {
	dst = AppendTimestamp(dst, timestamp)
	dst = binary.BigEndian.AppendUint32(dst, uint32(numWindows))
	dst = append(dst, windows...)
	return append(dst, pane...)
}
