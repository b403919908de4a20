package worker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
)

// task is one parallel instance of a stage. Its run method is the owner
// goroutine; what it holds is touched by no other.
type task struct {
	e      *execution
	stage  *plan.Stage
	index  int
	place  int // among all tasks of the job, as in rpc.Deployment.Tasks
	inbox  *exchange.Inbox
	outbox *exchange.Outbox
	routes []route
	log    *slog.Logger

	aligner *engine.Aligner[exchange.Message]
	taken   []exchange.Message // reused by take
	counts  *taskCounts        // of progress, once there is any
	// held counts what this task is at, by a virtual clock.
	held int
	// holding is the number of the hold in which the task holds back, 0 for none; probe that of the question whether it is
	// at rest, until it is; received counts frames and watermarks.
	holding, probe uint64
	received       int
	// owes is true while the task keeps input until there is a checkpoint, which counts so too.
	owes bool

	// unfinalized counts the bundles that are to be finalised once there is a checkpoint.
	unfinalized atomic.Int64

	ahead ahead
	// restoring is what the task goes on from, until it has arrived there.
	restoring *restored
	// epoch is the last whose barrier has passed. The rest is of jobs with checkpoints: files are those of the
	// store, and uploads the goroutines that write snapshots, as long as uploading lasts.
	epoch       uint64
	files       storeFiles
	uploads     sync.WaitGroup
	uploading   context.Context
	stopUploads context.CancelFunc
}

func (t *task) run(ctx context.Context) error {
	defer t.settle()
	defer t.inbox.Close(t.dropped)
	defer t.outbox.Drop()
	t.uploading, t.stopUploads = context.WithCancel(ctx)
	defer t.stopUploads()
	defer func() { t.restoring.close() }()
	from, err := t.begin(ctx)
	if err != nil {
		return err
	}
	if from != nil && from.Ended {
		return t.ending(ctx, from)
	}
	err = t.runKind(ctx, from)
	t.awaitUploads(err)
	return err
}

func (t *task) runKind(ctx context.Context, from *restored) error {
	switch t.stage.Kind {
	case plan.Impulse:
		if err := t.arrive(ctx); err != nil {
			return err
		}
		return loop(ctx, t, &impulseTask{task: t, from: from})
	case plan.TestStream:
		return t.runTestStream(ctx, from)
	case plan.GroupByKey:
		if t.stage.Group.Panes {
			return t.runPanes(ctx, from)
		}
		return t.runGroup(ctx)
	case plan.SideInput:
		return t.runSide(ctx, from)
	default:
		x, err := newExecTask(ctx, t, from)
		if err != nil {
			return err
		}
		return x.run(ctx)
	}
}

// dropped notes a message that comes when the task has ended.
func (t *task) dropped(m *exchange.Message) {
	if t.e.checkpoints != nil {
		t.e.checkpoints.stillness.dropped(m)
	}
	t.e.clock.end(1)
}

// take returns the messages that have arrived; they are valid until the next call.
func (t *task) take() []exchange.Message {
	t.taken = t.inbox.Take(t.taken)
	t.held += len(t.taken)
	return t.taken
}

// settle notes that all is done that the task was at: it is about to wait for something new. While
// output waits for credit there may be more to do when that has gone.
func (t *task) settle() {
	keep := 0
	if t.outbox.Waiting() > 0 || t.owes {
		keep = 1
	}
	t.e.clock.end(t.held - keep)
	t.held = keep
}

// collect hands all input to add and returns when the final watermark has come.
func (t *task) collect(ctx context.Context, add func(frame.Frame) error) error {
	main, _ := t.e.channels(t.stage)
	wm := engine.NewWatermarks(main)
	for !wm.Final() {
		t.settle()
		select {
		case <-t.inbox.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, m := range t.take() {
			switch m.Kind {
			case exchange.Data:
			case exchange.Watermark:
				wm.Advance(m.Channel, m.Watermark)
				continue
			default:
				return fault.New(fault.Internal, "a checkpoint of a job that was not planned for it")
			}
			t.e.spans.input(t.stage)
			if err := add(m.Frame); err != nil {
				return err
			}
			t.inbox.Consumed(m.Frame.Bytes())
		}
	}
	return nil
}

// send puts a frame of a runner stage on all of its edges.
func (t *task) send(f frame.Frame) error { return t.sendOn(t.routes, f) }

// sendOn puts a frame of a runner stage on some of its edges.
func (t *task) sendOn(routes []route, f frame.Frame) error {
	for _, r := range routes {
		if r.edge.Kind == plan.Broadcast {
			continue
		}
		st := staging{sinks: map[string]*sink{}} // not past its budget: it has none
		k := &sink{coder: r.edge.Coder}
		out := &edgeOutput{route: r}
		if r.edge.Kind == plan.Keyed {
			out.parts = make([]partition, r.tasks)
		}
		k.edges = []*edgeOutput{out}
		st.sinks[""] = k
		if err := st.add("", f.Data); err != nil {
			return err
		}
		if err := st.finish(); err != nil {
			return err
		}
		for _, s := range st.frames {
			if err := t.outbox.Send(s.outlet, s.frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// room waits until what the task has sent leaves room for more.
func (t *task) room(ctx context.Context, waiting int) error {
	for t.outbox.Waiting() > waiting {
		select {
		case <-t.outbox.Credit:
			if err := t.outbox.Flush(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// end sends the final watermark and waits until all is delivered.
func (t *task) end(ctx context.Context) error {
	if err := t.outbox.Watermark(frame.MaxTimestamp); err != nil {
		return err
	}
	return t.room(ctx, 0)
}

// impulseTask is a task that sends one empty element.
type impulseTask struct {
	*task
	inStore
	quiet
	from *restored // nil unless it has acted before
}

func (x *impulseTask) act(context.Context) (next time.Time, done bool, err error) {
	if x.from != nil && x.from.heir == nil {
		return time.Time{}, true, nil // and the rest waits for credit
	}
	if x.from == nil && x.index == 0 {
		x.e.spans.input(x.stage)
		data := coders.AppendHeader(nil, frame.MinTimestamp, 1, nil, []byte{coders.PaneNoFiring})
		data = append(data, 0) // no bytes, length-prefixed
		f := frame.Frame{Data: data, Elements: 1, MinTimestamp: frame.MinTimestamp}
		if err := x.send(f); err != nil {
			return time.Time{}, false, err
		}
		x.e.stats.made(x.task, f)
	}
	return time.Time{}, true, x.outbox.Watermark(frame.MaxTimestamp)
}

func (x *impulseTask) deliver(exchange.Message) error { return nil } // it has no channels

func (x *impulseTask) snapshot(s *snapshot) error {
	s.input, s.output = frame.MaxTimestamp, frame.MaxTimestamp // it acts before all else
	return nil
}
