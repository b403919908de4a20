// Package exchange moves frames, watermarks and barriers between tasks, with credit: what
// a receiver has not consumed yet is bounded, and senders wait for room. Barriers don't:
// they go round what waits, which is the sender's still.
package exchange

import (
	"slices"
	"sync"

	"github.com/lintelrun/lintel/runner/frame"
)

// Kind says what a message is.
type Kind uint8

// Kinds of messages.
const (
	// Data is a frame.
	Data Kind = iota
	// Watermark covers all frames before it on its channel.
	Watermark
	// Barrier parts what belongs to its epoch's checkpoint from what doesn't.
	Barrier
	// Announcement says that an epoch has begun. It is told to all tasks and comes on no channel, nor do those that follow.
	Announcement
	// Complete says that the checkpoint of an epoch is.
	Complete
	// Hold asks for nothing to be begun that nobody has sent, until Resume.
	Hold
	Resume
	// Probe asks a task that holds back to say so once it is at rest.
	Probe
)

// Message is one thing on a channel, or is told to all tasks.
type Message struct {
	// Channel of the receiving task: one per edge and sending task. None of what is told to all.
	Channel int
	Kind    Kind
	// Frame of Data.
	Frame frame.Frame
	// Watermark (ms).
	Watermark int64
	// Epoch of a Barrier, an Announcement or a Complete; the number of a Hold or Probe.
	Epoch uint64
}

// Travels reports whether a task has sent it to another: it is a frame or a watermark.
func (m *Message) Travels() bool { return m.Kind == Data || m.Kind == Watermark }

// Final reports whether nothing follows on the channel: the message is the watermark of the end of time.
func (m *Message) Final() bool { return m.Kind == Watermark && m.Watermark >= frame.MaxTimestamp }

// Inbox is what a task has received and not yet consumed. Many tasks put, one
// owner takes. Its capacity counts the bytes of frames from Put to Consumed.
type Inbox struct {
	capacity int
	// C receives a token when there is something to take.
	C chan struct{}

	mu      sync.Mutex // protects what follows
	queue   []Message
	used    int
	waiting []chan struct{} // wake-ups of senders that were refused
	dropped func(*Message)  // once it is closed
}

// NewInbox returns an inbox that takes frames while less than capacity bytes are in it.
func NewInbox(capacity int) *Inbox {
	return &Inbox{capacity: capacity, C: make(chan struct{}, 1)}
}

// Capacity is how many bytes senders may put before any are consumed.
func (in *Inbox) Capacity() int { return in.capacity }

// Room reports whether a frame may be put now. If not, wake (buffered) gets a
// token once it makes sense to ask again. A frame fits when the inbox is not
// full yet, whatever its size, so that no frame is too large; several senders
// that find room at once may exceed the capacity by a frame each.
func (in *Inbox) Room(wake chan struct{}) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.used < in.capacity {
		return true
	}
	if !slices.Contains(in.waiting, wake) {
		in.waiting = append(in.waiting, wake)
	}
	return false
}

// Put delivers m. For frames ask Room before; all else fits always.
func (in *Inbox) Put(m Message) {
	in.mu.Lock()
	if in.dropped != nil {
		in.mu.Unlock()
		in.dropped(&m)
		return
	}
	if m.Kind == Data {
		in.used += m.Frame.Bytes()
	}
	in.queue = append(in.queue, m)
	in.mu.Unlock()
	notify(in.C)
}

// Take returns all messages in order of arrival, appended to buf[:0].
func (in *Inbox) Take(buf []Message) []Message {
	clear(buf)
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.queue
	in.queue = buf[:0]
	return q
}

// Close ends the taking: what is in the inbox, and all that comes later, is dropped, and
// dropped is called for each message.
func (in *Inbox) Close(dropped func(*Message)) {
	in.mu.Lock()
	q := in.queue
	in.queue, in.dropped, in.used = nil, dropped, 0
	wake := in.waiting
	in.waiting = nil
	in.mu.Unlock()
	for i := range q {
		dropped(&q[i])
	}
	for _, w := range wake {
		notify(w)
	}
}

// Consumed gives the credit of n bytes back to the senders.
func (in *Inbox) Consumed(n int) {
	if n == 0 {
		return
	}
	in.mu.Lock()
	in.used -= n
	var wake []chan struct{}
	if in.used < in.capacity {
		wake, in.waiting = in.waiting, nil
	}
	in.mu.Unlock()
	for _, w := range wake {
		notify(w)
	}
}

// Used is the number of bytes that count against the capacity.
func (in *Inbox) Used() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.used
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
