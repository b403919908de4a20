package worker

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
)

const (
	// frameBytes is about how large the frames are that runner stages build.
	frameBytes = 512 << 10
	// partitionBytes is the same of keyed edges, where a bundle fills one for each
	// task of the next stage.
	partitionBytes = 128 << 10
)

// route is how one out edge of a task's stage reaches the tasks of the next.
type route struct {
	edge *plan.Edge
	// first is the outlet of the next stage's task 0, and tasks how many there are.
	first, tasks int
	// home is the task that Forward goes to.
	home int
	// turn is the task that the next rebalanced slice goes to.
	turn int
}

// staged is routed output that waits for its bundle's success.
type staged struct {
	outlet int
	frame  exchange.Stored
}

// staging collects the output of one attempt of a bundle, cut and routed but
// still tentative. One goroutine at a time.
type staging struct {
	spill  spiller
	sinks  map[string]*sink
	frames []staged
	bytes  int
	marks  []mark // of the chunk that was walked last
}

// sink is the output of one sink transform.
type sink struct {
	id    string
	coder *coders.Windowed
	edges []*edgeOutput
	carry []byte // the beginning of an element whose end has not arrived
}

type edgeOutput struct {
	route
	parts []partition // of keyed edges, by task
}

type partition struct {
	data     []byte
	elements int
	min      int64
	shared   bool // data is part of a chunk
}

// newStaging makes a staging for the given routes by sink transform. turn
// rotates where rebalanced output begins, so that small bundles spread too.
func newStaging(routes []route, sinks []string, turn int, spill spiller) *staging {
	s := &staging{spill: spill, sinks: make(map[string]*sink, len(sinks))}
	for _, id := range sinks {
		s.sinks[id] = &sink{id: id}
	}
	for _, r := range routes {
		k := s.sinks[r.edge.Sink]
		if k == nil {
			continue
		}
		r.turn = turn
		out := &edgeOutput{route: r}
		if r.edge.Kind == plan.Keyed {
			out.parts = make([]partition, r.tasks)
		}
		k.coder = r.edge.Coder
		k.edges = append(k.edges, out)
	}
	return s
}

// add takes a chunk of a sink's output and owns it from now on.
func (s *staging) add(sinkID string, data []byte) error {
	k := s.sinks[sinkID]
	if k == nil {
		return fault.New(fault.Invalid, "output for %q, which is no sink of the stage", sinkID)
	}
	if len(k.edges) == 0 {
		return nil
	}
	carried := len(k.carry) > 0
	if carried {
		data = append(k.carry, data...)
	}
	var whole int
	for _, e := range k.edges {
		n, err := s.cut(k, e, data)
		if err != nil {
			return fmt.Errorf("output of %s: %w", k.id, err)
		}
		whole = n
	}
	if carried && whole == 0 {
		k.carry = data // with its spare room: a large element is copied a few times only
	} else {
		k.carry = own(data, whole)
	}
	return nil
}

// own returns what follows at in a chunk: a copy if that is little, lest it keep the whole
// chunk, and never with room behind it, which may belong to others.
func own(chunk []byte, at int) []byte {
	if rest := chunk[at:]; len(rest) >= len(chunk)/2 {
		return slices.Clip(rest)
	}
	return bytes.Clone(chunk[at:])
}

// cut routes the whole elements at the beginning of data and returns their length.
func (s *staging) cut(k *sink, e *edgeOutput, data []byte) (int, error) {
	if e.edge.Kind == plan.Keyed {
		return s.cutKeyed(k, e, data)
	}
	all, err := s.walk(k.coder, data)
	if err != nil || all.Elements == 0 {
		return all.Bytes(), err
	}
	if e.edge.Kind == plan.Forward || e.tasks == 1 {
		return all.Bytes(), s.stage(e.first+e.home, all)
	}
	return all.Bytes(), s.spread(e, all)
}

// mark is some elements in a row of a chunk.
type mark struct {
	elements, end int
	low           int64
}

// maxMarks is how many marks are made of a chunk, so that it is walked once to be dealt out.
const maxMarks = 512

// walk finds the whole elements at the beginning of data, and marks them in s.marks: up
// to maxMarks one by one, and more in rows of equal number but for the last.
func (s *staging) walk(w *coders.Windowed, data []byte) (frame.Frame, error) {
	var el coders.Element
	all := frame.Frame{MinTimestamp: frame.MaxTimestamp}
	marks, row, end := s.marks[:0], 1, 0
	m := mark{low: frame.MaxTimestamp}
	for end < len(data) {
		if err := w.Next(data[end:], &el); err != nil {
			if errors.Is(err, coders.ErrShort) {
				break
			}
			return all, err
		}
		end += el.Size
		m.low = min(m.low, el.Timestamp)
		if m.elements++; m.elements < row {
			continue
		}
		m.end = end
		if marks = append(marks, m); len(marks) == maxMarks {
			marks, row = pairs(marks), 2*row
		}
		m = mark{low: frame.MaxTimestamp}
	}
	if m.elements > 0 {
		m.end = end
		marks = append(marks, m)
	}
	for _, m := range marks {
		all.Elements += m.elements
		all.MinTimestamp = min(all.MinTimestamp, m.low)
	}
	all.Data = data[:end:end]
	s.marks = marks
	return all, nil
}

// pairs makes one mark of each two, in place.
func pairs(marks []mark) []mark {
	for i := range len(marks) / 2 {
		a, b := marks[2*i], marks[2*i+1]
		marks[i] = mark{elements: a.elements + b.elements, end: b.end, low: min(a.low, b.low)}
	}
	return marks[:len(marks)/2]
}

// spread deals the elements in s.marks to the tasks in contiguous slices of about equal number.
func (s *staging) spread(e *edgeOutput, all frame.Frame) error {
	share := (all.Elements + e.tasks - 1) / e.tasks
	begin := 0
	slice := frame.Frame{MinTimestamp: frame.MaxTimestamp}
	for i, m := range s.marks {
		slice.Elements += m.elements
		slice.MinTimestamp = min(slice.MinTimestamp, m.low)
		if slice.Elements < share && i < len(s.marks)-1 {
			continue
		}
		slice.Data = all.Data[begin:m.end:m.end]
		to := e.turn % e.tasks
		e.turn++
		if err := s.stage(e.first+to, slice); err != nil {
			return err
		}
		begin, slice = m.end, frame.Frame{MinTimestamp: frame.MaxTimestamp}
	}
	return nil
}

func (s *staging) cutKeyed(k *sink, e *edgeOutput, data []byte) (int, error) {
	var el coders.Element
	off := 0
	for off < len(data) {
		if err := k.coder.Next(data[off:], &el); err != nil {
			if errors.Is(err, coders.ErrShort) {
				break
			}
			return off, err
		}
		to := 0
		if e.tasks > 1 {
			to = keygroup.Task(keygroup.Of(keygroup.Hash(el.Key), keygroup.DefaultMax), e.tasks, keygroup.DefaultMax)
		}
		p := &e.parts[to]
		if el.Size >= partitionBytes && el.Size >= len(data)/2 {
			if err := s.flush(e, to); err != nil {
				return off, err
			}
			// Most of its chunk: it leaves as it is.
			*p = partition{data: data[off : off+el.Size : off+el.Size], elements: 1, min: el.Timestamp, shared: true}
			off += el.Size
			continue
		}
		if len(p.data)+el.Size > cap(p.data) {
			if err := s.grow(e, to, el.Size, len(data)-off); err != nil {
				return off, err
			}
		}
		if p.elements == 0 {
			p.min = frame.MaxTimestamp
		}
		p.data = append(p.data, data[off:off+el.Size]...)
		p.elements++
		p.min = min(p.min, el.Timestamp)
		off += el.Size
	}
	return off, nil
}

// grow makes room for size more bytes in a partition. The first buffer is for the
// partition's share of the input, of which there are left bytes; it is replaced
// by a full-sized one, and that is staged when full.
func (s *staging) grow(e *edgeOutput, to, size, left int) error {
	p := &e.parts[to]
	if len(p.data)+size > partitionBytes && len(p.data) > 0 {
		if err := s.flush(e, to); err != nil {
			return err
		}
	}
	want := partitionBytes
	if cap(p.data) >= len(p.data)+size {
		return nil // what was in it has gone to disk
	}
	if len(p.data) == 0 {
		want = min(max(left/e.tasks+left/8, 256)+size, partitionBytes)
	}
	data := make([]byte, len(p.data), max(want, len(p.data)+size))
	copy(data, p.data)
	p.data = data
	return nil
}

func (s *staging) flush(e *edgeOutput, to int) error {
	p := &e.parts[to]
	if p.elements == 0 {
		return nil
	}
	f := frame.Frame{Data: p.data, Elements: p.elements, MinTimestamp: p.min}
	spare := p.data[:0]
	if p.shared {
		spare = nil
	}
	*p = partition{}
	if err := s.stage(e.first+to, f); err != nil {
		return err
	}
	if _, written := s.frames[len(s.frames)-1].frame.(*onDisk); written {
		p.data = spare
	}
	return nil
}

func (s *staging) stage(outlet int, f frame.Frame) error {
	st, err := s.spill.store(f)
	if err != nil {
		return err
	}
	s.bytes += f.Bytes()
	s.frames = append(s.frames, staged{outlet, st})
	return nil
}

// finish flushes what is buffered. An element without an end is corruption.
func (s *staging) finish() error {
	for _, k := range s.sinks {
		if len(k.carry) > 0 {
			return fault.New(fault.Corruption, "output of %s ends within an element, after %d bytes of it", k.id, len(k.carry))
		}
		for _, e := range k.edges {
			for to := range e.parts {
				if err := s.flush(e, to); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// discard drops everything.
func (s *staging) discard() {
	for _, f := range s.frames {
		f.frame.Drop()
	}
	s.frames = nil
}
