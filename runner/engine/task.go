// Package engine is the pure core of tasks: a state machine of events in and
// actions out, in the manner of etcd's raft. It starts no goroutine, reads no
// clock, does no I/O and knows no protobuf; the worker around it does all that.
package engine

import (
	"fmt"
	"math"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/invariant"
	"github.com/lintelrun/lintel/runner/frame"
)

// Config of a Task. The zero value of a limit means its default.
type Config struct {
	// Main and Side are the numbers of input channels with elements and with
	// the watermarks of side inputs.
	Main, Side int
	// InFlight is the number of bundles that may run at once (default 2, or 8 of
	// unbounded work, which often waits for something outside).
	InFlight int
	// Attempts is how often a bundle is tried before the task fails (default 4).
	Attempts int
	// Limits of one bundle.
	Limits Limits
	// Fill is how many bytes of input a bundle waits for, unless all has come; 0 for none.
	// It must be less than what the task's senders may send ahead.
	Fill int
	// SplitAfter is how long a bundle runs before it may be split for idle
	// tasks (default 500 ms).
	SplitAfter time.Duration
	// Splittable is true where the stage's root is a splittable DoFn, whose bundles
	// are interrupted as Checkpoints says and when the job is drained.
	Splittable  bool
	Checkpoints Checkpoints
	// Bounded is true where the input comes to an end and none of it is late: the output
	// watermark stays at the beginning of time until all is done.
	Bounded bool
	// Timers of a stateful task, which runs one bundle at a time unless InFlight
	// says otherwise; nil for others.
	Timers Timers
	// Rounds is true where Timers fire in rounds only: those of Seal and Open.
	Rounds bool
	// Cut returns the length in bytes of the first n elements of data.
	Cut func(data []byte, n int) (int, error)
	// Restore, if not nil, is what the task goes on from, of a task with as many channels. Whoever keeps
	// input for later frames calls Buffered before anything else.
	Restore *Snapshot
}

// BundleID numbers the bundles of a task; an attempt keeps its bundle's number.
type BundleID uint64

// Result of a bundle that succeeded.
type Result struct {
	Residuals []Residual
	// OutputBytes that the bundle staged, all edges together.
	OutputBytes int
}

// Bundle is the input of one ProcessBundle.
type Bundle struct {
	ID      BundleID
	Attempt int // from 1
	Frames  []frame.Frame
	// Timers that fire in the bundle; then there are no Frames.
	Timers []Timer
	// Elements and Bytes of all frames.
	Elements, Bytes int
	// Remote bytes of all frames: they count as work, and take no memory here.
	Remote int64

	// Truncate is true where the job is drained: the harness truncates the
	// elements before it processes them.
	Truncate bool

	hold      int64    // of the output watermark, by residuals in it
	inputHold int64    // of the input watermark, by input in it
	residual  bool     // made of residuals
	origins   []origin // of residuals, by frame
	truncated bool     // they come of truncated elements
	// rest is what interruptions have cut off its elements: input once the bundle has ended.
	// What a source without end shares among its parts, such as a connection, is often
	// not made for two of them at once.
	rest []delayed

	// Of the attempt that runs: what was sent, and how many elements of it the
	// bundle still has after splits.
	started             time.Time
	sent                []frame.Frame
	sentOrigins         []origin
	sentElements, bound int
	splitting, cut      bool
	splitPause          time.Duration
	nextSplit           time.Time
	paced               time.Duration // the pace when it began
	checkpointPause     time.Duration
	nextCheckpoint      time.Time
	interrupted         time.Time // when it was asked first to give back what remains
	moved               bool      // what it gave back is other work than it got
}

// Ready is what the worker has to do next, in the order of the fields.
type Ready struct {
	// Consumed bytes of input were committed; their credit may go back.
	Consumed int
	// Start these bundles. What an attempt needs of one must be read before the
	// next call, since splits change it.
	Start []*Bundle
	// Splits to ask for; Task.Split takes the answers.
	Splits []SplitRequest
	// Watermark to send after all output so far; valid if Advanced.
	Watermark int64
	Advanced  bool
	// Wake, if not zero, is when Tick is wanted.
	Wake time.Time
	// Done: all input was processed and the final watermark is out.
	Done bool
}

// Task is the core of one task of an executable stage. It has one owner.
type Task struct {
	cfg      Config
	main     *Watermarks
	side     *Watermarks
	inbox    pending
	retries  []*Bundle
	delayed  []delayed
	running  map[BundleID]*Bundle
	sizer    sizer
	pace     pace
	draining bool
	turn     bool // of residuals, before new input
	nextID   BundleID
	consumed int
	buffered int64
	input    int64
	marks    marks // of the main watermark in the inbox, where there are timers
	output   int64
	idle     int
	spare    int
	blocked  bool
	held     bool
	heldAt   time.Time
	done     bool
	round    Round
	sealed   bool // and not yet open
}

// NewTask returns a task at the beginning of time, or at the moment of a snapshot.
func NewTask(cfg Config) *Task {
	if cfg.InFlight == 0 {
		cfg.InFlight = 2
		switch {
		case cfg.Timers != nil:
			cfg.InFlight = 1
		case cfg.Checkpoints.Unbounded:
			cfg.InFlight = 8
		}
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 4
	}
	if cfg.SplitAfter == 0 {
		cfg.SplitAfter = 500 * time.Millisecond
	}
	restore := cfg.Restore
	cfg.Restore = nil // it may be large
	t := &Task{
		marks:    marks{last: frame.MinTimestamp},
		cfg:      cfg,
		main:     NewWatermarks(cfg.Main),
		side:     NewWatermarks(cfg.Side),
		running:  map[BundleID]*Bundle{},
		sizer:    newSizer(cfg.Limits, cfg.Bounded),
		pace:     newPace(cfg.Checkpoints),
		output:   frame.MinTimestamp,
		input:    frame.MinTimestamp,
		buffered: math.MaxInt64,
		round:    Round{Watermark: frame.MinTimestamp},
	}
	if restore != nil {
		t.restore(restore)
	}
	return t
}

// Frame puts input into the inbox that came after its channels' watermark behind. Empty frames
// are consumed at once.
//
// Until it is committed, input holds the input watermark: what is on time by its timestamps, and
// what is late at behind. The watermark so passes the end of no window while elements wait that
// came before that, and moves on however many late ones follow.
func (t *Task) Frame(f frame.Frame, behind int64) {
	if f.Elements == 0 {
		t.consumed += f.Bytes()
		return
	}
	t.inbox.push(f, max(f.MinTimestamp, behind))
}

// Watermark notes the watermark of a main channel.
func (t *Task) Watermark(channel int, ts int64) {
	if t.main.Advance(channel, ts) && t.cfg.Timers != nil && !t.cfg.Rounds {
		t.marks.add(t.inbox.end(), t.main.Min())
	}
}

// SideWatermark notes how far a side input is complete.
func (t *Task) SideWatermark(channel int, ts int64) { t.side.Advance(channel, ts) }

// SidesReady reports whether all side inputs are complete. Until then nothing is started.
func (t *Task) SidesReady() bool { return t.side.Final() }

// Block stops (or allows again) the start of bundles while the output waits for credit.
func (t *Task) Block(blocked bool) { t.blocked = blocked }

// Pending is the number of bytes of input that wait for a bundle.
func (t *Task) Pending() int { return t.inbox.bytes }

// Succeeded commits a bundle. The worker has already put its output in order
// before any later watermark. It returns the input that is done with: the bundle's, but for what
// splits have taken from it. Unknown bundles are an error of the caller.
func (t *Task) Succeeded(id BundleID, r Result, now time.Time) []frame.Frame {
	b := t.running[id]
	invariant.Check(b != nil, "bundle %d is not running", id)
	delete(t.running, id)
	t.consumed += b.Bytes
	t.sizer.observe(b, now.Sub(b.started), r.OutputBytes)
	for _, res := range r.Residuals {
		b.note(&res)
		res.truncated = b.Truncate || b.truncated || b.parts() == len(b.origins) && b.parts() > 0
		t.delay(res, now)
	}
	t.delayed = append(t.delayed, b.rest...)
	t.pace.observe(b, r.OutputBytes, now)
	return b.Frames
}

// Failed gives a bundle back for another attempt, or returns the error that
// fails the task when the attempts are used up.
func (t *Task) Failed(id BundleID, cause error) error {
	b := t.running[id]
	invariant.Check(b != nil, "bundle %d is not running", id)
	delete(t.running, id)
	if b.Attempt >= t.cfg.Attempts {
		return fault.Wrap(fault.ClassOf(cause), fmt.Errorf("bundle failed %d times, last with: %w", b.Attempt, cause))
	}
	b.Attempt++
	t.retries = append(t.retries, b)
	if t.draining {
		t.sever(b)
	}
	return nil
}

// Withdraw gives up a bundle that has fired too many timers: it has never been.
func (t *Task) Withdraw(id BundleID) {
	b := t.running[id]
	invariant.Check(b != nil, "bundle %d is not running", id)
	invariant.Check(len(b.Frames) == 0, "bundle %d has elements", id)
	delete(t.running, id)
	t.cfg.Timers.GiveBack(b.Timers)
}

// Ready computes what to do at the time now. The returned bundles count as running.
func (t *Task) Ready(now time.Time) (Ready, error) {
	r := Ready{Consumed: t.consumed}
	t.consumed = 0
	for t.starts() && len(t.running) < t.cfg.InFlight+t.idle+t.spare {
		b, err := t.next(now)
		if err != nil {
			return r, err
		}
		if b == nil {
			break
		}
		t.begin(b, now)
		r.Start = append(r.Start, b)
	}
	r.Splits, r.Wake = t.splits(now)
	if wm := t.outputWatermark(); wm > t.output {
		t.output = wm
		r.Watermark, r.Advanced = wm, true
	}
	if at := t.wake(now); r.Wake.IsZero() || !at.IsZero() && at.Before(r.Wake) {
		r.Wake = at
	}
	if !t.done && t.output >= frame.MaxTimestamp {
		invariant.Check(!t.busy(), "done with work left")
		t.done = true
		r.Done = true
	}
	return r, nil
}

// next takes the input of one bundle: retries first, then residuals that are
// due, then the inbox up to the limits.
func (t *Task) next(now time.Time) (*Bundle, error) {
	if n := len(t.retries); n > 0 {
		b := t.retries[0]
		t.retries = t.retries[1:]
		return b, nil
	}
	// Unbounded work comes back for ever: new input must have its turn.
	if t.turn = !t.turn || t.inbox.len() == 0 || !t.pace.Unbounded; t.turn {
		if b := t.due(now); b != nil {
			return b, nil
		}
	}
	if b, err := t.timers(now); b != nil || err != nil {
		return b, err
	}
	if t.inbox.len() == 0 || t.inbox.bytes < t.cfg.Fill && !t.main.Final() && !t.held {
		return nil, nil
	}
	b := t.newBundle()
	most := t.share(t.inbox.elements)
	for t.inbox.len() > 0 && b.Elements < most && int64(b.Bytes)+b.Remote < int64(t.sizer.limits.Bytes) {
		f := t.inbox.front()
		if b.Elements > 0 && f.Empty != b.Empty() {
			break
		}
		room := most - b.Elements
		if f.Elements <= room {
			f := t.inbox.pop()
			b.add(f.Frame, f.hold)
			continue
		}
		n, err := t.cfg.Cut(f.Data, room)
		if err != nil {
			return nil, fmt.Errorf("cut %d elements off a frame: %w", room, err)
		}
		remote := f.Remote / int64(f.Elements) * int64(room)
		b.add(frame.Frame{Data: f.Data[:n:n], Elements: room, MinTimestamp: f.MinTimestamp, Remote: remote, Empty: f.Empty}, f.hold)
		t.inbox.shrink(frame.Frame{Data: f.Data[n:], Elements: f.Elements - room, Remote: f.Remote - remote, Empty: f.Empty})
	}
	return b, nil
}

// timers makes a bundle of the timers that are due. They fire after the elements that
// came before the watermark by which they are due, and before those that came after it.
func (t *Task) timers(now time.Time) (*Bundle, error) {
	if t.cfg.Timers == nil {
		return nil, nil
	}
	watermark, clock := min(t.InputWatermark(), t.marks.passed(t.inbox.first)), t.clock(now)
	if t.cfg.Rounds {
		if !t.round.Firing || t.sealed {
			return nil, nil
		}
		watermark, clock = t.round.Watermark, t.round.Clock
	}
	due, err := t.cfg.Timers.Due(watermark, clock, t.sizer.elements)
	if err != nil || len(due) == 0 {
		t.round.Firing = false
		return nil, err
	}
	b := t.newBundle()
	b.Timers = due
	return b, nil
}

func (t *Task) newBundle() *Bundle {
	t.nextID++
	return &Bundle{ID: t.nextID, Attempt: 1, hold: frame.MaxTimestamp, inputHold: frame.MaxTimestamp}
}

// Empty tells whether the bundle is of frames that are Empty: all are, or none.
func (b *Bundle) Empty() bool { return len(b.Frames) > 0 && b.Frames[0].Empty }

func (b *Bundle) add(f frame.Frame, hold int64) {
	b.Frames = append(b.Frames, f)
	b.Elements += f.Elements
	b.Bytes += f.Bytes()
	b.Remote += f.Remote
	b.inputHold = min(b.inputHold, hold)
}

// busy reports whether any input is not yet committed.
func (t *Task) busy() bool {
	return t.inbox.len() > 0 || t.buffered != math.MaxInt64 || len(t.running) > 0 || len(t.retries) > 0 || len(t.delayed) > 0 ||
		t.cfg.Timers != nil && t.cfg.Timers.Pending()
}

// ChannelWatermark is the minimum over all channels; at least the InputWatermark, as those of a task that was restored may
// have yet to say again how far they are.
func (t *Task) ChannelWatermark() int64 { return max(t.input, min(t.main.Min(), t.side.Min())) }

// Buffered notes what input that the worker keeps for later frames holds the input watermark at,
// MaxInt64 if there is none. It counts as input that is not yet committed.
func (t *Task) Buffered(hold int64) { t.buffered = hold }

// OutputWatermark is the last that Ready has said, the beginning of time before that.
func (t *Task) OutputWatermark() int64 { return t.output }

// InputWatermark is the minimum over all channels and what all input not yet committed holds.
// It does not go back.
func (t *Task) InputWatermark() int64 {
	t.input = max(t.input, t.leastInput())
	return t.input
}

func (t *Task) leastInput() int64 {
	wm := min(t.ChannelWatermark(), t.inbox.hold(), t.buffered)
	for _, b := range t.running {
		wm = min(wm, b.inputHold)
	}
	for _, b := range t.retries {
		wm = min(wm, b.inputHold)
	}
	return wm
}

// outputWatermark is the input watermark held back by residuals, each by what
// it reported and not by its element's timestamp.
func (t *Task) outputWatermark() int64 {
	wm := t.InputWatermark()
	if t.busy() {
		// Elements may carry the last timestamp of all; the end of time comes after them.
		wm = min(wm, frame.MaxTimestamp-1)
	}
	if t.cfg.Bounded && wm < frame.MaxTimestamp {
		return frame.MinTimestamp
	}
	for _, d := range t.delayed {
		wm = min(wm, d.r.OutputWatermark)
	}
	for _, b := range t.running {
		wm = min(wm, b.hold)
	}
	for _, b := range t.retries {
		wm = min(wm, b.hold)
	}
	if t.cfg.Timers != nil {
		wm = min(wm, t.cfg.Timers.Hold())
	}
	return wm
}
