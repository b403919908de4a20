package parts

import "math"

// Spool says which panes the values of which a task keeps in files, and where they are there.
type Spool struct {
	// Last is the number that was given last.
	Last  uint64
	Panes []SpooledPane
}

// SpooledPane is a pane of a Spool.
type SpooledPane struct {
	Number uint64
	// File is its place among those of the snapshot.
	File int
	// Pages are where in it each page begins, and the end, in bytes.
	Pages []int64
}

// AppendSpool appends s.
func AppendSpool(dst []byte, s *Spool) []byte {
	e := encoder{append(dst, version)}
	e.uint(s.Last)
	for i := range s.Panes {
		p := &s.Panes[i]
		e.uint(p.Number)
		e.uint(uint64(p.File))
		e.uint(uint64(len(p.Pages)))
		last := int64(0)
		for _, at := range p.Pages {
			e.uint(uint64(at - last))
			last = at
		}
	}
	return e.out
}

// DecodeSpool returns what AppendSpool wrote. No pane has a number above Last, or less than two Pages.
func DecodeSpool(part []byte) (*Spool, error) {
	d := newDecoder(part)
	s := &Spool{Last: d.uint()}
	for d.more() {
		p := SpooledPane{Number: d.uint(), File: d.count()}
		last := int64(0)
		for n := d.count(); n > 0 && !d.bad; n-- {
			size := d.uint()
			if last += int64(size); size > math.MaxInt64 || last < 0 {
				d.fail()
			}
			p.Pages = append(p.Pages, last)
		}
		if p.Number > s.Last || len(p.Pages) < 2 {
			d.fail()
		}
		s.Panes = append(s.Panes, p)
	}
	return s, d.end("spool")
}
