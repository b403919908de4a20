package worker

import (
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// BenchmarkPaneTask groups small frames, of an element each, whose groups all fire. An operation is one frame.
func BenchmarkPaneTask(b *testing.B) {
	p, stage := everyElement(b)
	far := reader{exchange.NewInbox(64 << 10)}
	x := panesTo(b, lonely(p), stage, 1, far)
	x.inbox = exchange.NewInbox(1 << 20)
	go func() {
		wake := make(chan struct{}, 1)
		for i := range b.N {
			for !x.inbox.Room(wake) {
				<-wake
			}
			data := windowed(0, kvOf(fmt.Sprint("key ", i%1000), "v"))
			x.inbox.Put(exchange.Message{Frame: frame.Frame{Data: data, Elements: 1}})
		}
		x.inbox.Put(exchange.Message{Kind: exchange.Watermark, Watermark: frame.MaxTimestamp})
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var taken []exchange.Message
		for final := false; !final; {
			<-far.C
			taken = far.Take(taken)
			for _, m := range taken {
				far.Consumed(m.Frame.Bytes())
				final = m.Final()
			}
		}
	}()
	b.ReportAllocs()
	b.ResetTimer()
	if err := loop(b.Context(), x.task, x); err != nil {
		b.Fatal(err)
	}
	<-ended
}
