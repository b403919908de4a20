package fnapi

import (
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi/data"
	"github.com/lintelrun/lintel/internal/fault"
)

// chunks is the queue of a bundle's output.
type chunks struct {
	list  []Output
	next  int // list[:next] has been taken
	bytes int // of the rest
}

func (c *chunks) push(o Output) {
	if c.next > len(c.list)/2 { // close the gap, at a cost in proportion to it
		c.list, c.next = slices.Delete(c.list, 0, c.next), 0
	}
	c.list = append(c.list, o)
	c.bytes += len(o.Data)
}

func (c *chunks) pop() (Output, bool) {
	if c.empty() {
		return Output{}, false
	}
	o := c.list[c.next]
	c.list[c.next] = Output{}
	c.next++
	c.bytes -= len(o.Data)
	return o, true
}

func (c *chunks) empty() bool { return c.next == len(c.list) }

// unqueue notes that so many bytes of output are queued no more. No lock of a bundle may be held.
func (h *Harness) unqueue(bytes int) {
	limit, now := int64(h.server.config.QueueBytes), h.queued.Add(-int64(bytes))
	if now < limit && now+int64(bytes) >= limit {
		h.input.resume()
	}
}

// drop empties the queue, under the bundle's lock, and returns how many bytes are to be unqueued.
func (b *Bundle) drop() int {
	bytes := b.queue.bytes
	b.queue = chunks{}
	return bytes
}

// receive takes a part of the bundle's output, of whose payload keep returns what may be kept.
func (b *Bundle) receive(p data.Part, keep func([]byte) []byte) {
	if err := b.accept(p, keep); err != nil {
		b.end(err)
		return
	}
	b.settle()
}

// wakeBytes is how much output a bundle has ready before its end, and before those of the harness have
// half of what may be queued, that wakes its receiver.
const wakeBytes = 256 << 10

func (b *Bundle) accept(p data.Part, keep func([]byte) []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.output(p)
	if out == nil {
		return b.broken("output of transform %q, timer family %q, that its descriptor does not declare", p.Transform, p.Family)
	}
	if len(p.Payload) > 0 {
		if out.ended {
			return b.broken("output of transform %q, timer family %q, after its terminator", p.Transform, p.Family)
		}
		if b.ended {
			return nil
		}
		b.queue.push(Output{Transform: out.Transform, Timer: out.Family, Data: keep(p.Payload)})
		queued := b.harness.queued.Add(int64(len(p.Payload)))
		if b.queue.bytes >= wakeBytes || queued >= int64(b.harness.server.config.QueueBytes/2) {
			signal(b.wake)
		}
	}
	if p.Last {
		b.terminate(out)
	}
	return nil
}

func (b *Bundle) output(p data.Part) *output {
	for i := range b.outputs {
		if o := &b.outputs[i]; o.Transform == string(p.Transform) && o.Family == string(p.Family) {
			return o
		}
	}
	return nil
}

func (b *Bundle) terminate(o *output) {
	if !o.ended {
		o.ended = true
		b.open--
	}
}

// settle ends the bundle well if everything has arrived: the response, every
// terminator, every state request answered. They come on different streams, in any order.
func (b *Bundle) settle() {
	b.mu.Lock()
	complete := b.response != nil && b.open == 0 && !b.answering
	b.mu.Unlock()
	if complete {
		b.end(nil)
	}
}

// respond takes the response to the ProcessBundleRequest.
func (b *Bundle) respond(resp *fnpb.InstructionResponse, monitoring []data.MonitoringData) {
	if err := b.acceptResponse(resp, monitoring); err != nil {
		b.end(err)
		return
	}
	b.settle()
}

func (b *Bundle) acceptResponse(resp *fnpb.InstructionResponse, monitoring []data.MonitoringData) error {
	b.mu.Lock()
	b.answered = true
	b.mu.Unlock()
	if text := resp.GetError(); text != "" {
		return fault.New(fault.UserCode, "descriptor %s, %s on harness %s: %s", b.spec.Descriptor, b.id, b.harness.id, text)
	}
	pb := resp.GetProcessBundle()
	if pb == nil {
		return b.broken("a response of another kind (%T)", resp.GetResponse())
	}
	if err := b.acceptEmbedded(pb.GetElements()); err != nil {
		return err
	}
	pb.Elements = nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.sealed && !b.splitAsked {
		// Only a split lets a harness leave input unread; anything else would lose it.
		return b.broken("a response before the end of its input")
	}
	b.response, b.monitoring = pb, monitoring
	return nil
}

// acceptEmbedded takes output embedded in the response. It is all the bundle
// has, terminators included.
func (b *Bundle) acceptEmbedded(elements *fnpb.Elements) error {
	if elements == nil {
		return nil
	}
	whole := func(payload []byte) []byte { return payload }
	for _, d := range elements.GetData() {
		p := data.Part{Transform: []byte(d.GetTransformId()), Payload: d.GetData(), Last: d.GetIsLast()}
		if err := b.accept(p, whole); err != nil {
			return err
		}
	}
	for _, t := range elements.GetTimers() {
		p := data.Part{Transform: []byte(t.GetTransformId()), Family: []byte(t.GetTimerFamilyId()), Payload: t.GetTimers(), Last: t.GetIsLast()}
		if err := b.accept(p, whole); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.outputs {
		b.terminate(&b.outputs[i])
	}
	return nil
}

// broken is the error of a harness that breaks the protocol within one bundle.
func (b *Bundle) broken(format string, args ...any) error {
	return fault.New(fault.Invalid, "descriptor %s, %s: harness %s sent "+format,
		append([]any{b.spec.Descriptor, b.id, b.harness.id}, args...)...)
}
