package parts

import (
	"fmt"
	"io"
	"iter"
)

// pieceBytes is how much of a part of entries is read at once, but for an entry that is larger.
const pieceBytes = 1 << 20

// Entries reads a part of so many bytes and yields its entries, in order, or an error after those before it. Such a part may be
// larger than memory: a piece of it is there at a time. Frames are the caller's.
func Entries(part io.Reader, size int64) iter.Seq2[Entry, error] {
	return entries(&pieces{part: part, left: size, piece: pieceBytes})
}

func entries(p *pieces) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var e Entry
		decode := func(d *decoder) { e = d.entry() }
		err := p.next((*decoder).version)
		for err == nil && (p.left > 0 || len(p.rest) > 0) {
			if err = p.next(decode); err == nil && !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// pieces is a part that comes bit by bit.
type pieces struct {
	part  io.Reader
	left  int64 // bytes of the part that were not read yet
	piece int
	rest  []byte // was read and not decoded
}

// next has what comes next decoded, a second time if not all of it was there.
func (p *pieces) next(decode func(*decoder)) error {
	for {
		d := decoder{rest: p.rest}
		decode(&d)
		if d.missing == 0 || d.missing > uint64(p.left) {
			p.rest = d.rest
			return d.end("entries")
		}
		if err := p.read(int(d.missing)); err != nil {
			return fmt.Errorf("snapshot: reading a part of entries: %w", err)
		}
	}
}

// read reads a piece, of so many bytes at least. What frames share is not written to again.
func (p *pieces) read(least int) error {
	n := min(p.left, int64(max(p.piece, least)))
	grown := make([]byte, len(p.rest)+int(n))
	copy(grown, p.rest)
	if _, err := io.ReadFull(p.part, grown[len(p.rest):]); err != nil {
		return err
	}
	p.rest, p.left = grown, p.left-n
	return nil
}
