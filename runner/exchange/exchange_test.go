package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

// stored is a frame that knows what became of it.
type stored struct {
	frame.Frame
	loaded, dropped int
	err             error
}

func (s *stored) Bytes() int { return s.Frame.Bytes() }

func (s *stored) Load() (frame.Frame, error) {
	s.loaded++
	return s.Frame, s.err
}

func (s *stored) Drop() { s.dropped++ }

// numbered is a frame of the given size that says which it is.
func numbered(n, size int) frame.Frame {
	data := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(data, uint64(n))
	return frame.Frame{Data: data, Elements: 1}
}

func numberOf(f frame.Frame) int { return int(binary.BigEndian.Uint64(f.Data)) }

// sent is a frame's number, or a watermark, on an outlet.
type sent struct {
	Watermark bool
	Value     int64
}

// One task sends to inboxes that are small. Whatever the order of events, each
// channel keeps its own; and whoever waits is woken once there is room.
func TestOutboxAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const largest = 40
		inboxes := make([]*Inbox, rapid.IntRange(1, 3).Draw(t, "inboxes"))
		for i := range inboxes {
			inboxes[i] = NewInbox(rapid.IntRange(1, 100).Draw(t, "capacity"))
		}
		outlets := make([]*Outlet, rapid.IntRange(1, 4).Draw(t, "outlets"))
		to := make([]int, len(outlets))
		for i := range outlets {
			to[i] = rapid.IntRange(0, len(inboxes)-1).Draw(t, "to")
			outlets[i] = &Outlet{To: inboxes[to[i]], Channel: i}
		}
		o := NewOutbox(outlets)
		want := make([][]sent, len(outlets)) // not yet taken, by outlet
		held := make([]int, len(inboxes))    // bytes taken and not yet consumed
		frames, bytes := 0, 0

		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				i, size := rapid.IntRange(0, len(outlets)-1).Draw(t, "outlet"), rapid.IntRange(8, largest).Draw(t, "size")
				frames++
				if err := o.Send(i, &stored{Frame: numbered(frames, size)}); err != nil {
					t.Fatal(err)
				}
				want[i] = append(want[i], sent{Value: int64(frames)})
				bytes += size
			},
			"watermark": func(t *rapid.T) {
				frames++ // watermarks go up
				if err := o.Watermark(int64(frames)); err != nil {
					t.Fatal(err)
				}
				for i := range want {
					want[i] = append(want[i], sent{true, int64(frames)})
				}
			},
			"take": func(t *rapid.T) {
				i := rapid.IntRange(0, len(inboxes)-1).Draw(t, "inbox")
				for _, m := range inboxes[i].Take(nil) {
					if to[m.Channel] != i {
						t.Fatalf("channel %d ends at inbox %d, not %d", m.Channel, to[m.Channel], i)
					}
					held[i] += m.Frame.Bytes()
					bytes -= m.Frame.Bytes()
					want[m.Channel] = expect(t, want[m.Channel], m)
				}
			},
			"consume": func(t *rapid.T) {
				i := rapid.IntRange(0, len(inboxes)-1).Draw(t, "inbox")
				n := rapid.IntRange(0, held[i]).Draw(t, "bytes")
				held[i] -= n
				inboxes[i].Consumed(n)
			},
			"flush": func(t *rapid.T) {
				select {
				case <-o.Credit:
					if err := o.Flush(); err != nil {
						t.Fatal(err)
					}
				default:
				}
			},
			"": func(t *rapid.T) {
				inside, free := 0, false
				for i, in := range inboxes {
					if in.used >= in.capacity+largest {
						t.Fatalf("inbox %d of %d bytes holds %d", i, in.capacity, in.used)
					}
					inside += in.used - held[i]
					for j, out := range outlets {
						free = free || to[j] == i && len(out.waiting) > 0 && in.used < in.capacity
					}
				}
				if o.Waiting() != bytes-inside {
					t.Fatalf("%d bytes wait, want %d", o.Waiting(), bytes-inside)
				}
				if free && len(o.Credit) == 0 {
					t.Fatal("an outlet waits though there is room, and nobody tells")
				}
			},
		})
	})
}

// expect takes m off what was sent. Of watermarks with nothing in between, the last may stand for all.
func expect(t *rapid.T, want []sent, m Message) []sent {
	got := sent{true, m.Watermark}
	if m.Data {
		got = sent{false, int64(numberOf(m.Frame))}
	}
	for len(want) > 0 && want[0] != got && want[0].Watermark && len(want) > 1 && want[1].Watermark {
		want = want[1:]
	}
	if len(want) == 0 || want[0] != got {
		t.Fatalf("channel %d: %+v came, want %+v", m.Channel, got, want)
	}
	return want[1:]
}

// Many tasks send to one with a small inbox. Under synctest a lost wake-up is a deadlock.
func TestManySendersLoseNoWakeup(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { manySenders(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func manySenders(t *testing.T, r *rand.Rand) {
	const frames, largest = 300, 64
	senders, receivers := 1+r.IntN(8), 1+r.IntN(3)
	inboxes := make([]*Inbox, receivers)
	for i := range inboxes {
		inboxes[i] = NewInbox(1 + r.IntN(200))
	}
	var running sync.WaitGroup
	for s := range senders {
		var outlets []*Outlet
		for _, in := range inboxes {
			outlets = append(outlets, &Outlet{To: in, Channel: s})
		}
		seed := r.Uint64()
		running.Go(func() { sendAll(t, NewOutbox(outlets), frames, largest, rand.New(rand.NewPCG(seed, 1))) })
	}
	for _, in := range inboxes {
		seed := r.Uint64()
		running.Go(func() { receiveAll(t, in, senders, frames, largest, rand.New(rand.NewPCG(seed, 2))) })
	}
	running.Wait()
}

// sendAll sends numbered frames to all outlets, a watermark after each.
func sendAll(t *testing.T, o *Outbox, frames, largest int, r *rand.Rand) {
	for n := range frames {
		for i := range o.outlets {
			if err := o.Send(i, &stored{Frame: numbered(n, 8+r.IntN(largest-8))}); err != nil {
				t.Error(err)
			}
		}
		if err := o.Watermark(int64(n)); err != nil {
			t.Error(err)
		}
		for o.Waiting() > 100 {
			<-o.Credit
			if err := o.Flush(); err != nil {
				t.Error(err)
			}
		}
	}
	for o.Waiting() > 0 {
		<-o.Credit
		if err := o.Flush(); err != nil {
			t.Error(err)
		}
	}
}

func receiveAll(t *testing.T, in *Inbox, senders, frames, largest int, r *rand.Rand) {
	next := make([]int, senders)
	var taken []Message
	held := 0
	for ended := 0; ended < senders; {
		<-in.C
		taken = in.Take(taken)
		if used := in.Used(); used >= in.capacity+senders*largest {
			t.Errorf("%d bytes in an inbox of %d", used, in.capacity)
		}
		for _, m := range taken {
			switch {
			case m.Data && numberOf(m.Frame) != next[m.Channel]:
				t.Errorf("channel %d: frame %d, want %d", m.Channel, numberOf(m.Frame), next[m.Channel])
			case m.Data:
				next[m.Channel]++
				held += m.Frame.Bytes()
			case m.Watermark >= int64(next[m.Channel]):
				t.Errorf("channel %d: watermark %d before its frame", m.Channel, m.Watermark)
			case m.Watermark == int64(frames-1):
				ended++
			}
		}
		if r.IntN(2) == 0 || len(in.C) == 0 { // now and then hold on to it a little longer
			in.Consumed(held)
			held = 0
		}
	}
	if in.used != held {
		t.Errorf("%d bytes in use at the end, %d not given back", in.used, held)
	}
}

func TestFrameLargerThanTheInboxFits(t *testing.T) {
	in := NewInbox(10)
	o := NewOutbox([]*Outlet{{To: in}})
	for n := range 2 {
		if err := o.Send(0, &stored{Frame: numbered(n, 1000)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(in.Take(nil)); got != 1 {
		t.Fatalf("%d frames came, want one", got)
	}
	in.Consumed(990) // the inbox is as full as may be
	if len(o.Credit) != 0 {
		t.Fatal("woken though there is no room")
	}
	in.Consumed(1)
	<-o.Credit
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := len(in.Take(nil)); got != 1 {
		t.Fatalf("%d frames came after there was room, want the other one", got)
	}
}

// A sender that is refused many times is told once, and not again for nothing.
func TestRefusedSenderIsNotedOnce(t *testing.T) {
	in := NewInbox(1)
	in.Put(Message{Data: true, Frame: numbered(0, 8)})
	wake := make(chan struct{}, 1)
	for range 3 {
		if in.Room(wake) {
			t.Fatal("room in a full inbox")
		}
	}
	if len(in.waiting) != 1 {
		t.Errorf("noted %d times", len(in.waiting))
	}
	in.Consumed(8)
	<-wake
	in.Put(Message{Data: true, Frame: numbered(1, 8)})
	in.Consumed(8)
	if len(wake) != 0 {
		t.Error("woken without having asked")
	}
}

func TestTakeReusesItsBuffer(t *testing.T) {
	in := NewInbox(1 << 20)
	var buf []Message
	put := func() {
		for n := range 8 {
			in.Put(Message{Data: true, Frame: numbered(n, 8)})
		}
	}
	put()
	buf = in.Take(buf)
	first := &buf[0]
	put()
	buf = in.Take(buf)
	put()
	buf = in.Take(buf)
	if len(buf) != 8 || &buf[0] != first {
		t.Errorf("%d messages, in a new buffer: %v", len(buf), &buf[0] != first)
	}
	if got := in.Take(buf); len(got) != 0 {
		t.Errorf("%d messages came twice", len(got))
	}
	if diff := cmp.Diff(Message{}, *first); diff != "" {
		t.Errorf("a taken frame is still referred to: %s", diff)
	}
}

func TestLoadErrorStopsTheOutlet(t *testing.T) {
	in := NewInbox(100)
	o := NewOutbox([]*Outlet{{To: in}})
	broken := errors.New("disk on fire")
	if err := o.Send(0, &stored{Frame: numbered(0, 8), err: broken}); !errors.Is(err, broken) {
		t.Fatalf("error %v, want %v", err, broken)
	}
	if got := in.Take(nil); len(got) != 0 {
		t.Errorf("%d messages came", len(got))
	}
}

// Frames end by Load or by Drop, each once: they may hold files open.
func TestDropGivesUpWhatWaits(t *testing.T) {
	in := NewInbox(1)
	o := NewOutbox([]*Outlet{{To: in}, {To: in}})
	var all []*stored
	for n := range 6 {
		s := &stored{Frame: numbered(n, 8)}
		all = append(all, s)
		if err := o.Send(n%2, s); err != nil {
			t.Fatal(err)
		}
		if err := o.Watermark(int64(n)); err != nil {
			t.Fatal(err)
		}
	}
	o.Drop()
	o.Drop()
	for n, s := range all {
		if n == 0 && (s.loaded != 1 || s.dropped != 0) || n > 0 && (s.loaded != 0 || s.dropped != 1) {
			t.Errorf("frame %d: loaded %d times, dropped %d times", n, s.loaded, s.dropped)
		}
	}
	if o.Waiting() != 0 {
		t.Errorf("%d bytes wait still", o.Waiting())
	}
}

// A closed inbox takes all without keeping any of it, and nobody waits for it.
func TestClosedInbox(t *testing.T) {
	in := NewInbox(1)
	in.Put(Message{Data: true, Frame: frame.Frame{Data: []byte("ab"), Elements: 1}})
	in.Put(Message{Watermark: 1})
	wake := make(chan struct{}, 1)
	if in.Room(wake) {
		t.Error("there is room in a full inbox")
	}
	dropped := 0
	in.Close(func() { dropped++ })
	if dropped != 2 || len(wake) != 1 || !in.Room(wake) {
		t.Errorf("%d messages were dropped and %d senders woken", dropped, len(wake))
	}
	in.Put(Message{Watermark: 2})
	if dropped != 3 || len(in.Take(nil)) != 0 || in.Used() != 0 {
		t.Errorf("a message after the end is kept, %d were dropped", dropped)
	}
}
