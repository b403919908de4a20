package fnapi

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/fnapi/data"
)

// errTooLarge is for a stream that ends without a reason: all that is seen of an SDK that could
// not send what it was to.
var errTooLarge = errors.New("closed by the SDK worker while it ran bundles; if it has not ended, look for an element or a group too large: messages of the Fn API hold less than 2 GiB")

type dataService struct{ s *Server }

// Data serves the data stream of a harness, which carries the input and output
// of all its bundles; its end is the end of the harness.
func (d dataService) Data(stream *data.Stream) error {
	h, err := d.s.harness(stream.Context())
	if err != nil {
		return err
	}
	if !h.dataStream.CompareAndSwap(false, true) {
		return status.Errorf(codes.AlreadyExists, "worker %q has a data stream already", h.id)
	}
	err = d.s.serve(h.done,
		func() error { return h.readData(stream) },
		func() error { return h.writeData(stream) })
	if h.busy() && (err == nil || errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled) {
		err = errTooLarge
	}
	h.streamEnded("data", err)
	return statusOf(err)
}

// readData hands output to its bundles. It waits while their queues together are full.
func (h *Harness) readData(stream *data.Stream) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		var b *Bundle
		var id []byte
		for part, err := range data.Parts(message) {
			if err != nil {
				return err
			}
			if b == nil || !bytes.Equal(id, part.Instruction) {
				b, id = h.bundle(part.Instruction), part.Instruction
			}
			if b != nil { // otherwise it has ended; ids are never used again
				b.receive(part, int64(h.server.config.QueueBytes))
			}
		}
	}
}

// writeData writes the input of bundles. It is the stream's only sender, so
// that a bundle that ends need not wait for another one's flow control.
func (h *Harness) writeData(stream *data.Stream) error {
	for {
		select {
		case s := <-h.sends:
			if s.bundle.isOver() && !s.final {
				continue
			}
			if err := stream.Send(s.message); err != nil {
				return err
			}
		case <-h.leftovers.wake:
			for _, m := range h.leftovers.take() {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// leftoverList holds the terminators of bundles that failed before CloseSend,
// until they are written.
type leftoverList struct {
	wake chan struct{} // of capacity 1
	mu   sync.Mutex
	list []data.Message
}

func (l *leftoverList) add(m data.Message) {
	l.mu.Lock()
	l.list = append(l.list, m)
	l.mu.Unlock()
	signal(l.wake)
}

func (l *leftoverList) take() []data.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

// signal wakes the receiver of a channel of capacity 1 now or when it next looks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
