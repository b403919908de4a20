package worker

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/rpc"
)

// checkpointer is what an execution with checkpoints has beside its tasks. Safe for concurrent use.
type checkpointer struct {
	e *execution
	// tasks by name, and the names of the plan's edges.
	tasks []protocol.Task
	edges []string
	// inherited is what stages go on from in a savepoint, by index; nil if it is none.
	inherited []*heir
	limit     *uploadLimit
	// begin has a token for each task that restores; left is how many have yet to, and restored is closed
	// when none has.
	begin    chan struct{}
	left     atomic.Int64
	restored chan struct{}
	answers  answers
	final    finalizers
	// hold and stillness are for savepoints.
	hold      hold
	stillness stillness

	mu     sync.Mutex
	epochs map[uint64]*epoch // under way
	// readers are those of stages that keep something for others, by index; the counts are under mu.
	readers []*readers
}

// epoch is one under way.
type epoch struct {
	protocol.Begun
	// context ends with the epoch: what is not uploaded by then need not be.
	context context.Context
	end     context.CancelFunc
	// hold is the number of the hold that the barrier ends, 0 for none.
	hold uint64
}

// restoreAtOnce is how many tasks of a job restore at once.
const restoreAtOnce = 4

// newCheckpointer returns nil for jobs that take no checkpoints.
func newCheckpointer(e *execution) *checkpointer {
	if e.d.Checkpoints == nil {
		return nil
	}
	c := &checkpointer{
		e: e, tasks: e.d.Tasks(), edges: e.d.Plan.EdgeNames(),
		begin: make(chan struct{}, restoreAtOnce), restored: make(chan struct{}),
		epochs: map[uint64]*epoch{}, readers: e.readersOf(), stillness: newStillness(len(e.tasks)),
	}
	if e.d.Restore != nil && e.d.Restore.Manifest.Savepoint {
		c.inherited = c.heirs()
	}
	c.left.Store(int64(len(c.tasks)))
	c.answers.more = make(chan struct{}, 1)
	c.answers.out = make(chan rpc.Answer)
	return c
}

// checkPlan keeps a deployment from running without checkpoints that it is to take: a plan has to be made for them.
func checkPlan(d *rpc.Deployment) error {
	if d.Checkpoints == nil {
		if d.Restore != nil {
			return fault.New(fault.Invalid, "job %s is to go on from a checkpoint and to take none", d.JobID)
		}
		return nil
	}
	for _, s := range d.Plan.Stages {
		if s.Kind == plan.GroupByKey && !s.Group.Panes || s.Kind == plan.SideInput && s.Side.Group == nil {
			return fault.New(fault.Invalid, "job %s is to take checkpoints, for which stage %s was not planned", d.JobID, s.ID)
		}
	}
	return nil
}

// Restored is part of rpc.Execution.
func (e *execution) Restored() error {
	if e.checkpoints == nil {
		return nil
	}
	select {
	case <-e.checkpoints.restored:
		return nil
	case <-e.done:
	}
	select {
	case <-e.checkpoints.restored: // and all was done at once
		return nil
	default:
		return e.err
	}
}

// Barrier is part of rpc.Execution.
func (e *execution) Barrier(b protocol.Begun) {
	if e.checkpoints == nil {
		return
	}
	e.checkpoints.began(b)
	e.announce(b.Epoch)
}

// Concluded is part of rpc.Execution.
func (e *execution) Concluded(epoch uint64, complete bool) {
	if e.checkpoints == nil {
		return
	}
	e.checkpoints.ended(epoch)
	if complete {
		e.checkpoints.final.durable(epoch)
		e.tell(exchange.Complete, epoch)
	}
}

// Answers is part of rpc.Execution.
func (e *execution) Answers() <-chan rpc.Answer {
	if e.checkpoints == nil {
		return nil
	}
	return e.checkpoints.answers.out
}

func (c *checkpointer) began(b protocol.Begun) {
	e := &epoch{Begun: b}
	e.context, e.end = context.WithCancel(context.Background())
	if b.Savepoint != "" {
		e.hold = c.hold.untilBarrier()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs[b.Epoch] = e
}

func (c *checkpointer) ended(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.epochs[number]; e != nil {
		e.end()
		delete(c.epochs, number)
	}
}

// of returns an epoch, nil if it is not under way.
func (c *checkpointer) of(number uint64) *epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epochs[number]
}

// close ends what is under way, when the tasks have ended.
func (c *checkpointer) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.epochs {
		e.end()
	}
	clear(c.epochs)
}

// wants tells whether somebody waits for a snapshot, and sets in it what it is taken over.
func (e *execution) wants(s *snapshot) bool {
	if e.snapshots != nil || e.checkpoints == nil {
		return e.snapshots != nil
	}
	epoch := e.checkpoints.of(s.epoch)
	if epoch == nil {
		return false
	}
	s.savepoint, s.endsHold = epoch.Savepoint != "", epoch.hold
	if !s.savepoint {
		s.held = s.task.files.of(epoch.Over)
	}
	return true
}

// arrive notes that a task has what it begins with, and waits for the others.
func (t *task) arrive(ctx context.Context) error {
	c := t.e.checkpoints
	if c == nil {
		return nil
	}
	<-c.begin
	t.restoring.close()
	if c.left.Add(-1) == 0 {
		t.e.settleSpools()
		close(c.restored)
	}
	select {
	case <-c.restored:
		return t.outbox.Flush()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answers are what tasks have to say, until somebody reads it. Tasks don't wait for that.
type answers struct {
	out  chan rpc.Answer
	more chan struct{} // has a token if there is something

	mu    sync.Mutex
	queue []rpc.Answer
}

func (a *answers) put(answer rpc.Answer) {
	a.mu.Lock()
	a.queue = append(a.queue, answer)
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// run hands out answers until done is closed.
func (a *answers) run(done <-chan struct{}) {
	defer close(a.out)
	for {
		a.mu.Lock()
		queue := a.queue
		a.queue = nil
		a.mu.Unlock()
		for _, answer := range queue {
			select {
			case a.out <- answer:
			case <-done:
				return
			}
		}
		select {
		case <-a.more:
		case <-done:
			return
		}
	}
}
