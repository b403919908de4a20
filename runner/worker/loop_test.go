package worker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/panes"
	"github.com/lintelrun/lintel/statebackend/memstate"
)

// reader is the far end of a task's outlet.
type reader struct{ *exchange.Inbox }

// messages takes what has come: elements, watermarks and barriers in order.
func (r reader) messages(t *testing.T, layout *coders.Windowed) (got []string, bytes int) {
	for _, m := range r.Take(nil) {
		got = append(got, printed(t, layout, m)...)
		bytes += m.Frame.Bytes()
	}
	return got, bytes
}

func printed(t *testing.T, layout *coders.Windowed, m exchange.Message) (all []string) {
	switch {
	case m.Kind == exchange.Barrier:
		return []string{fmt.Sprint("barrier ", m.Epoch)}
	case m.Final():
		return []string{"end"}
	case m.Kind == exchange.Watermark:
		return []string{fmt.Sprint("watermark ", m.Watermark)}
	}
	var el coders.Element
	for rest := m.Frame.Data; len(rest) > 0; rest = rest[el.Size:] {
		if err := layout.Next(rest, &el); err != nil {
			t.Fatal(err)
		}
		all = append(all, text(el.Key))
	}
	return all
}

// lonely is an execution for a task or two, without a plan or harnesses.
func lonely(p *plan.Plan) *execution {
	return &execution{clock: newClock(p), draining: newDraining(), stats: newProgress(p, nil), jobs: new(atomic.Int64), lives: make([]*liveSide, len(p.Stages)), large: make([]largeGroups, len(p.Stages))}
}

// everyElement is a pipeline's plan with one GroupByKey stage, whose groups fire with each element.
func everyElement(t testing.TB) (*plan.Plan, *plan.Stage) {
	p := portabletest.New()
	ws := p.Proto.Components.WindowingStrategies[portabletest.Global]
	ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
		Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}}}}
	ws.AccumulationMode, ws.OnTimeBehavior = pipepb.AccumulationMode_DISCARDING, pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
	p.ParDo("write", pEnv, pBytes, p.GroupByKey("group", p.ParDo("kv", pEnv, pKV, p.Impulse("impulse"))))
	c := compile(t, p, nil)
	return c.plan, groupStage(c)
}

// panesTo is a task of a stage that groups, with channels, that sends to a reader.
func panesTo(t testing.TB, e *execution, stage *plan.Stage, channels int, far reader) *paneTask {
	store, err := memstate.New().Open("task")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	g, err := panes.New(panes.Config{Input: stage.Group.Input, Windowing: stage.Group.Windowing, Store: store, EndGroup: keygroup.DefaultMax})
	if err != nil {
		t.Fatal(err)
	}
	own := &task{
		e: e, stage: stage, inbox: exchange.NewInbox(64 << 20), outbox: exchange.NewOutbox([]*exchange.Outlet{{To: far.Inbox}}),
		aligner: engine.NewAligner[exchange.Message](channels), routes: []route{{edge: stage.Out[0], tasks: 1}},
	}
	return &paneTask{groups: g, store: store, in: engine.NewWatermarks(channels), out: frame.MinTimestamp, task: own,
		grouped: grouped{spec: stage.Group, panes: own.sendGroups}}
}

// Messages that have come are taken in order, and their memory is used again.
func TestArrivals(t *testing.T) {
	var q arrivals
	pushed, taken := 0, 0
	for range 100 {
		for range 7 {
			q.push(arrived{Message: exchange.Message{Channel: pushed}})
			pushed++
		}
		for range 5 + 2*(pushed%2) {
			if got := q.waiting()[0].Channel; got != taken {
				t.Fatalf("message %d came after %d", got, taken-1)
			}
			q.pop()
			taken++
		}
	}
	if n := len(q.waiting()); n != pushed-taken || len(q.all) > 2*n+7 {
		t.Errorf("%d messages of %d wait, with memory for %d", n, pushed-taken, len(q.all))
	}
}

// A task that groups sees to its inbox again after a few frames, however many have come and however many fire.
func TestPanesAreNotLongAtIt(t *testing.T) {
	p, stage := everyElement(t)
	far := reader{exchange.NewInbox(64 << 20)}
	x := panesTo(t, lonely(p), stage, 1, far)
	const size = 64 << 10
	value := string(make([]byte, size))
	for i := range 5 * paneBytes / size {
		if err := x.deliver(exchange.Message{Frame: frame.Frame{Data: windowed(0, kvOf(fmt.Sprint("key ", i), value)), Elements: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.deliver(exchange.Message{Kind: exchange.Watermark, Watermark: frame.MaxTimestamp}); err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		before := len(x.input.waiting())
		var next time.Time
		var err error
		if next, done, err = x.act(t.Context()); err != nil {
			t.Fatal(err)
		}
		fired := len(far.Take(nil))
		if seen := before - len(x.input.waiting()); seen+fired > 2+paneBytes/size || !done && seen+fired == 0 {
			t.Fatalf("%d frames were taken and %d fired", seen, fired)
		}
		if done != next.IsZero() {
			t.Fatalf("done: %v, to go on at %v", done, next)
		}
	}
}

// A task whose groups fire one by one has a reader that takes nothing. It stops to fire and to take input, yet lets
// barriers through at once; its snapshot has what waits and what came before the barrier; and when
// the reader takes it all, nothing is missing and nothing doubled.
func TestPanesThatWaitForCreditLetBarriersThrough(t *testing.T) {
	p, stage := everyElement(t)
	layout := stage.Out[0].Coder

	synctest.Test(t, func(t *testing.T) {
		e := lonely(p)
		var snapshots []*snapshot
		e.snapshots = func(s *snapshot) {
			snapshots = append(snapshots, s)
			if err := s.unpin(); err != nil {
				t.Error(err)
			}
		}
		far := reader{exchange.NewInbox(1)}
		x := panesTo(t, e, stage, 2, far)
		own := x.task
		const keys = 20
		value := string(make([]byte, 200<<10))
		var want []string
		put := func(key string) {
			own.inbox.Put(exchange.Message{Frame: frame.Frame{Data: windowed(0, kvOf(key, value)), Elements: 1}})
		}
		for i := range keys {
			want = append(want, fmt.Sprint("key ", i))
			put(want[i])
		}
		own.inbox.Put(exchange.Message{Channel: 1, Kind: exchange.Watermark, Watermark: frame.MaxTimestamp})
		for _, epoch := range []uint64{1, 2} {
			own.inbox.Put(exchange.Message{Kind: exchange.Announcement, Epoch: epoch})
		}
		own.inbox.Put(exchange.Message{Kind: exchange.Barrier, Epoch: 1})
		own.inbox.Put(exchange.Message{Kind: exchange.Watermark, Watermark: frame.MaxTimestamp})
		ended := make(chan error, 1)
		go func() { ended <- loop(t.Context(), own, x) }()
		synctest.Wait()
		before := time.Now()
		own.inbox.Put(exchange.Message{Kind: exchange.Announcement, Epoch: 3}) // no channel is left to deliver its barrier
		synctest.Wait()
		if took := time.Since(before); took > 10*time.Millisecond || len(snapshots) != 3 {
			t.Fatalf("%d snapshots after %v", len(snapshots), took)
		}

		got, bytes := far.messages(t, layout)
		if len(got) < 4 || got[0] != "barrier 1" || !slices.Contains(got, "barrier 2") || got[len(got)-1] != "barrier 3" {
			t.Errorf("the reader got %q", got)
		}
		last := snapshots[2]
		waiting, unseen := 0, 0
		for _, e := range last.outbox[0] {
			waiting += len(printed(t, layout, exchange.Message{Frame: mustLoad(t, e.Frame)}))
		}
		for _, m := range last.arrived {
			unseen += m.Frame.Elements
		}
		if waiting == 0 || unseen == 0 || own.inbox.Used() < unseen*len(value) || len(got)-3+waiting+unseen > keys {
			t.Errorf("of %d elements, %d have gone, %d wait for credit and %d have not been looked at", keys, len(got)-3, waiting, unseen)
		}
		var rest []string
		for len(ended) == 0 {
			far.Consumed(bytes)
			synctest.Wait()
			rest, bytes = far.messages(t, layout)
			got = append(got, rest...)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got[len(got)-1] != "end" {
			t.Errorf("the last that came is %q", got[len(got)-1])
		}
		got = slices.DeleteFunc(got, func(s string) bool { return s[0] != 'k' })
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if used := own.inbox.Used(); used != 0 {
			t.Errorf("%d bytes of input keep their credit", used)
		}
	})
}

func mustLoad(t *testing.T, s exchange.Stored) frame.Frame {
	f, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// noting is a task that notes what its loop does with it.
type noting struct {
	*task
	quiet
	inStore
	got  []string
	next time.Time
	done func() bool
}

func (x *noting) act(context.Context) (time.Time, bool, error) {
	return x.next, x.done(), nil
}

func (x *noting) deliver(m exchange.Message) error {
	what := string(m.Frame.Data)
	if m.Kind == exchange.Watermark {
		what = fmt.Sprint("watermark ", m.Watermark)
	}
	x.got = append(x.got, fmt.Sprint(m.Channel, ": ", what))
	return nil
}

func (x *noting) snapshot(s *snapshot) error {
	x.got = append(x.got, fmt.Sprint("snapshot ", s.epoch))
	return nil
}

// What comes behind a barrier waits, with its credit, until the barrier has come on the other channels.
func TestInputIsAligned(t *testing.T) {
	e := lonely(&plan.Plan{})
	e.snapshots = (*snapshot).drop
	own := &task{e: e, inbox: exchange.NewInbox(100), outbox: exchange.NewOutbox(nil), aligner: engine.NewAligner[exchange.Message](2)}
	x := &noting{task: own}
	put := func(channel int, kind exchange.Kind, text string, n int64) {
		own.inbox.Put(exchange.Message{Channel: channel, Kind: kind, Frame: frame.Frame{Data: []byte(text)}, Watermark: n, Epoch: uint64(n)})
	}
	put(0, exchange.Data, "a", 0)
	put(0, exchange.Barrier, "", 1)
	put(0, exchange.Data, "b", 0)
	put(0, exchange.Watermark, "", 7)
	put(0, exchange.Barrier, "", 2)
	put(0, exchange.Watermark, "", frame.MaxTimestamp)
	put(1, exchange.Data, "c", 0)
	if err := receive(own, x); err != nil {
		t.Fatal(err)
	}
	if want := []string{"0: a", "1: c"}; !slices.Equal(x.got, want) || own.inbox.Used() != 3 {
		t.Errorf("came %q, want %q, and %d bytes are without credit", x.got, want, own.inbox.Used())
	}
	put(1, exchange.Barrier, "", 1)
	put(1, exchange.Watermark, "", frame.MaxTimestamp)
	put(0, exchange.Announcement, "", 1)
	put(0, exchange.Announcement, "", 2)
	put(0, exchange.Announcement, "", 3)
	if err := receive(own, x); err != nil {
		t.Fatal(err)
	}
	end := fmt.Sprint(": watermark ", frame.MaxTimestamp)
	want := []string{"0: a", "1: c", "snapshot 1", "0: b", "0: watermark 7", "1" + end, "snapshot 2", "0" + end, "snapshot 3"}
	if diff := cmp.Diff(want, x.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A task that is done goes on taking part in checkpoints as long as what it has sent waits for credit.
func TestTaskThatIsDoneTakesPartUntilAllIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := lonely(&plan.Plan{})
		var parts [][][]exchange.Entry
		e.snapshots = func(s *snapshot) { parts = append(parts, s.outbox) }
		far := exchange.NewInbox(1)
		own := &task{e: e, inbox: exchange.NewInbox(1), outbox: exchange.NewOutbox([]*exchange.Outlet{{To: far}}), aligner: engine.NewAligner[exchange.Message](0)}
		for range 2 {
			if err := own.outbox.Send(0, inMemory{frame.Frame{Data: []byte("data"), Elements: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := own.outbox.Watermark(frame.MaxTimestamp); err != nil {
			t.Fatal(err)
		}
		acted := 0
		x := &noting{task: own, done: func() bool { acted++; return true }}
		ended := make(chan error, 1)
		go func() { ended <- loop(t.Context(), own, x) }()
		own.inbox.Put(exchange.Message{Kind: exchange.Announcement, Epoch: 5})
		synctest.Wait()
		if len(ended) > 0 || len(parts) != 1 || len(parts[0][0]) != 2 || acted != 1 {
			t.Fatalf("it has ended: %v; it took %d snapshots, %v, and acted %d times", len(ended) > 0, len(parts), parts, acted)
		}
		far.Consumed(4)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		var kinds []exchange.Kind
		for _, m := range far.Take(nil) {
			kinds = append(kinds, m.Kind)
		}
		if want := []exchange.Kind{exchange.Data, exchange.Barrier, exchange.Data, exchange.Watermark}; !slices.Equal(kinds, want) {
			t.Errorf("messages of kinds %v came, want %v", kinds, want)
		}
	})
}

// What waits for credit may be followed by more: virtual time does not go on before its task has looked.
func TestTimeStandsStillUntilSendersHaveLooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := virtualClock(1)
		far := exchange.NewInbox(1)
		own := &task{e: &execution{clock: clock}, inbox: exchange.NewInbox(1), outbox: exchange.NewOutbox([]*exchange.Outlet{{To: far}}), held: 1}
		own.outbox.Sent = func() { clock.begin(1) }
		clock.begin(own.held)
		for range 2 {
			if err := own.outbox.Send(0, inMemory{frame.Frame{Data: []byte("data"), Elements: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		own.settle()
		turned := make(chan error, 1)
		go func() { turned <- clock.turn(t.Context()) }()
		far.Consumed(4)
		<-own.outbox.Credit
		if err := own.outbox.Flush(); err != nil {
			t.Fatal(err)
		}
		clock.end(len(far.Take(nil))) // the receiver is done with both
		synctest.Wait()
		if len(turned) > 0 {
			t.Error("time goes on, though the sender has yet to look what is next")
		}
		own.settle()
		if err := <-turned; err != nil {
			t.Error(err)
		}
	})
}

// The snapshot of a TestStream says how many of its events were acted, and its end is none.
func TestSnapshotsOfTestStreams(t *testing.T) {
	x := &testStreamTask{task: &task{e: &execution{clock: virtualClock(1)}, outbox: exchange.NewOutbox(nil)}}
	for want := range 3 {
		var s snapshot
		if err := x.snapshot(&s); err != nil || s.stream.Acted != want {
			t.Errorf("%d events were acted, want %d; %v", s.stream.Acted, want, err)
		}
		event := &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ProcessingTimeEvent{
			ProcessingTimeEvent: &pipepb.TestStreamPayload_Event_AdvanceProcessingTime{AdvanceDuration: 1}}}
		if want == 2 {
			event = nil
		}
		if err := x.reported(testTurn{event: event}); err != nil {
			t.Fatal(err)
		}
	}
	var s snapshot
	if err := x.snapshot(&s); err != nil || s.stream.Acted != 2 {
		t.Errorf("%d events were acted at the end; %v", s.stream.Acted, err)
	}
}
