package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/rpc"
)

// loop takes the checkpoints of one generation: it does what the protocol's coordinator says, and tells
// it what has come of that.
type loop struct {
	job   *Job
	repo  *checkpointing.Repository
	exec  rpc.Execution
	tasks []protocol.Task
	// co, and what follows up to ended, is of the goroutine that runs.
	co       *protocol.Coordinator
	newest   uint64 // complete, and no savepoint
	claiming bool
	// claimBegan is when, for claims that fail.
	claimBegan time.Time
	began      map[uint64]time.Time // epochs under way
	announced  map[uint64]bool      // those that tasks know of
	manifests  map[uint64]*protocol.Manifest
	requests   map[string]*savepoint // by id
	told       bool                  // of the first checkpoint
	counted    counted
	late       lateness

	claims  chan claim
	written chan result
	asked   chan *savepoint
	quieted chan error
	stopped chan struct{} // has a token once the job has been stopped with a savepoint
	garbage chan struct{} // buffered: there may be some
	ended   chan struct{}
	working sync.WaitGroup // claims, writes, exports and the collector

	// submissions has the files with the pipeline as submitted, by the checkpoints that name them. Of
	// the one write at a time.
	submissions map[uint64]protocol.File

	mu       sync.Mutex // protects what follows
	underWay []protocol.UnderWay
	exports  map[uint64]bool // epochs that are being copied
}

// claim is what came of Actions.Claim.
type claim struct {
	epoch uint64
	err   error
}

// result is what came of Actions.Write.
type result struct {
	epoch    uint64
	manifest *protocol.Manifest
	err      error
}

// newLoop returns the loop of a generation that went on from the checkpoint of an epoch, 0 for none.
func newLoop(j *Job, repo *checkpointing.Repository, exec rpc.Execution, d rpc.Deployment, restored uint64) *loop {
	now := time.Now()
	l := &loop{
		job: j, repo: repo, exec: exec, tasks: d.Tasks(), newest: restored, late: newLateness(j.checkpoints.schedule.Interval, now),
		began: map[uint64]time.Time{}, announced: map[uint64]bool{}, manifests: map[uint64]*protocol.Manifest{}, requests: map[string]*savepoint{},
		claims: make(chan claim, 1), written: make(chan result, 1), asked: make(chan *savepoint),
		quieted: make(chan error, 1), stopped: make(chan struct{}, 1),
		garbage: make(chan struct{}, 1), ended: make(chan struct{}),
		submissions: map[uint64]protocol.File{}, exports: map[uint64]bool{},
	}
	l.co = protocol.NewCoordinator(j.checkpoints.schedule, len(l.tasks), restored, now)
	l.counted = newCounted(d.Restore.Counted())
	if restored > 0 {
		l.keepSubmission(d.Restore.Manifest)
	}
	return l
}

// run takes checkpoints until ctx ends, or returns why the job is to fail. Nothing of it runs
// after that.
func (l *loop) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		l.working.Wait()
		for _, s := range l.requests {
			s.answer(result{err: errGone})
		}
		close(l.ended)
	}()
	l.working.Go(func() { l.collect(ctx) })
	answers := l.exec.Answers()
	alarm := time.NewTimer(math.MaxInt64)
	defer alarm.Stop()
	for {
		now := time.Now()
		actions := l.co.Ready(now)
		l.act(ctx, actions)
		if actions.Fail != nil {
			return actions.Fail
		}
		l.tellLate(now)
		wait := l.late.wait(now)
		if !actions.Wake.IsZero() {
			wait = min(wait, time.Until(actions.Wake))
		}
		alarm.Reset(wait)
		select {
		case a, ok := <-answers:
			if !ok {
				answers = nil
			} else {
				l.answer(a)
			}
		case c := <-l.claims:
			l.claimed(c)
		case w := <-l.written:
			l.co.Written(w.epoch, w.err, time.Now())
			if w.err == nil {
				l.manifests[w.epoch] = w.manifest
			}
		case s := <-l.asked:
			l.request(s)
		case err := <-l.quieted:
			l.co.Quieted(err, time.Now())
		case <-l.stopped:
			return ErrStopped
		case <-alarm.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *loop) answer(a rpc.Answer) {
	switch {
	case a.Ended:
		l.counted.ended[a.Task] = a.Metrics
		l.co.TaskEnded(a.Task)
	case a.Err != nil:
		l.co.Decline(a.Epoch, a.Task, a.Err, time.Now())
	default:
		if _, ok := l.began[a.Epoch]; ok {
			l.counted.add(a)
		}
		l.co.Ack(a.Epoch, a.Task, a.Snapshot)
	}
}

func (l *loop) claimed(c claim) {
	l.claiming = false
	now := time.Now()
	if c.err == nil {
		l.began[c.epoch] = now
	}
	l.co.Claimed(c.epoch, c.err, now)
}

// act does what the protocol's coordinator says, in its order.
func (l *loop) act(ctx context.Context, a protocol.Actions) {
	if a.Claim {
		l.claiming, l.claimBegan = true, time.Now()
	}
	for _, b := range a.Complete {
		if b.Savepoint == "" {
			l.newest = max(l.newest, b.Epoch)
		}
		if l.requests[b.Savepoint] != nil {
			l.mu.Lock()
			l.exports[b.Epoch] = true
			l.mu.Unlock()
		}
	}
	l.publish()
	for _, e := range a.Abort {
		l.abort(e)
	}
	for _, b := range a.Complete {
		l.complete(ctx, b)
	}
	if a.Quiet != "" {
		stay := l.requests[a.Quiet].stop
		l.working.Go(func() { l.quieted <- l.quiet(ctx, stay) })
	}
	if a.Claim {
		l.working.Go(func() {
			epoch, err := l.repo.Claim(ctx)
			if ctx.Err() == nil {
				l.claims <- claim{epoch, err}
			}
		})
	}
	for _, b := range a.Begin {
		if _, ok := l.began[b.Epoch]; ok { // else it came to nothing at once
			l.announced[b.Epoch] = true
			l.exec.Barrier(b)
		}
	}
	if a.Write != nil {
		metrics := l.counted.at(a.Write)
		l.working.Go(func() { l.write(ctx, a.Write, metrics) })
	}
}

// publish tells the collector of garbage what is under way. What was begun is in it before any
// task hears of it.
func (l *loop) publish() {
	all := append(l.co.UnderWay(), keep(l.newest)) // what is claimed next may name all that the newest has
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay = all
}

// keep keeps the files of a checkpoint, and stands for no epoch.
func keep(epoch uint64) protocol.UnderWay {
	return protocol.UnderWay{Epoch: math.MaxUint64, Over: epoch}
}

// holdings are the epochs whose files are not to be removed.
func (l *loop) holdings() []protocol.UnderWay {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := append([]protocol.UnderWay(nil), l.underWay...)
	for epoch := range l.exports {
		all = append(all, keep(epoch))
	}
	return all
}

// abort tells of an epoch that came to nothing.
func (l *loop) abort(e protocol.Ended) {
	began, uri := l.claimBegan, ""
	if e.Epoch != 0 {
		began = l.began[e.Epoch]
		l.concluded(e.Epoch, false)
	}
	if e.Savepoint != "" {
		l.exec.Resume()
		if s := l.taken(e.Savepoint); s != nil {
			uri = s.uri
			s.answer(result{err: e.Reason})
		}
	}
	l.job.say(rpc.Warn, "checkpoint %s came to nothing: %v", epochName(e.Epoch), e.Reason)
	l.job.record(Checkpoint{
		Epoch: e.Epoch, Generation: l.repo.Generation(), Savepoint: uri, Began: began, Ended: time.Now(), Err: e.Reason,
	})
}

// concluded tells the tasks how an epoch has ended.
func (l *loop) concluded(epoch uint64, complete bool) {
	delete(l.began, epoch)
	delete(l.counted.by, epoch)
	if l.announced[epoch] {
		delete(l.announced, epoch)
		l.exec.Concluded(epoch, complete)
	}
}

func epochName(epoch uint64) string {
	if epoch == 0 {
		return "to come"
	}
	return strconv.FormatUint(epoch, 10)
}

// complete tells all tasks of a checkpoint that is durable.
func (l *loop) complete(ctx context.Context, b protocol.Begun) {
	m, began := l.manifests[b.Epoch], l.began[b.Epoch]
	delete(l.manifests, b.Epoch)
	uri := ""
	s := l.taken(b.Savepoint)
	if s != nil {
		uri = s.uri
	}
	c := Checkpoint{Epoch: b.Epoch, Generation: l.repo.Generation(), Savepoint: uri, Began: began, Ended: time.Now()}
	c.Bytes, c.NewBytes = m.Bytes()
	l.job.checkpoints.atLeast = max(l.job.checkpoints.atLeast, b.Epoch)
	l.job.record(c) // before anybody acts on it
	failpoint.Hit(failpoint.BeforeAck)
	l.concluded(b.Epoch, true)
	if !l.told {
		l.told = true
		l.job.say(rpc.Info, "first checkpoint, %d: %d bytes, in %v", b.Epoch, c.Bytes, c.Ended.Sub(c.Began).Round(time.Millisecond))
	}
	if l.late.complete(began) {
		l.job.say(rpc.Info, "checkpoint %d is complete: there are checkpoints again", b.Epoch)
	}
	if s != nil {
		l.working.Go(func() { l.export(ctx, s, m) })
	}
	select {
	case l.garbage <- struct{}{}:
	default: // it looks again anyway
	}
}

// record tells whoever keeps the job's history.
func (j *Job) record(c Checkpoint) {
	if j.spec.Checkpoint != nil {
		j.spec.Checkpoint(c)
	}
}

// write makes a checkpoint of the snapshots of all tasks.
func (l *loop) write(ctx context.Context, c *protocol.Completed, metrics *metrics.Totals) {
	m, err := l.manifest(ctx, c, metrics)
	if err == nil {
		err = l.repo.Commit(ctx, m)
	}
	if ctx.Err() != nil {
		return // whether it counts finds out who begins next
	}
	if err == nil {
		l.keepSubmission(m)
	}
	l.written <- result{c.Epoch, m, err}
}

func (l *loop) manifest(ctx context.Context, c *protocol.Completed, metrics *metrics.Totals) (*protocol.Manifest, error) {
	k := l.job.checkpoints
	encoded, err := encodeMetrics(metrics.Infos())
	if err != nil {
		return nil, err
	}
	f, err := l.submission(ctx, c.Begun)
	if err != nil {
		return nil, err
	}
	rest := int64(len(k.submission)) - k.pipelineBytes
	header := protocol.Manifest{
		Epoch: c.Epoch, Generation: l.repo.Generation(), Taken: c.Began.UnixMilli(), KeyGroups: keygroup.DefaultMax,
		Job: protocol.Job{
			ID: l.job.spec.ID, Name: l.job.spec.Name, Submitted: l.job.spec.Submitted.UnixMilli(),
			Pipeline: protocol.Span{Length: k.pipelineBytes}, Options: protocol.Span{Offset: k.pipelineBytes, Length: rest},
		},
		Plan: k.plan, Pipeline: k.pipeline, Files: []protocol.File{f}, Metrics: encoded,
	}
	m, err := protocol.Assemble(header, c.Snapshots, l.tasks)
	if err != nil {
		return nil, fmt.Errorf("the snapshots don't go together: %w", err)
	}
	return m, nil
}

// submission returns the file with the pipeline as submitted: that of the checkpoint which an epoch may
// name files of, or a new one.
func (l *loop) submission(ctx context.Context, b protocol.Begun) (protocol.File, error) {
	for epoch := range l.submissions {
		if epoch < b.Over {
			delete(l.submissions, epoch)
		}
	}
	if f, ok := l.submissions[b.Over]; ok {
		return f, nil
	}
	return l.repo.Put(ctx, b.Epoch, uint64(len(l.tasks)), bytes.NewReader(l.job.checkpoints.submission))
}

// keepSubmission notes that a checkpoint has the pipeline as submitted.
func (l *loop) keepSubmission(m *protocol.Manifest) {
	k := l.job.checkpoints
	at, rest := m.Job.Pipeline, m.Job.Options
	if at.File < len(m.Files) && at.File == rest.File && at.Offset == 0 && at.Length == k.pipelineBytes && rest.Offset == at.Length &&
		m.Files[at.File].Size == int64(len(k.submission)) {
		l.submissions[m.Epoch] = m.Files[at.File]
	}
}

// collect removes garbage each time that there may be some.
func (l *loop) collect(ctx context.Context) {
	for {
		select {
		case <-l.garbage:
		case <-ctx.Done():
			return
		}
		removed, err := l.repo.Collect(ctx, l.holdings)
		switch log := l.job.c.cfg.Logger.With("job", l.job.spec.ID); {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("old checkpoints not removed", "error", err)
		case removed > 0:
			log.Debug("old checkpoints removed", "objects", removed)
		}
	}
}
