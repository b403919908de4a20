package fnapi

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/lintelrun/lintel/fnapi/data"
)

// The stream's reader waits at the limit, goes on as Recv makes room, and
// never lets more than the limit and one message queue up.
func TestReceiveWaitsAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bundle{
			over:    make(chan struct{}),
			wake:    make(chan struct{}, 1),
			harness: &Harness{room: make(chan struct{}, 1)},
			outputs: []output{{Target: data.Target{Transform: "sink"}}},
			open:    1,
		}
		const messages = 100
		received := 0
		go func() {
			for range messages {
				b.receive(data.Part{Transform: []byte("sink"), Payload: make([]byte, 10)}, 25)
				received++
			}
		}()
		for taken := range messages {
			synctest.Wait()
			if want := min(taken+3, messages); received != want || b.queue.bytes != 10*(want-taken) {
				t.Fatalf("with %d chunks taken, %d were received and %d bytes are queued, want %d chunks", taken, received, b.queue.bytes, want)
			}
			if _, err := b.Recv(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if cap(b.queue.list) > 16 {
			t.Errorf("a queue of 3 chunks has grown to %d", cap(b.queue.list))
		}
	})
}
