package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/failpoint"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/rpc"
)

// recover begins the next generation, with what the newest checkpoint that can be used has.
func (j *Job) recover(ctx context.Context) (*generation, error) {
	k := j.checkpoints
	repo, err := checkpointing.NewGeneration(ctx, checkpointing.Config{
		Store: k.folder, Retain: j.options.Checkpoints.Retain, Failing: j.storeFails, Logger: j.c.cfg.Logger.With("job", j.spec.ID),
	})
	if err != nil {
		return nil, err
	}
	wish := checkpointing.Wish{AtLeast: k.atLeast, Bad: map[uint64]string{}}
	for {
		d, err := repo.Recover(ctx, wish)
		if err != nil {
			return nil, err
		}
		g, err := j.beginWith(ctx, repo, d)
		if fault.ClassOf(err) != fault.Corruption || d.Outcome != protocol.Restore {
			return g, err
		}
		wish.Bad[d.Manifest.Epoch] = err.Error()
	}
}

// beginWith deploys a generation that begins with what was decided.
func (j *Job) beginWith(ctx context.Context, repo *checkpointing.Repository, decided protocol.Decision) (*generation, error) {
	d := j.deployment
	d.Generation, d.Checkpoints = repo.Generation(), repo
	restored, savepoint := uint64(0), decided.Savepoint
	switch decided.Outcome {
	case protocol.Refuse:
		return nil, decided.Err
	case protocol.Restore:
		restored = decided.Manifest.Epoch
		counted, err := decodeMetrics(decided.Manifest)
		if err != nil {
			return nil, err
		}
		d.Restore = &rpc.Restore{Manifest: decided.Manifest, Open: repo.Open, Metrics: counted}
		if err := j.fit(&d); err != nil {
			return nil, err
		}
		// No task reads it, and what later checkpoints and savepoints name has to be whole.
		if err := repo.Check(ctx, decided.Manifest.Files[decided.Manifest.Job.Pipeline.File]); err != nil {
			return nil, err
		}
	case protocol.Fresh:
		savepoint = j.options.RestoreFrom
	}
	if savepoint != "" {
		from, err := j.c.savepointStore(ctx, savepoint)
		if err != nil {
			return nil, err
		}
		defer from.Close() // all is read by then
		if d.Restore, err = j.fromSavepoint(ctx, from, savepoint); err != nil {
			return nil, err
		}
	}
	g, err := j.deploy(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := g.exec.Restored(); err != nil {
		g.stop()
		return nil, err
	}
	failpoint.Hit(failpoint.BeforeBegin)
	if err := repo.Begin(ctx, decided, savepoint); err != nil {
		g.stop()
		return nil, err
	}
	failpoint.Hit(failpoint.AfterBegin)
	g.loop = newLoop(j, repo, g.exec, d, restored)
	j.install(g)
	j.tellRecovery(decided, savepoint)
	return g, nil
}

// tellRecovery says in the job's log what it goes on from.
func (j *Job) tellRecovery(d protocol.Decision, savepoint string) {
	for _, s := range d.Skipped {
		j.say(rpc.Warn, "checkpoint %d can't be used, so an older one is: %s", s.Epoch, s.Reason)
	}
	switch {
	case savepoint != "":
		j.say(rpc.Info, "the job begins with the savepoint %s", savepoint)
	case d.Outcome == protocol.Restore:
		taken := time.UnixMilli(d.Manifest.Taken).UTC().Format(time.RFC3339)
		j.say(rpc.Info, "the job goes on from checkpoint %d of %s", d.Manifest.Epoch, taken)
	case j.spec.Resumed || len(j.restarts.failures) > 0:
		j.say(rpc.Info, "the job has no checkpoint yet, and begins anew")
	}
}

// fromSavepoint reads a savepoint that the job begins with, unless it would lose or misread state.
func (j *Job) fromSavepoint(ctx context.Context, from checkpointing.Store, uri string) (*rpc.Restore, error) {
	m, err := checkpointing.ReadSavepoint(ctx, from)
	if errors.Is(err, checkpointing.ErrAbsent) {
		return nil, fault.New(fault.Invalid, "there is no savepoint at %s", uri)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	update := updateOf(j.options)
	if err := goesOn(m.Pipeline, j.checkpoints.pipeline, update, uri); err != nil {
		return nil, err
	}
	if err := checkGroups(m); err != nil {
		return nil, err
	}
	r := &rpc.Restore{Manifest: m, Update: update, Open: func(ctx context.Context, f protocol.File) (io.ReadCloser, error) {
		return checkpointing.OpenFile(ctx, from, f)
	}}
	return r, inherits(j.spec.Plan, j.checkpoints.pipeline, r)
}

// fit makes a deployment one of the checkpoint that it restores: at its parallelism, since input and
// output are of its tasks, and of a plan that has a place for all that is in it.
func (j *Job) fit(d *rpc.Deployment) error {
	m := d.Restore.Manifest
	if err := checkGroups(m); err != nil {
		return err
	}
	if n := parallelism(d, m); n > 0 && n != d.Parallelism {
		d.Parallelism = n
		if j.options.SDKWorkerParallelism == 0 {
			d.Harnesses = n
		}
		if n > j.c.cfg.MaxParallelism {
			return fault.New(fault.Invalid, "checkpoint %d is of parallelism %d, more than this server's maximum of %d", m.Epoch, n, j.c.cfg.MaxParallelism)
		}
	}
	tasks := d.Tasks()
	d.Restore.Same = m.Plan == j.checkpoints.plan && slices.EqualFunc(tasks, m.Tasks, samePlace)
	if d.Restore.Same {
		return nil
	}
	return place(d.Plan, tasks, m)
}

func checkGroups(m *protocol.Manifest) error {
	if m.KeyGroups != keygroup.DefaultMax {
		return fault.New(fault.Unsupported, "checkpoint %d is of %d key groups; this release knows %d only", m.Epoch, m.KeyGroups, keygroup.DefaultMax)
	}
	return nil
}

func samePlace(a, b protocol.Task) bool {
	return a.Stage == b.Stage && a.Index == b.Index && a.Of == b.Of && a.FirstGroup == b.FirstGroup && a.EndGroup == b.EndGroup
}

// parallelism returns that of a checkpoint's stages whose number of tasks is the job's to choose, 0
// if it has none of the plan's.
func parallelism(d *rpc.Deployment, m *protocol.Manifest) int {
	free := map[string]bool{}
	for i, name := range d.Plan.StageNames() {
		free[name] = d.Plan.Stages[i].Parallelism == 0 && !d.Plan.Virtual()
	}
	for _, t := range m.Tasks {
		if free[t.Stage] {
			return t.Of
		}
	}
	return 0
}

// place says what of a checkpoint another plan has no place for, and which of the plan's sources
// would begin anew.
func place(p *plan.Plan, tasks []protocol.Task, m *protocol.Manifest) error {
	const advice = "run the release that took it, and stop the job with a savepoint there"
	known := map[string]protocol.Task{}
	for _, t := range tasks {
		known[taskKey(t)] = t
	}
	edges := map[string]bool{}
	for _, name := range p.EdgeNames() {
		edges[name] = true
	}
	stages := map[string]bool{}
	for _, t := range m.Tasks {
		stages[t.Stage] = true
		if len(t.Parts) == 0 && len(t.Channels) == 0 {
			continue
		}
		if now, ok := known[taskKey(t)]; !ok || !samePlace(now, t) {
			return fault.New(fault.Unsupported, "checkpoint %d has task %d of %d of stage %q, which this release's plan has not: %s", m.Epoch, t.Index, t.Of, t.Stage, advice)
		}
		for _, c := range t.Channels {
			if !edges[c.Edge] {
				return fault.New(fault.Unsupported, "checkpoint %d has the edge %q, which this release's plan has not: %s", m.Epoch, c.Edge, advice)
			}
		}
		for _, part := range t.Parts {
			if part.Kind == protocol.Outbox && !edges[part.Name] {
				return fault.New(fault.Unsupported, "checkpoint %d has output on the edge %q, which this release's plan has not: %s", m.Epoch, part.Name, advice)
			}
		}
	}
	for i, name := range p.StageNames() {
		if len(p.Stages[i].In) == 0 && !stages[name] {
			return fault.New(fault.Unsupported, "checkpoint %d does not know the source %q of this release's plan, which would begin anew: %s", m.Epoch, name, advice)
		}
	}
	return nil
}

func taskKey(t protocol.Task) string { return fmt.Sprintf("%s\x00%d", t.Stage, t.Index) }
