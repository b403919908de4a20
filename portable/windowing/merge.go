package windowing

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
)

// Merged is a window of a key that windows of it are merged into.
type Merged struct {
	// Window is the result, encoded.
	Window []byte
	// From are the windows that it is made of, encoded. One may be the result itself.
	From [][]byte
}

// A call of a function of windows is an element in the global window, at the beginning of
// time and in no pane: KV<nonce, iterable<W>> to merge (beam:transform:merge_windows:v1), or
// KV<nonce, W> to map (beam:transform:map_windows:v1). Its answer has the same nonce; here
// that is the number of the call.

// AppendMergeCall appends a call that merges windows.
func AppendMergeCall(dst []byte, call int, windows [][]byte) []byte {
	dst = appendCall(dst, call)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(windows)))
	for _, w := range windows {
		dst = append(dst, w...)
	}
	return dst
}

// AppendMapCall appends a call that maps a window.
func AppendMapCall(dst []byte, call int, window []byte) []byte {
	return append(appendCall(dst, call), window...)
}

func appendCall(dst []byte, call int) []byte {
	dst = coders.AppendHeader(dst, coders.MinTimestamp, 1, nil, []byte{coders.PaneNoFiring})
	return coders.AppendBytes(dst, strconv.AppendInt(nil, int64(call), 10))
}

// CallOf returns which call an element of a layout answers. An answer to none of the calls
// below calls is a fault.Corruption.
func CallOf(e *coders.Element, calls int) (int, error) {
	if _, n, err := coders.Varint(e.Key); err == nil {
		if call, err := strconv.Atoi(string(e.Key[n:])); err == nil && call >= 0 && call < calls {
			return call, nil
		}
	}
	return 0, fault.New(fault.Corruption, "windowing: the answer %.32x is to none of %d calls", e.Key, calls)
}

// ParseMerged reads an answer to a call that merges windows, given windows: a
// KV<iterable<W>, iterable<KV<W, iterable<W>>>> of those that stay and of those made
// of others. It returns the windows that change, each once at most as part of another; the
// result aliases answer. A fault.Corruption is what can't be read, a fault.Invalid
// what no window function may do: to forget a window, make one of two, or invent one.
func ParseMerged(answer []byte, window *coders.Coder, windows [][]byte) ([]Merged, error) {
	p := mergeParser{window: window, rest: answer, at: make(map[string]int, len(windows))}
	for _, w := range windows {
		p.at[string(w)] = open
	}
	err := p.items(func() error {
		w, err := p.next()
		if err != nil {
			return err
		}
		return p.take(w, stays)
	})
	if err == nil {
		err = p.items(p.merged)
	}
	if err == nil && len(p.rest) > 0 {
		err = fault.New(fault.Corruption, "windowing: %d bytes follow the merged windows", len(p.rest))
	}
	if err != nil {
		return nil, err
	}
	for w, at := range p.at {
		if at == open {
			return nil, fault.New(fault.Invalid, "windowing: the window function was to merge window %.64x among others and left it out", w)
		}
	}
	return p.results(), nil
}

// What has become of a window that was to be merged; or the index of its result.
const (
	open  = -1 - iota // not seen
	stays             // as it is
)

// mergeParser reads the answer of a merge.
type mergeParser struct {
	window *coders.Coder
	rest   []byte
	at     map[string]int // windows that were to be merged
	made   []Merged
	index  map[string]int // of made, by its window
}

// items calls f before each item of an iterable (beam:coder:iterable:v1): a count, or -1 and
// blocks of counted items up to an empty one.
func (p *mergeParser) items(f func() error) error {
	if len(p.rest) < 4 {
		return short()
	}
	n := uint64(binary.BigEndian.Uint32(p.rest))
	p.rest = p.rest[4:]
	blocks := n == math.MaxUint32
	for more := true; more; more = blocks && n > 0 {
		if blocks {
			count, size, err := coders.Varint(p.rest)
			if err != nil {
				return short()
			}
			n, p.rest = uint64(count), p.rest[size:]
		}
		if n > uint64(len(p.rest)) { // merging windows take bytes, as there are several
			return short()
		}
		for range n {
			if err := f(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *mergeParser) next() ([]byte, error) {
	n, err := p.window.Skip(p.rest)
	if err != nil {
		return nil, fault.New(fault.Corruption, "windowing: a merged window: %w", err)
	}
	w := p.rest[:n:n]
	p.rest = p.rest[n:]
	return w, nil
}

// take notes what becomes of a window.
func (p *mergeParser) take(w []byte, to int) error {
	switch at, ok := p.at[string(w)]; {
	case !ok:
		return fault.New(fault.Invalid, "windowing: the window function merged window %.64x, which it was not given", w)
	case at != open && at != to:
		return fault.New(fault.Invalid, "windowing: the window function used window %.64x twice as it merged windows", w)
	}
	p.at[string(w)] = to
	return nil
}

// merged reads one KV<W, iterable<W>>.
func (p *mergeParser) merged() error {
	result, err := p.next()
	if err != nil {
		return err
	}
	i, again := p.index[string(result)]
	if !again {
		if p.index == nil {
			p.index = map[string]int{}
		}
		i = len(p.made)
		p.index[string(result)] = i
		p.made = append(p.made, Merged{Window: result})
	}
	return p.items(func() error {
		w, err := p.next()
		if err != nil {
			return err
		}
		before := p.at[string(w)]
		if err := p.take(w, i); err != nil || before == i {
			return err
		}
		p.made[i].From = append(p.made[i].From, w)
		return nil
	})
}

// results leaves out what changes nothing. A window that stays and that others became is
// made of itself, too.
func (p *mergeParser) results() []Merged {
	var out []Merged
	for _, m := range p.made {
		if p.at[string(m.Window)] == stays { // 0, an index, if it was not given
			m.From = append(m.From, m.Window)
		}
		same := len(m.From) == 1 && string(m.From[0]) == string(m.Window)
		if len(m.From) > 0 && !same {
			out = append(out, m)
		}
	}
	return out
}

func short() error { return fault.Wrap(fault.Corruption, coders.ErrShort) }
