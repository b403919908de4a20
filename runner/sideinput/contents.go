package sideinput

import (
	"bytes"
	"slices"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// Contents are what the windows of a pin have, each with the view of its elements, by window. They are valid until
// the pin is closed.
func (p *Pin) Contents() []Content {
	l := p.live
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Content
	for _, v := range slices.Concat(l.byEnd, l.old) {
		if v.from <= p.seen && p.seen < v.to {
			all = append(all, Content{v.window, v.view})
		}
	}
	slices.SortFunc(all, func(a, b Content) int { return strings.Compare(a.Window, b.Window) })
	return all
}

// Content is what a window has, for another Live to begin with (Live.Restore).
type Content struct {
	Window string
	view   *View
}

// contentBytes is about how much of a window's contents is read at once.
const contentBytes = 1 << 20

// Elements hands the elements of the window to visit, in nested encoding, block by block. An error of visit ends it and
// is returned.
func (c *Content) Elements(visit func(block []byte) error) error {
	if c.view.multimap {
		return c.pairs(visit)
	}
	for token := []byte(nil); ; {
		data, next, err := c.view.Iterable([]byte(c.Window), token, contentBytes)
		if err != nil {
			return err
		}
		if err := visit(data); err != nil || len(next) == 0 {
			return err
		}
		token = next
	}
}

// pairs does so for KVs: each value behind its key.
func (c *Content) pairs(visit func(block []byte) error) error {
	for token := []byte(nil); ; {
		keys, next, err := c.view.eachKey([]byte(c.Window), token)
		if err != nil {
			return err
		}
		for i := range keys {
			if err := c.pairsOf(&keys[i], visit); err != nil {
				return err
			}
		}
		if len(next) == 0 {
			return nil
		}
		token = next
	}
}

// eachKey returns the entries of some keys of a window, and the token of those behind them.
func (v *View) eachKey(window, token []byte) (keys []entry, next []byte, err error) {
	size, none := 0, []byte(nil)
	_, next, err = v.scan(window, token, tokenKeys, func(e *entry) (bool, error) {
		if size > 0 && size+len(e.key) > contentBytes {
			return false, nil
		}
		size += max(len(e.key), 1)
		keys = append(keys, entry{key: slices.Clone(e.key), count: e.count, size: e.size})
		return true, nil
	}, &none)
	return keys, next, err
}

// pairsOf visits the KVs of a key.
func (c *Content) pairsOf(e *entry, visit func(block []byte) error) error {
	if e.size == 0 { // values that take no bytes
		return visit(bytes.Repeat(e.key, int(e.count)))
	}
	for token := []byte(nil); ; {
		values, next, err := c.view.Values([]byte(c.Window), e.key, token, contentBytes)
		if err != nil {
			return err
		}
		var block []byte
		for rest := values; len(rest) > 0; {
			n, err := c.view.value.Skip(rest)
			if err != nil {
				return cutError(err, len(values)-len(rest))
			}
			if n == 0 {
				return fault.New(fault.Corruption, "side input: %d bytes of values that take none", len(rest))
			}
			block = append(append(block, e.key...), rest[:n]...)
			rest = rest[n:]
		}
		if err := visit(block); err != nil || len(next) == 0 {
			return err
		}
		token = next
	}
}

// Restore gives a window the elements that Content.Elements has yielded, all together. It shares none of their memory
// when it returns. It is called before there are panes.
func (l *Live) Restore(window string, elements []byte) error {
	return l.replace([]byte(window), elements)
}
