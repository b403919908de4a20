package fnapi

import (
	"context"
	"testing"

	"github.com/lintelrun/lintel/fnapi/data"
)

// The harness's output is held up while as much is queued as may be, and no longer.
func TestOutputIsHeldUpAtTheLimit(t *testing.T) {
	h := &Harness{server: &Server{config: Config{QueueBytes: 25}}}
	stream := &dataStream{harness: h}
	b := &Bundle{
		over:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
		harness: h,
		outputs: []output{{Target: data.Target{Transform: "sink"}}},
		open:    1,
	}
	keep := func(b []byte) []byte { return b }
	receive := func() {
		b.receive(data.Part{Transform: []byte("sink"), Payload: make([]byte, 10)}, keep)
	}
	for range 3 {
		if stream.Full() {
			t.Fatalf("full with %d bytes", h.queued.Load())
		}
		receive()
	}
	for range 100 {
		if !stream.Full() {
			t.Fatalf("not full with %d bytes", h.queued.Load())
		}
		if _, err := b.Recv(context.Background()); err != nil {
			t.Fatal(err)
		}
		if stream.Full() {
			t.Fatalf("full with %d bytes", h.queued.Load())
		}
		receive()
	}
	if cap(b.queue.list) > 16 {
		t.Errorf("a queue of 3 chunks has grown to %d", cap(b.queue.list))
	}
	b.Abort(nil)
	if n := h.queued.Load(); n != 0 {
		t.Errorf("%d bytes are queued after the end", n)
	}
}
