package grouping

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/grouping/spillmap"
)

// remoteBytes is about how many bytes of values one block of groups leaves behind, so that
// large groups are dealt out in portions too.
const remoteBytes = 4 << 20

// Groups is the output of a Table. It belongs to the table's goroutine and is good
// until the table is closed.
type Groups struct {
	windowing *windowing.Strategy
	cursor    *spillmap.Cursor
	values    iterable
	sessions  sessions
	// merging is set where windows are of a custom merging function.
	merging *merging
	// batches is set where values leave in batches.
	batches *batches
	// spare is memory for the next block.
	spare []byte
	// minimum timestamp and remote bytes of what the current Next has written.
	minimum int64
	remote  int64
	// estimate is about how many bytes are to come; it only guides allocation.
	estimate int64
}

// Next returns a block of encoded windowed KV<K, iterable<V>> elements of about
// maxBytes: it is at least one element, and full with the element that reaches maxBytes. Each
// element is in one window, in the pane that is on time, first and last. The block
// belongs to the caller. The error is io.EOF when none are left.
func (g *Groups) Next(maxBytes int) (frame.Frame, error) {
	g.minimum, g.remote = math.MaxInt64, 0
	dst := g.room(maxBytes)
	n := 0
	for n == 0 || len(dst) < maxBytes && g.remote < remoteBytes {
		var added int
		var err error
		if dst, added, err = g.append(dst); err == io.EOF {
			break
		} else if err != nil {
			return frame.Frame{}, err
		}
		n += added
	}
	if n == 0 {
		return frame.Frame{}, io.EOF
	}
	if err := g.values.flush(); err != nil {
		return frame.Frame{}, err
	}
	g.estimate -= int64(len(dst)) + g.remote
	return frame.Frame{Data: g.own(dst), Elements: n, MinTimestamp: g.minimum, Remote: g.remote}, nil
}

// room returns memory for a block.
func (g *Groups) room(maxBytes int) []byte {
	dst := g.spare
	g.spare = nil
	const headers = 1 << 10 // of the last group
	want := min(int64(maxBytes)+int64(min(g.values.inline, DefaultInline))+headers, g.estimate)
	if int64(cap(dst)) < want {
		dst = make([]byte, 0, want)
	}
	return dst[:0]
}

// own returns what is in a block's memory, and keeps the memory if it is much more.
func (g *Groups) own(block []byte) []byte {
	if len(block) > cap(block)/2 {
		return block
	}
	g.spare = block
	return bytes.Clone(block)
}

// append appends the next group, or the sessions of the next key, and returns their number.
func (g *Groups) append(dst []byte) ([]byte, int, error) {
	if g.batches != nil {
		return g.appendBatch(dst)
	}
	if g.merging != nil {
		return g.appendMerged(dst)
	}
	if g.sessions.large != nil {
		return g.appendLargeSession(dst)
	}
	group, err := g.cursor.Next()
	if err != nil {
		return dst, 0, err
	}
	if g.windowing.Merging {
		return g.appendSessions(dst, group)
	}
	dst, err = g.appendGroup(dst, group)
	return dst, 1, err
}

// appendGroup appends the element of a key and window. The timestamp is filled in
// last: it is known when all values have been seen.
func (g *Groups) appendGroup(dst []byte, group *spillmap.Group) ([]byte, error) {
	end, err := g.windowing.MaxTimestamp(group.Window)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	if dst, err = group.AppendKey(appendHeader(dst, 0, group.Window)); err != nil {
		return dst, err
	}
	if dst, err = g.appendValues(dst, group); err != nil {
		return dst, err
	}
	timestamp := g.windowing.Combiner.Finish(group.Timestamp, end)
	g.minimum = min(g.minimum, timestamp)
	coders.AppendTimestamp(dst[:start], timestamp)
	return dst, nil
}

// appendValues appends the iterable of a group. While it is not known to be large it is
// written where it belongs.
func (g *Groups) appendValues(dst []byte, group *spillmap.Group) ([]byte, error) {
	v := &g.values
	if v.store != nil {
		if place, size, ok := g.cursor.Retain(v.inline); ok {
			return g.appendRemote(dst, position{place: place, left: size}), nil
		}
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	first := len(dst)
	for {
		piece, err := g.cursor.Piece()
		if err == io.EOF {
			break
		}
		if err != nil {
			return dst, err
		}
		if len(dst)-first+len(piece) > v.inline {
			return g.moveValues(dst[:start], dst[first:], piece, group)
		}
		dst = append(dst, piece...)
	}
	if err := checkCount(group.Count); err != nil {
		return dst, err
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(group.Count))
	return dst, nil
}

// moveValues moves a group's values, of which some were read, and appends what stands for them.
func (g *Groups) moveValues(dst, before, piece []byte, group *spillmap.Group) ([]byte, error) {
	v := &g.values
	v.begin(group.KeyStart())
	err := v.add(before, 0)
	for err == nil {
		if err = v.add(piece, 0); err == nil {
			piece, err = g.cursor.Piece()
		}
	}
	if err != io.EOF {
		return dst, err
	}
	return g.appendIterable(dst)
}

// appendIterable appends what g.values holds.
func (g *Groups) appendIterable(dst []byte) ([]byte, error) {
	v := &g.values
	if v.moved {
		return g.appendRemote(dst, v.position()), nil
	}
	if err := checkCount(v.count); err != nil {
		return dst, err
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(v.count))
	return append(dst, v.bytes...), nil
}

// appendRemote appends an iterable of unknown length, whose values are all behind a
// token (beam:coder:state_backed_iterable:v1).
func (g *Groups) appendRemote(dst []byte, at position) []byte {
	g.remote += at.left
	dst = binary.BigEndian.AppendUint32(dst, math.MaxUint32)
	dst = binary.AppendUvarint(dst, math.MaxUint64)
	token := g.values.store.appendToken(g.values.token[:0], at)
	g.values.token = token
	dst = binary.AppendUvarint(dst, uint64(len(token)))
	return append(dst, token...)
}

// appendHeader appends what precedes the key of a group.
func appendHeader(dst []byte, timestamp int64, window []byte) []byte {
	dst = coders.AppendTimestamp(dst, timestamp)
	dst = append(dst, 0, 0, 0, 1)
	dst = append(dst, window...)
	return append(dst, coders.PaneOnTimeOnly)
}

func checkCount(n uint64) error {
	if n > math.MaxInt32 {
		return fault.New(fault.Unsupported, "grouping: a key has %d values in one window; up to %d can travel with it", n, math.MaxInt32)
	}
	return nil
}

// iterable collects the values of one group, in memory while they are few.
type iterable struct {
	// store takes the values of large groups; nil refuses them.
	store *Values
	// inline is how many bytes of values travel with their key at most.
	inline int

	key   string // its start, for errors
	bytes []byte
	count uint64
	moved bool // to the file
	start int64
	token []byte // reused
}

// begin empties it, for the values of a key that begins so.
func (v *iterable) begin(key string) {
	v.key, v.bytes, v.count, v.moved = key, v.bytes[:0], 0, false
}

// add adds count values, or parts of values, encoded.
func (v *iterable) add(b []byte, count uint64) error {
	v.count += count
	if v.moved {
		return v.store.file.append(b)
	}
	if len(v.bytes)+len(b) <= v.inline {
		v.bytes = append(v.bytes, b...)
		return nil
	}
	if v.store == nil {
		return fault.New(fault.Unsupported, "grouping: the values of key %s in one window take more than %d bytes; they must be in memory all at once, as not all that reads them knows state-backed iterables", v.key, v.inline)
	}
	v.moved, v.start = true, v.store.file.size
	if err := v.store.file.append(v.bytes); err != nil {
		return err
	}
	return v.store.file.append(b)
}

func (v *iterable) position() position {
	return position{off: v.start, left: v.store.file.size - v.start}
}

// flush makes all large groups so far readable.
func (v *iterable) flush() error {
	if v.store == nil {
		return nil
	}
	return v.store.file.flush()
}
