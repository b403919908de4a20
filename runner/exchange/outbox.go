package exchange

import (
	"slices"

	"github.com/lintelrun/lintel/runner/frame"
)

// Stored is a frame that may have been spilled. It ends by Load, which brings it
// to memory, or by Drop, which gives it up. One goroutine at a time.
type Stored interface {
	Bytes() int
	Load() (frame.Frame, error)
	Drop()
	// Share returns the same frame for another user, to whom this one's end means nothing:
	// either ends by itself, each in a goroutine of its own if need be.
	Share() Stored
}

// Receiver is the far end of a channel: an Inbox in the same process, or what
// stands for one in another. See Inbox for the contract.
type Receiver interface {
	Room(wake chan struct{}) bool
	Put(m Message)
}

// Outlet is one channel out of a task. It keeps order: what has no credit waits
// here, and all that follows on the same channel waits behind it.
type Outlet struct {
	// To is the receiving task's inbox, Channel its number of this channel.
	To      Receiver
	Channel int

	waiting []Entry
	ended   bool // the final watermark was put
}

// Entry is what waits on an outlet.
type Entry struct {
	// Frame is nil for a watermark.
	Frame     Stored
	Watermark int64 // ms
}

// Outbox is all that a task sends. One owner.
type Outbox struct {
	// Credit receives a token when a refused frame may be offered again.
	Credit chan struct{}
	// Sent, if not nil, is called for each message before it may arrive. A watermark that
	// replaces one which waits for credit is not another message.
	Sent      func()
	outlets   []*Outlet
	waiting   int // bytes
	delivered int // frames and watermarks
}

// NewOutbox returns an outbox of the given outlets; Send names them by position.
func NewOutbox(outlets []*Outlet) *Outbox {
	return &Outbox{Credit: make(chan struct{}, 1), outlets: outlets}
}

// Send puts a frame on an outlet.
func (o *Outbox) Send(outlet int, s Stored) error {
	out := o.outlets[outlet]
	out.waiting = append(out.waiting, Entry{Frame: s})
	o.waiting += s.Bytes()
	o.sent()
	return o.push(out)
}

// Watermark puts a watermark on all outlets, behind all frames sent before.
func (o *Outbox) Watermark(ts int64) error {
	for i := range o.outlets {
		if err := o.WatermarkOn(i, ts); err != nil {
			return err
		}
	}
	return nil
}

// WatermarkOn puts a watermark on one outlet.
func (o *Outbox) WatermarkOn(outlet int, ts int64) error {
	out := o.outlets[outlet]
	if n := len(out.waiting); n > 0 && out.waiting[n-1].Frame == nil {
		out.waiting[n-1].Watermark = ts
		return nil
	}
	out.waiting = append(out.waiting, Entry{Watermark: ts})
	o.sent()
	return o.push(out)
}

// Barrier puts the barrier of an epoch on all outlets, before what waits there: that is the task's still and
// part of its snapshot. It returns what waits, by outlet and in order, shared; the caller has to load or drop
// each frame. Outlets whose final watermark was delivered get no barrier: it would say nothing.
func (o *Outbox) Barrier(epoch uint64) (waiting [][]Entry) {
	waiting = make([][]Entry, len(o.outlets))
	for i, out := range o.outlets {
		if out.ended {
			continue
		}
		o.sent()
		out.To.Put(Message{Channel: out.Channel, Kind: Barrier, Epoch: epoch})
		waiting[i] = slices.Clone(out.waiting)
		for j := range waiting[i] {
			if e := &waiting[i][j]; e.Frame != nil {
				e.Frame = e.Frame.Share()
			}
		}
	}
	return waiting
}

// Restore gives an outlet what waited on it when a barrier was put (Barrier): waiting, in order; ended tells that
// the final watermark had been delivered. It is called before anything is sent, and Flush offers what waits.
func (o *Outbox) Restore(outlet int, waiting []Entry, ended bool) {
	out := o.outlets[outlet]
	out.waiting, out.ended = waiting, ended
	for _, e := range waiting {
		if e.Frame != nil {
			o.waiting += e.Frame.Bytes()
		}
		o.sent()
	}
}

func (o *Outbox) sent() {
	if o.Sent != nil {
		o.Sent()
	}
}

// Flush offers again what waits for credit.
func (o *Outbox) Flush() error {
	for _, out := range o.outlets {
		if err := o.push(out); err != nil {
			return err
		}
	}
	return nil
}

// Waiting is the number of bytes that wait for credit.
func (o *Outbox) Waiting() int { return o.waiting }

// Delivered is the number of frames and watermarks that receivers were given.
func (o *Outbox) Delivered() int { return o.delivered }

// Drop gives up all that waits. Nothing may be sent afterwards.
func (o *Outbox) Drop() {
	for _, out := range o.outlets {
		for _, e := range out.waiting {
			if e.Frame != nil {
				e.Frame.Drop()
			}
		}
		out.waiting = nil
	}
	o.waiting = 0
}

func (o *Outbox) push(out *Outlet) error {
	for len(out.waiting) > 0 {
		e := out.waiting[0]
		if e.Frame == nil {
			out.To.Put(Message{Channel: out.Channel, Kind: Watermark, Watermark: e.Watermark})
			out.ended = e.Watermark >= frame.MaxTimestamp
		} else {
			ok, err := o.offer(out, e.Frame)
			if err != nil || !ok {
				return err
			}
		}
		o.delivered++
		out.waiting[0] = Entry{}
		out.waiting = out.waiting[1:]
	}
	return nil
}

func (o *Outbox) offer(out *Outlet, s Stored) (bool, error) {
	if !out.To.Room(o.Credit) {
		return false, nil
	}
	f, err := s.Load()
	if err != nil {
		return false, err
	}
	o.waiting -= s.Bytes()
	out.To.Put(Message{Channel: out.Channel, Kind: Data, Frame: f})
	return true, nil
}
