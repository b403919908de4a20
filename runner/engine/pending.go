package engine

import "github.com/lintelrun/lintel/runner/frame"

// pending is a queue of frames that knows the least of what they hold the watermark at.
type pending struct {
	frames   []held
	mins     Minima
	first    uint64 // sequence number of frames[0]
	elements int
	bytes    int
}

// held is a frame and what it holds the input watermark at.
type held struct {
	frame.Frame
	hold int64
}

// Minima is the least of a queue of timestamps: the increasing sequence of minima still in the
// queue, so that both ends cost O(1) amortised. The zero value is empty.
type Minima struct {
	entries     []stamped
	first, next uint64 // sequence numbers: of the front, and of what is pushed next
}

type stamped struct {
	seq uint64
	ts  int64
}

// Push adds a timestamp behind the others.
func (m *Minima) Push(ts int64) {
	for len(m.entries) > 0 && m.entries[len(m.entries)-1].ts >= ts {
		m.entries = m.entries[:len(m.entries)-1]
	}
	m.entries = append(m.entries, stamped{m.next, ts})
	m.next++
}

// Pop removes the timestamp at the front. There must be one.
func (m *Minima) Pop() {
	if m.entries[0].seq == m.first {
		m.entries = m.entries[1:]
	}
	m.first++
}

// Least is the least of all, frame.MaxTimestamp if there are none.
func (m *Minima) Least() int64 {
	if len(m.entries) == 0 {
		return frame.MaxTimestamp
	}
	return m.entries[0].ts
}

func (p *pending) len() int { return len(p.frames) }

// end is the sequence number of the frame that will be pushed next.
func (p *pending) end() uint64 { return p.first + uint64(p.len()) }

func (p *pending) push(f frame.Frame, hold int64) {
	p.frames = append(p.frames, held{f, hold})
	p.elements += f.Elements
	p.bytes += f.Bytes()
	p.mins.Push(hold)
}

func (p *pending) front() *held { return &p.frames[0] }

func (p *pending) pop() held {
	f := p.frames[0]
	p.frames[0] = held{}
	p.frames = p.frames[1:] // append moves what is left once the room behind is used up
	p.mins.Pop()
	p.first++
	p.elements -= f.Elements
	p.bytes -= f.Bytes()
	return f
}

// shrink replaces the front by its tail, after its first part was taken.
func (p *pending) shrink(tail frame.Frame) {
	f := p.front()
	p.elements += tail.Elements - f.Elements
	p.bytes += tail.Bytes() - f.Bytes()
	// The known minimum stays a lower bound of the tail's.
	tail.MinTimestamp = f.MinTimestamp
	f.Frame = tail
}

// hold is the least of all, MaxTimestamp if there are none.
func (p *pending) hold() int64 { return p.mins.Least() }
