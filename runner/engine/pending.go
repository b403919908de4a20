package engine

import "github.com/lintelrun/lintel/runner/frame"

// pending is a queue of frames that knows the least of what they hold the watermark at:
// mins is the increasing sequence of minima still in the queue, so that both ends
// cost O(1) amortised.
type pending struct {
	frames   []held
	mins     []stamped
	first    uint64 // sequence number of frames[0]
	elements int
	bytes    int
}

// held is a frame and what it holds the input watermark at.
type held struct {
	frame.Frame
	hold int64
}

type stamped struct {
	seq uint64
	ts  int64
}

func (p *pending) len() int { return len(p.frames) }

// end is the sequence number of the frame that will be pushed next.
func (p *pending) end() uint64 { return p.first + uint64(p.len()) }

func (p *pending) push(f frame.Frame, hold int64) {
	seq := p.end()
	p.frames = append(p.frames, held{f, hold})
	p.elements += f.Elements
	p.bytes += f.Bytes()
	for len(p.mins) > 0 && p.mins[len(p.mins)-1].ts >= hold {
		p.mins = p.mins[:len(p.mins)-1]
	}
	p.mins = append(p.mins, stamped{seq, hold})
}

func (p *pending) front() *held { return &p.frames[0] }

func (p *pending) pop() held {
	f := p.frames[0]
	p.frames[0] = held{}
	p.frames = p.frames[1:] // append moves what is left once the room behind is used up
	if p.mins[0].seq == p.first {
		p.mins = p.mins[1:]
	}
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
func (p *pending) hold() int64 {
	if len(p.mins) == 0 {
		return frame.MaxTimestamp
	}
	return p.mins[0].ts
}
