package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

func (s *stored) Share() Stored { return &stored{Frame: s.Frame, err: s.err} }

// numbered is a frame of the given size that says which it is.
func numbered(n, size int) frame.Frame {
	data := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(data, uint64(n))
	return frame.Frame{Data: data, Elements: 1}
}

func numberOf(f frame.Frame) int { return int(binary.BigEndian.Uint64(f.Data)) }

// sent is a frame's number, a watermark or an epoch, on an outlet.
type sent struct {
	Kind  Kind
	Value int64
}

// One task sends to inboxes that are small. Whatever the order of events, each
// channel keeps its own; barriers go round what waits and nothing else; and whoever waits is woken
// once there is room.
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
		frames, bytes, epoch := 0, 0, uint64(0)

		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				i, size := rapid.IntRange(0, len(outlets)-1).Draw(t, "outlet"), rapid.IntRange(8, largest).Draw(t, "size")
				frames++
				if err := o.Send(i, &stored{Frame: numbered(frames, size)}); err != nil {
					t.Fatal(err)
				}
				want[i] = append(want[i], sent{Data, int64(frames)})
				bytes += size
			},
			"watermark": func(t *rapid.T) {
				frames++ // watermarks go up
				for i, out := range outlets {
					if n := len(out.waiting); n > 0 && out.waiting[n-1].Frame == nil {
						want[i] = want[i][:len(want[i])-1] // the new one stands for both
					}
					want[i] = append(want[i], sent{Watermark, int64(frames)})
				}
				if err := o.Watermark(int64(frames)); err != nil {
					t.Fatal(err)
				}
			},
			"barrier": func(t *rapid.T) {
				epoch++
				parts := o.Barrier(epoch)
				for i, out := range outlets {
					at := len(want[i]) - len(out.waiting)
					if diff := cmp.Diff(want[i][at:], part(t, parts[i]), cmpopts.EquateEmpty()); diff != "" {
						t.Fatalf("outlet %d: what waits (-want +got):\n%s", i, diff)
					}
					want[i] = slices.Insert(want[i], at, sent{Barrier, int64(epoch)})
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

// part reads what waits on an outlet, and gives it up.
func part(t *rapid.T, waiting []Entry) (all []sent) {
	for _, e := range waiting {
		if e.Frame == nil {
			all = append(all, sent{Watermark, e.Watermark})
			continue
		}
		f, err := e.Frame.Load()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sent{Data, int64(numberOf(f))})
	}
	return all
}

// expect takes m off what was sent.
func expect(t *rapid.T, want []sent, m Message) []sent {
	got := sent{m.Kind, m.Watermark}
	switch m.Kind {
	case Data:
		got.Value = int64(numberOf(m.Frame))
	case Barrier:
		got.Value = int64(m.Epoch)
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
			case m.Kind == Data && numberOf(m.Frame) != next[m.Channel]:
				t.Errorf("channel %d: frame %d, want %d", m.Channel, numberOf(m.Frame), next[m.Channel])
			case m.Kind == Data:
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
	in.Put(Message{Frame: numbered(0, 8)})
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
	in.Put(Message{Frame: numbered(1, 8)})
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
			in.Put(Message{Frame: numbered(n, 8)})
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

// A receiver that takes nothing holds up no barrier, and what it has not had is the sender's to keep: once.
func TestBarrierGoesRoundWhatWaits(t *testing.T) {
	full, ended := NewInbox(1), NewInbox(1)
	o := NewOutbox([]*Outlet{{To: full}, {To: ended}})
	messages := 0
	o.Sent = func() { messages++ }
	var frames []*stored
	for n := range 3 {
		frames = append(frames, &stored{Frame: numbered(n, 8)})
		if err := o.Send(0, frames[n]); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Watermark(frame.MaxTimestamp); err != nil {
		t.Fatal(err)
	}
	messages = 0
	waiting := o.Barrier(7)
	if messages != 1 {
		t.Errorf("%d messages for one barrier", messages)
	}
	if got := full.Take(nil); len(got) != 2 || got[1].Kind != Barrier || got[1].Epoch != 7 {
		t.Errorf("to the full inbox came %+v, want a frame and the barrier", got)
	}
	if got := ended.Take(nil); len(got) != 1 || !got[0].Final() {
		t.Errorf("behind the end of a channel came %+v", got)
	}
	if len(waiting) != 2 || len(waiting[0]) != 3 || waiting[0][2] != (Entry{Watermark: frame.MaxTimestamp}) || waiting[1] != nil {
		t.Errorf("%+v wait, want two frames and the final watermark of the first", waiting)
	}
	for _, e := range waiting[0][:2] {
		e.Frame.Drop()
	}
	full.Consumed(8)
	for <-o.Credit; o.Waiting() > 0; full.Consumed(8) {
		if err := o.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if frames[1].loaded != 1 || frames[2].loaded != 1 || frames[1].dropped+frames[2].dropped > 0 {
		t.Error("what the snapshot has was taken from the receiver, or given to it twice")
	}
	if got := full.Take(nil); len(got) != 3 || !got[2].Final() {
		t.Errorf("behind the barrier came %+v", got)
	}
	if again := o.Barrier(8); again[0] != nil || len(full.Take(nil)) != 0 {
		t.Error("a barrier came behind the end of a channel")
	}
}

// A closed inbox takes all without keeping any of it, and nobody waits for it.
func TestClosedInbox(t *testing.T) {
	in := NewInbox(1)
	in.Put(Message{Frame: frame.Frame{Data: []byte("ab"), Elements: 1}})
	in.Put(Message{Kind: Watermark, Watermark: 1})
	wake := make(chan struct{}, 1)
	if in.Room(wake) {
		t.Error("there is room in a full inbox")
	}
	dropped := 0
	in.Close(func(*Message) { dropped++ })
	if dropped != 2 || len(wake) != 1 || !in.Room(wake) {
		t.Errorf("%d messages were dropped and %d senders woken", dropped, len(wake))
	}
	in.Put(Message{Kind: Watermark, Watermark: 2})
	if dropped != 3 || len(in.Take(nil)) != 0 || in.Used() != 0 {
		t.Errorf("a message after the end is kept, %d were dropped", dropped)
	}
}
