package fnapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
)

func TestBundleCarriesDataAndTimersBothWays(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{Process: echo})
	b := newBundle(t, h, timers)
	if err := b.SendTimers(timers.Timers[1], []byte("tick ")); err != nil {
		t.Fatal(err)
	}
	if err := b.SendTimers(timers.Timers[1], []byte("tock")); err != nil {
		t.Fatal(err)
	}
	feed(t, b, "one ", "two ", strings.Repeat("x", 3<<20))
	wantEnd(t, b, map[string]string{"sink": "one two " + strings.Repeat("x", 3<<20), "pardo/g": "tick tock"})
}

func TestWholeBundleGoesOutInOneMessage(t *testing.T) {
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{WholeBundles: true}, fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
		if err := echo(b); err != nil {
			return err
		}
		b.Terminate()
		return b.Respond(&fnpb.ProcessBundleResponse{})
	}})
	for bundles := 1; bundles <= 2; bundles++ {
		b := newBundle(t, h, timers)
		if err := b.SendTimers(timers.Timers[0], []byte("tick")); err != nil {
			t.Fatal(err)
		}
		feed(t, b, "one ", "two ", "three")
		wantEnd(t, b, map[string]string{"sink": "one two three", "pardo/f": "tick"})
		if n := sdk.Messages(); n != bundles {
			t.Errorf("the input of %d bundles came in %d messages", bundles, n)
		}
	}
	b := newBundle(t, h, plain)
	if err := b.Send([]byte("never seen")); err != nil {
		t.Fatal(err)
	}
	b.Abort(context.Canceled)
	if err := b.Send([]byte("too late")); !errors.Is(err, context.Canceled) {
		t.Errorf("Send to an aborted bundle: %v", err)
	}
}

func TestEmptyBundleEndsWithEveryTerminator(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{Process: echo})
	b := newBundle(t, h, timers)
	feed(t, b)
	wantEnd(t, b, nil)
}

func TestResponseMayComeBeforeTheData(t *testing.T) {
	responded, goOn := make(chan struct{}), make(chan struct{})
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			if err := b.Drain(); err != nil {
				return err
			}
			b.Respond(&fnpb.ProcessBundleResponse{RequiresFinalization: true})
			close(responded)
			<-goOn
			return b.Emit("sink", []byte("late"))
		},
	})
	b := newBundle(t, h, plain)
	feed(t, b)
	<-responded
	// An answer that comes behind the response tells that it has arrived.
	if _, err := b.Progress(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if b.Response() != nil {
		t.Error("the bundle has ended before its output has")
	}
	close(goOn)
	wantEnd(t, b, map[string]string{"sink": "late"})
	if !b.Response().GetRequiresFinalization() {
		t.Error("the response is not the harness's")
	}
}

func TestOneMessageMayHoldPartsOfSeveralBundles(t *testing.T) {
	ids := make(chan string, 2)
	var sent sync.WaitGroup
	sent.Add(1)
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			err := b.Drain()
			ids <- b.ID
			sent.Wait()
			return err
		},
	})
	a, b := newBundle(t, h, timers), newBundle(t, h, timers)
	feed(t, a)
	feed(t, b)
	<-ids
	<-ids
	data := func(b *fnapi.Bundle, sink, text string, last bool) *fnpb.Elements_Data {
		return &fnpb.Elements_Data{InstructionId: b.ID(), TransformId: sink, Data: []byte(text), IsLast: last}
	}
	err := sdk.Send(&fnpb.Elements{
		Data: []*fnpb.Elements_Data{
			data(a, "sink", "a1 ", false), data(b, "sink", "b1 ", false), data(a, "sink2", "a2", true), data(a, "sink", "a3", false),
			{InstructionId: "i999", TransformId: "nobody", Data: []byte("dropped")}, data(b, "sink2", "b2", false),
		},
		Timers: []*fnpb.Elements_Timers{{InstructionId: b.ID(), TransformId: "pardo", TimerFamilyId: "f", Timers: []byte("t")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	sent.Done()
	wantEnd(t, a, map[string]string{"sink": "a1 a3", "sink2": "a2"})
	wantEnd(t, b, map[string]string{"sink": "b1 ", "sink2": "b2", "pardo/f": "t"})
}

func TestManyBundlesAtOnce(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{QueueBytes: 256 << 10}), fnapi.Worker{}, fnapitest.Script{Process: echo})
	var all sync.WaitGroup
	for i := range 20 {
		b := newBundle(t, h, timers)
		all.Go(func() {
			chunk := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
			for range 10 {
				if err := b.Send(chunk); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
			if err := b.CloseSend(); err != nil {
				t.Errorf("CloseSend: %v", err)
			}
		})
		all.Go(func() {
			got, err := collect(deadline(t), b)
			if want := strings.Repeat(string(rune('a'+i)), 1_000_000); err != nil || got["sink"] != want {
				t.Errorf("bundle %d: got %d bytes, %v", i, len(got["sink"]), err)
			}
		})
	}
	all.Wait()
}

func TestLostHarnessFailsItsBundles(t *testing.T) {
	started := make(chan struct{})
	h, sdk := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error { close(started); return b.Drain() },
	})
	b := newBundle(t, h, plain)
	if err := b.Send([]byte("one")); err != nil {
		t.Fatal(err)
	}
	<-started
	sdk.Kill()
	wantFailure(t, b, fault.Retryable)
	<-h.Done()
	for what, err := range map[string]error{"Err": h.Err(), "Send": b.Send([]byte("two")), "CloseSend": b.CloseSend(), "Finalize": b.Finalize(deadline(t))} {
		if err == nil || fault.ClassOf(err) != fault.Retryable {
			t.Errorf("%s: got %v, want an error of class retryable", what, err)
		}
	}
	if _, err := h.NewBundle(plain); fault.ClassOf(err) != fault.Retryable {
		t.Errorf("NewBundle: got %v, want an error of class retryable", err)
	}
}

func TestUserErrorKeepsItsWholeText(t *testing.T) {
	trace := "Traceback (most recent call last):\n" + strings.Repeat("  File \"x.py\", line 1\n", 500) + "ValueError: no"
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			b.Emit("sink", []byte("must not be seen"))
			return errors.New(trace)
		},
	})
	b := newBundle(t, h, plain)
	feed(t, b)
	if err := wantFailure(t, b, fault.UserCode); !strings.Contains(err.Error(), trace) {
		t.Errorf("the error lost text: %v", err)
	}
	if b.Response() != nil {
		t.Error("a failed bundle has a response")
	}
}

// A bundle that floods and is not read holds up the others of its harness,
// until it is aborted.
func TestAbortWhileDataFloods(t *testing.T) {
	released := make(chan error, 1)
	h, _ := newHarness(t, newServer(t, fnapi.Config{QueueBytes: 1 << 20}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			first, flood := true, false
			for in, err := range b.Input() {
				if err != nil {
					return err
				}
				if first && string(in.Data) == "flood" {
					flood = true
					for range 64 {
						if err := b.Emit("sink", make([]byte, 1<<20)); err != nil {
							return err
						}
					}
				} else if err := b.Emit("sink", in.Data); err != nil {
					return err
				}
				first = false
			}
			if flood {
				released <- nil
			}
			return nil
		},
	})
	flood := newBundle(t, h, plain)
	if err := errors.Join(flood.Send([]byte("flood")), flood.Send(make([]byte, 64<<10))); err != nil {
		t.Fatal(err)
	}
	if _, err := flood.Recv(deadline(t)); err != nil {
		t.Fatal(err)
	}
	other := newBundle(t, h, plain)
	feed(t, other, "calm")
	flood.Abort(errors.New("enough"))
	flood.Abort(errors.New("again"))
	if _, err := flood.Recv(deadline(t)); err == nil || err.Error() != "enough" {
		t.Errorf("Recv after Abort: %v", err)
	}
	if err := flood.Send([]byte("more")); err == nil || err.Error() != "enough" {
		t.Errorf("Send after Abort: %v", err)
	}
	wantEnd(t, other, map[string]string{"sink": "calm"})
	select {
	case <-released:
	case <-time.After(20 * time.Second):
		t.Error("the harness still waits for input of the aborted bundle")
	}
}

func TestAbortFreesSendThatWaits(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	h, err := s.Expect("never comes", fnapi.Worker{})
	if err != nil {
		t.Fatal(err)
	}
	addDescriptors(t, s, h)
	b := newBundle(t, h, plain)
	failed := make(chan error)
	go func() {
		for {
			if err := b.Send(make([]byte, 1000)); err != nil {
				failed <- err
				return
			}
		}
	}()
	b.Abort(errors.New("enough"))
	if err := <-failed; err.Error() != "enough" {
		t.Errorf("Send: %v", err)
	}
}

func TestEmbeddedOutput(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{QueueBytes: 1}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			if err := b.Drain(); err != nil {
				return err
			}
			return b.Respond(&fnpb.ProcessBundleResponse{Elements: &fnpb.Elements{
				Data:   []*fnpb.Elements_Data{{TransformId: "sink", Data: []byte("one ")}, {TransformId: "sink", Data: []byte("two"), IsLast: true}, {TransformId: "sink2", IsLast: true}},
				Timers: []*fnpb.Elements_Timers{{TransformId: "pardo", TimerFamilyId: "f", Timers: []byte("tick"), IsLast: true}, {TransformId: "pardo", TimerFamilyId: "g", IsLast: true}},
			}})
		},
	})
	b := newBundle(t, h, timers)
	feed(t, b)
	wantEnd(t, b, map[string]string{"sink": "one two", "pardo/f": "tick"})
	if b.Response().GetElements() != nil {
		t.Error("the response still holds the elements that went to Recv")
	}
}

func TestOutputAgainstTheProtocolFailsTheBundle(t *testing.T) {
	for name, misbehave := range map[string]func(*fnapitest.Bundle) error{
		"undeclared sink":    func(b *fnapitest.Bundle) error { return b.Emit("elsewhere", []byte("x")) },
		"undeclared family":  func(b *fnapitest.Bundle) error { return b.EmitTimers("pardo", "h", []byte("x")) },
		"after a terminator": func(b *fnapitest.Bundle) error { b.Terminate(); return b.Emit("sink", []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
				Process: func(b *fnapitest.Bundle) error {
					if err := misbehave(b); err != nil {
						return err
					}
					return b.Drain() // which ends although nobody calls CloseSend
				},
			})
			b := newBundle(t, h, timers)
			wantFailure(t, b, fault.Invalid)
		})
	}
}

func TestResponseBeforeTheEndOfInputFailsTheBundle(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(*fnapitest.Bundle) error { return nil },
	})
	b := newBundle(t, h, plain)
	wantFailure(t, b, fault.Invalid)
}

func TestInputIsSentInOrderAndTerminatedOnce(t *testing.T) {
	var got []string
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			for in, err := range b.Input() {
				if err != nil {
					return err
				}
				got = append(got, string(in.Data))
			}
			return nil
		},
	})
	b := newBundle(t, h, plain)
	var want, input []string
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		input = append(input, fmt.Sprint(i))
	}
	feed(t, b, input...)
	if err := b.CloseSend(); err != nil {
		t.Errorf("second CloseSend: %v", err)
	}
	wantEnd(t, b, nil)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("harness got %v, want %v", got, want)
	}
}

// An element may be larger than everything that holds elements up.
func TestLargeElementsTravelBothWays(t *testing.T) {
	h, _ := newHarness(t, newServer(t, fnapi.Config{QueueBytes: 1 << 20}), fnapi.Worker{}, fnapitest.Script{Process: echo})
	b := newBundle(t, h, plain)
	large := strings.Repeat("x", 40<<20)
	feed(t, b, "small", large, "small")
	got, err := collect(deadline(t), b)
	if want := "small" + large + "small"; err != nil || got["sink"] != want {
		t.Errorf("got %d bytes, %v, want %d", len(got["sink"]), err, len(want))
	}
}

// Much input does not wait for its end, in however many chunks it comes.
func TestInputGoesOutBeforeItsEnd(t *testing.T) {
	arrived := make(chan int, 1000)
	h, _ := newHarness(t, newServer(t, fnapi.Config{}), fnapi.Worker{}, fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			for in, err := range b.Input() {
				if err != nil {
					return err
				}
				arrived <- len(in.Data)
			}
			return nil
		},
	})
	b := newBundle(t, h, plain)
	const chunk, chunks = 1000, 300
	for range chunks {
		if err := b.Send(make([]byte, chunk)); err != nil {
			t.Fatal(err)
		}
	}
	for n := chunk * chunks; n >= fnapi.BatchBytes; {
		select {
		case got := <-arrived:
			n -= got
		case <-time.After(20 * time.Second):
			t.Fatalf("%d bytes are kept", n)
		}
	}
	feed(t, b)
	wantEnd(t, b, nil)
}

// A harness that takes nothing holds up those who feed its bundles, until it does or is lost.
func TestSlowHarnessHoldsUpInput(t *testing.T) {
	s := newServer(t, fnapi.Config{})
	h, err := s.Expect("worker", fnapi.Worker{})
	if err != nil {
		t.Fatal(err)
	}
	addDescriptors(t, s, h)
	conn, err := fnapitest.Dial(s.BundleEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := fnpb.NewBeamFnDataClient(conn).Data(fnapitest.WithWorkerID(deadline(t), "worker"))
	if err != nil {
		t.Fatal(err)
	}
	const chunk, most = 1 << 20, 200
	b := newBundle(t, h, plain)
	var sent atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for range most {
			if err := b.Send(make([]byte, chunk)); err != nil {
				ended <- err
				return
			}
			sent.Add(1)
		}
		ended <- nil
	}()
	stalled := func() int64 {
		for before := int64(-1); ; <-time.After(200 * time.Millisecond) {
			now := sent.Load()
			if now > 0 && now == before {
				return now
			}
			before = now
		}
	}
	before := stalled()
	if before == most {
		t.Fatalf("all %d MiB were taken from those who feed a harness that takes nothing", most)
	}
	for range before { // each message has a chunk
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if after := stalled(); after <= before || after == most {
		t.Errorf("%d MiB were sent before %d were taken, %d since", before, before, after-before)
	}
	h.Close()
	if err := <-ended; fault.ClassOf(err) != fault.Retryable {
		t.Errorf("Send, when the harness is lost: %v", err)
	}
}
