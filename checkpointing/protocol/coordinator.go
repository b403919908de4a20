package protocol

import (
	"fmt"
	"slices"
	"time"

	"github.com/lintelrun/lintel/internal/fault"
)

// DefaultTimeout is that of a Schedule which names none.
const DefaultTimeout = 10 * time.Minute

// Schedule says when checkpoints are taken.
type Schedule struct {
	// Interval from the beginning of one checkpoint to that of the next; 0 takes none but those asked for.
	Interval time.Duration
	// MinPause from the end of one to the beginning of the next, whatever the Interval. It does not
	// go with a Concurrent of more than 1.
	MinPause time.Duration
	// Timeout for all tasks to answer; DefaultTimeout if 0. The time that it takes to write the
	// manifest does not count: once it may have been written, nobody can say that it was not.
	Timeout time.Duration
	// MaxFailures in a row that the job survives; the next fails it. 0 is any number.
	MaxFailures int
	// Concurrent is how many may be under way at once; 1 if 0.
	Concurrent int
}

// Validate says what is wrong with a schedule, as a fault.Invalid.
func (s Schedule) Validate() error {
	switch {
	case s.Interval < 0 || s.MinPause < 0 || s.Timeout < 0:
		return fault.New(fault.Invalid, "checkpoints: interval %v, pause %v, time-out %v must not be negative", s.Interval, s.MinPause, s.Timeout)
	case s.MaxFailures < 0 || s.Concurrent < 0:
		return fault.New(fault.Invalid, "checkpoints: %d tolerated failures, %d at once must not be negative", s.MaxFailures, s.Concurrent)
	case s.MinPause > 0 && s.Concurrent > 1:
		return fault.New(fault.Invalid, "checkpoints: a pause of %v between them, and %d at once", s.MinPause, s.Concurrent)
	}
	return nil
}

func (s Schedule) withDefaults() Schedule {
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	s.Concurrent = max(s.Concurrent, 1)
	return s
}

// Snapshot is what a task answers a barrier with. Spans in it mean its own Files.
type Snapshot struct {
	Task  Task
	Files []File
}

// Begun is an epoch whose barriers are to be sent.
type Begun struct {
	Epoch uint64
	// Over is the newest complete checkpoint that is no savepoint: snapshots may name the files that it has,
	// and no others but those of their own epoch. 0 is none.
	Over uint64
	// Savepoint is the id of the savepoint that was asked for, "" for a checkpoint.
	Savepoint string
}

// Ended is an epoch that did not become a checkpoint.
type Ended struct {
	Begun
	Reason error
}

// Actions is what the coordinator has to be done, in the order of the fields.
type Actions struct {
	// Abort: tell all tasks that the epochs come to nothing.
	Abort []Ended
	// Complete: tell all tasks that the checkpoints are durable, then look for garbage.
	Complete []Begun
	// Quiet: have sources hold back for the savepoint of this id, and call Quieted once nothing is under way
	// between tasks, or after Schedule.Timeout.
	Quiet string
	// Claim an epoch, and call Claimed.
	Claim bool
	// Begin: send barriers into all sources.
	Begin []Begun
	// Write the manifest of these snapshots, and call Written.
	Write *Completed
	// Fail the job.
	Fail error
	// Wake, if not zero, is when Ready is wanted again.
	Wake time.Time
}

// Completed is an epoch of which all snapshots have come.
type Completed struct {
	Begun
	// Began is when.
	Began time.Time
	// Snapshots by task; nil for those that had ended.
	Snapshots []*Snapshot
}

// Coordinator decides when checkpoints begin and when they are complete. Events come in by its
// methods, what to do goes out by Ready. It belongs to one goroutine. A job that
// starts again has a new one.
type Coordinator struct {
	cfg    Schedule
	ended  []bool // by task
	epochs []*epoch
	asked  []string // savepoints
	// quieting is the savepoint for which sources hold back, and quiet tells that nothing is under way.
	quieting string
	quiet    bool
	claiming bool
	claimFor string
	writing  bool

	next     time.Time // by the interval
	pause    time.Time // not before
	complete uint64    // newest
	failures int
	out      Actions
	failed   bool
}

// epoch is one that was begun.
type epoch struct {
	Begun
	began     time.Time
	snapshots []*Snapshot
	missing   int
	writing   bool
}

// NewCoordinator returns the coordinator of a job with so many tasks, that went on from the
// checkpoint of an epoch (0 for none) at the time now.
func NewCoordinator(cfg Schedule, tasks int, restored uint64, now time.Time) *Coordinator {
	cfg = cfg.withDefaults()
	return &Coordinator{cfg: cfg, ended: make([]bool, tasks), complete: restored, next: now.Add(cfg.Interval)}
}

// Savepoint asks for one, by an id for the answer. One after the other, they begin as soon as the job is quiet.
func (c *Coordinator) Savepoint(id string) { c.asked = append(c.asked, id) }

// Quieted is the answer to Actions.Quiet: nothing is under way, and sources hold back until they have the barrier of the
// savepoint's epoch; or why not.
func (c *Coordinator) Quieted(err error, now time.Time) {
	if err == nil {
		c.quiet = true
		return
	}
	b := Begun{Over: c.complete, Savepoint: c.quieting}
	c.quieting = ""
	c.fail(b, err, now)
}

// Claimed is the answer to Actions.Claim: the epoch, or why there is none.
func (c *Coordinator) Claimed(number uint64, err error, now time.Time) {
	b := Begun{Epoch: number, Over: c.complete, Savepoint: c.claimFor}
	c.claiming, c.claimFor = false, ""
	if err != nil {
		c.fail(b, fmt.Errorf("claim an epoch: %w", err), now)
		return
	}
	e := &epoch{Begun: b, began: now, snapshots: make([]*Snapshot, len(c.ended))}
	for _, ended := range c.ended {
		if !ended {
			e.missing++
		}
	}
	c.epochs = append(c.epochs, e)
	c.out.Begin = append(c.out.Begin, b)
}

// Ack is a task's snapshot. Those of epochs that have ended are ignored, as are second ones.
func (c *Coordinator) Ack(number uint64, task int, s Snapshot) {
	e := c.find(number)
	if e == nil || e.snapshots[task] != nil || c.ended[task] {
		return
	}
	e.snapshots[task] = &s
	e.missing--
}

// Decline says that a task has no snapshot for an epoch.
func (c *Coordinator) Decline(number uint64, task int, why error, now time.Time) {
	if e := c.find(number); e != nil && !e.writing {
		c.abort(e, fmt.Errorf("task %d: %w", task, why), now)
	}
}

// TaskEnded notes that a task is done: all it put out has been delivered. Epochs wait for it no more.
func (c *Coordinator) TaskEnded(task int) {
	if c.ended[task] {
		return
	}
	c.ended[task] = true
	for _, e := range c.epochs {
		if e.snapshots[task] == nil {
			e.missing--
		}
	}
}

// Written is the answer to Actions.Write. An err says that the manifest is not there and never
// will be; whoever can't tell asks the store until it can.
func (c *Coordinator) Written(number uint64, err error, now time.Time) {
	c.writing = false
	e := c.find(number)
	if e == nil {
		return
	}
	if err != nil {
		c.abort(e, err, now)
		return
	}
	c.remove(e)
	c.failures = 0
	if e.Savepoint == "" { // its files are made to be copied, and not for others to be taken over
		c.complete = max(c.complete, number)
	}
	c.out.Complete = append(c.out.Complete, e.Begun)
	c.pause = now.Add(c.cfg.MinPause)
	for _, older := range slices.Clone(c.epochs) {
		if older.Epoch < number && older.Savepoint == "" && e.Savepoint == "" && older.missing > 0 {
			c.remove(older)
			c.out.Abort = append(c.out.Abort, Ended{older.Begun, fmt.Errorf("checkpoint %d came before it", number)})
		}
	}
}

// Ready computes what to do at the time now.
func (c *Coordinator) Ready(now time.Time) Actions {
	for _, e := range slices.Clone(c.epochs) {
		if !e.writing && e.missing > 0 && !now.Before(e.began.Add(c.cfg.Timeout)) {
			c.abort(e, fmt.Errorf("%d tasks did not answer within %v", e.missing, c.cfg.Timeout), now)
		}
	}
	c.hush()
	c.claim(now)
	c.write()
	out := c.out
	c.out = Actions{}
	if c.failed {
		return Actions{Abort: out.Abort, Complete: out.Complete, Fail: out.Fail}
	}
	out.Wake = c.wake(now)
	return out
}

// UnderWay returns the epochs that were begun and have not ended, for garbage collection.
func (c *Coordinator) UnderWay() []UnderWay {
	var all []UnderWay
	for _, e := range c.epochs {
		all = append(all, UnderWay{e.Epoch, e.Over})
	}
	return all
}

func (c *Coordinator) find(number uint64) *epoch {
	for _, e := range c.epochs {
		if e.Epoch == number {
			return e
		}
	}
	return nil
}

func (c *Coordinator) remove(e *epoch) {
	c.epochs = slices.DeleteFunc(c.epochs, func(o *epoch) bool { return o == e })
}

func (c *Coordinator) abort(e *epoch, why error, now time.Time) {
	c.remove(e)
	c.fail(e.Begun, why, now)
}

// fail notes an epoch that came to nothing. A savepoint's failure is an answer to whoever asked.
func (c *Coordinator) fail(b Begun, why error, now time.Time) {
	c.out.Abort = append(c.out.Abort, Ended{b, why})
	c.pause = now.Add(c.cfg.MinPause)
	if b.Savepoint == "" {
		c.failures++
	}
	switch {
	case c.failed:
	case fault.ClassOf(why) == fault.Fenced:
		c.failed, c.out.Fail = true, why
	case c.cfg.MaxFailures > 0 && c.failures > c.cfg.MaxFailures:
		c.failed, c.out.Fail = true, fmt.Errorf("%d checkpoints in a row failed, the last: %w", c.failures, why)
	}
}

// room tells whether another epoch may begin.
func (c *Coordinator) room() bool { return !c.claiming && len(c.epochs) < c.cfg.Concurrent }

// due returns when the next checkpoint begins if there is room; ok is false if none does.
func (c *Coordinator) due() (at time.Time, ok bool) {
	at = c.next
	if c.pause.After(at) {
		at = c.pause
	}
	return at, c.cfg.Interval > 0 && !c.allEnded()
}

// hush has the next savepoint begin, unless there is one already: tasks hold back for one at a time.
func (c *Coordinator) hush() {
	if c.failed || len(c.asked) == 0 || c.quieting != "" || c.claimFor != "" || slices.ContainsFunc(c.epochs, func(e *epoch) bool { return e.Savepoint != "" }) {
		return
	}
	c.quieting, c.quiet, c.asked = c.asked[0], false, c.asked[1:]
	c.out.Quiet = c.quieting
}

func (c *Coordinator) allEnded() bool { return !slices.Contains(c.ended, false) }

func (c *Coordinator) claim(now time.Time) {
	at, ok := c.due()
	switch {
	case c.failed || c.claiming:
		return
	case c.quieting != "" && c.quiet: // sources wait for it, so it waits for no other
		c.claimFor, c.quieting = c.quieting, ""
	case !ok || !c.room() || now.Before(at):
		return
	default:
		c.next = now.Add(c.cfg.Interval)
	}
	c.claiming = true
	c.out.Claim = true
}

// write hands out the oldest epoch that all tasks have answered, one at a time.
func (c *Coordinator) write() {
	if c.writing || c.failed {
		return
	}
	for _, e := range c.epochs {
		if e.missing == 0 {
			e.writing, c.writing = true, true
			c.out.Write = &Completed{e.Begun, e.began, e.snapshots}
			return
		}
	}
}

// wake returns when something falls due by itself.
func (c *Coordinator) wake(now time.Time) (first time.Time) {
	earlier := func(at time.Time) {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if at, ok := c.due(); ok && c.room() && at.After(now) {
		earlier(at)
	}
	for _, e := range c.epochs {
		if e.missing > 0 {
			earlier(e.began.Add(c.cfg.Timeout))
		}
	}
	return first
}

// Assemble makes the manifest of what all tasks answered. Header has all but files and tasks; its
// spans mean its own Files. Tasks of snapshots that are nil have ended; names has them by task.
func Assemble(header Manifest, snapshots []*Snapshot, tasks []Task) (*Manifest, error) {
	m := header
	m.Files = slices.Clone(header.Files)
	m.Tasks = nil
	at := make(map[FileID]int, len(m.Files))
	for i, f := range m.Files {
		at[f.FileID] = i
	}
	for i, t := range tasks {
		s := snapshots[i]
		if s == nil {
			t.Ended = true
			m.Tasks = append(m.Tasks, t)
			continue
		}
		place := make([]int, len(s.Files))
		for j, f := range s.Files {
			known, ok := at[f.FileID]
			if !ok {
				known = len(m.Files)
				at[f.FileID] = known
				m.Files = append(m.Files, f)
			} else if m.Files[known] != f {
				return nil, corrupt("two tasks say of file %s what can't both be true", f.Name())
			}
			place[j] = known
		}
		t = s.Task
		t.Parts = slices.Clone(s.Task.Parts)
		for j := range t.Parts {
			file := &t.Parts[j].Span.File
			if t.Parts[j].Span == (Span{}) {
				continue
			}
			if *file < 0 || *file >= len(place) {
				return nil, corrupt("task %d of stage %q names file %d of %d", t.Index, t.Stage, *file, len(place))
			}
			*file = place[*file]
		}
		m.Tasks = append(m.Tasks, t)
	}
	return &m, m.Validate()
}
