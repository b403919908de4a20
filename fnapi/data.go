package fnapi

import (
	"bytes"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/fnapi/h2"
)

// errTooLarge is for a stream that ends without a reason: all that is seen of an SDK that could
// not send what it was to.
var errTooLarge = errors.New("closed by the SDK worker while it ran bundles; if it has not ended, look for an element or a group too large: messages of the Fn API hold less than 2 GiB")

// dataStream is a harness's data stream, which carries the input and output of all its bundles; its end
// is the end of the harness. The goroutine that reads the connection hands output to the bundles,
// and who feeds a bundle writes.
type dataStream struct {
	harness *Harness
	stream  *h2.Stream
	closed  chan struct{}
}

func openData(h *Harness, stream *h2.Stream) (h2.Receiver, error) {
	if !h.hasData.CompareAndSwap(false, true) {
		return nil, status.Errorf(codes.AlreadyExists, "worker %q has a data stream already", h.id)
	}
	d := &dataStream{harness: h, stream: stream, closed: make(chan struct{})}
	h.endWith(stream, d.closed)
	h.input.open(stream)
	return d, nil
}

// Receive hands output to its bundles.
func (d *dataStream) Receive(message []byte) error {
	var b *Bundle
	var id []byte
	for part, err := range data.Parts(message) {
		if err != nil {
			d.harness.streamEnded("data", err)
			return statusOf(err)
		}
		if b == nil || !bytes.Equal(id, part.Instruction) {
			b, id = d.harness.bundle(part.Instruction), part.Instruction
		}
		if b != nil { // otherwise it has ended; ids are never used again
			b.receive(part, d.stream.Keep)
		}
	}
	return nil
}

// Full is part of h2.Gate: the queues of the bundles are, all together.
func (d *dataStream) Full() bool {
	return d.harness.queued.Load() >= int64(d.harness.server.config.QueueBytes)
}

// Closed is part of h2.Receiver.
func (d *dataStream) Closed() {
	close(d.closed)
	var err error
	if d.harness.busy() {
		err = errTooLarge
	}
	d.harness.streamEnded("data", err)
}

// inputStream is a data stream as bundles see it: it comes with the first of them.
type inputStream struct {
	opened chan struct{} // closed once stream is set

	mu      sync.Mutex
	stream  *h2.Stream
	waiting []data.Message // for the stream
}

func (i *inputStream) open(stream *h2.Stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stream = stream
	stream.Batch(i.waiting...)
	i.waiting = nil
	close(i.opened)
}

// resume lets the output of bundles come again.
func (i *inputStream) resume() {
	i.mu.Lock()
	stream := i.stream
	i.mu.Unlock()
	if stream != nil { // otherwise all of it came in responses
		stream.Resume()
	}
}

// send sends messages of a bundle, or returns false if that ends before. It waits
// for the stream, and while much of the input of the harness's bundles has not been taken.
func (i *inputStream) send(b *Bundle, messages ...data.Message) bool {
	select {
	case <-i.opened:
	case <-b.over:
		return false
	}
	for crowded := i.stream.Crowded(); crowded != nil; crowded = i.stream.Crowded() {
		select {
		case <-crowded:
		case <-b.over:
			return false
		}
	}
	i.stream.Batch(messages...)
	return true
}

// sendLast sends what is little and must go out, and does not wait for anything.
func (i *inputStream) sendLast(messages ...data.Message) {
	i.mu.Lock()
	stream := i.stream
	if stream == nil {
		i.waiting = append(i.waiting, messages...)
	}
	i.mu.Unlock()
	if stream != nil {
		stream.Batch(messages...)
	}
}

// signal wakes the receiver of a channel of capacity 1 now or when it next looks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
