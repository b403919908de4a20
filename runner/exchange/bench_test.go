package exchange

import (
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/runner/frame"
)

// plain is a frame in memory.
type plain struct{ frame.Frame }

func (p *plain) Bytes() int                 { return p.Frame.Bytes() }
func (p *plain) Load() (frame.Frame, error) { return p.Frame, nil }
func (p *plain) Drop()                      {}
func (p *plain) Share() Stored              { return p }

// BenchmarkExchange sends frames and a watermark now and then to several inboxes, and takes and
// consumes them. An operation is one frame.
func BenchmarkExchange(b *testing.B) {
	for _, outlets := range []int{1, 8} {
		b.Run(fmt.Sprint("outlets ", outlets), func(b *testing.B) {
			s := &plain{numbered(0, 64)}
			ins := make([]*Inbox, outlets)
			to := make([]*Outlet, outlets)
			for i := range to {
				ins[i] = NewInbox(1 << 10)
				to[i] = &Outlet{To: ins[i], Channel: i}
			}
			o := NewOutbox(to)
			var taken []Message
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if err := o.Send(n%outlets, s); err != nil {
					b.Fatal(err)
				}
				if n%64 != 63 {
					continue
				}
				if err := o.Watermark(int64(n)); err != nil {
					b.Fatal(err)
				}
				for o.Waiting() > 0 || ins[0].Used() > 0 {
					for _, in := range ins {
						taken = in.Take(taken)
						for _, m := range taken {
							in.Consumed(m.Frame.Bytes())
						}
					}
					if err := o.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
