package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// travel runs a job from savepoint to savepoint, each time by the plan, parallelism and state backend that it is given.
type travel struct {
	*recovery
	update protocol.Update
	// goOn, if not nil, is called when a job has its savepoint, and goes on to its end.
	goOn func()
}

// leg is one run of a job.
type leg struct {
	parallelism int
	backend     string
	// after says when its savepoint is taken; nil: it runs to its end.
	after func() bool
}

func newTravel(t *testing.T, r *rig, seed uint64) *travel {
	return &travel{recovery: newRecovery(t, r, seed)}
}

// to runs a leg from the newest savepoint, stops with the next and returns that, nil if the job has come to its end.
func (v *travel) to(p *plan.Plan, l leg) *protocol.Manifest {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g := v.deploy(ctx, p, l)
	if err := g.e.Restored(); err != nil {
		v.t.Fatal(err)
	}
	made := v.savepoint(ctx, g, l.after)
	if made != nil && v.goOn == nil {
		cancel()
	}
	if err := v.r.wait(g.e); err != nil && (made == nil || !errors.Is(err, context.Canceled)) {
		v.t.Fatal(err)
	}
	v.newest = made
	return made
}

// finish has checkpoints taken until the job has ended: some of its tasks wait for them.
func (v *travel) finish(ctx context.Context, g *generation) {
	v.t.Helper()
	v.savepoint(ctx, g, nil)
	if err := v.r.wait(g.e); err != nil {
		v.t.Fatal(err)
	}
}

// deploy starts a generation that goes on from the newest savepoint.
func (v *travel) deploy(ctx context.Context, p *plan.Plan, l leg) *generation {
	v.t.Helper()
	v.store.generation++
	v.r.cfg.State = stateBackend(v.t, l.backend)
	d := v.r.deployment
	d.Plan, d.Parallelism, d.Harnesses = p, l.parallelism, min(l.parallelism, 3)
	d.Generation, d.Checkpoints = v.store.generation, &v.store
	if v.newest != nil {
		for _, task := range v.newest.Tasks {
			for _, part := range task.Parts {
				v.found[part.Kind]++
			}
		}
		d.Restore = &rpc.Restore{Manifest: v.newest, Update: v.update, Open: v.store.open}
	}
	v.newest = nil // nothing is taken over a savepoint
	e := v.r.start(ctx, d)
	return v.generation(e, &d)
}

// savepoint has checkpoints taken until it is time for a savepoint, which it returns; nil if the job ends before.
func (v *travel) savepoint(ctx context.Context, g *generation, after func() bool) (made *protocol.Manifest) {
	tick := time.NewTicker(time.Duration(1+v.rand.IntN(5)) * time.Millisecond)
	defer tick.Stop()
	quieted := make(chan error, 1)
	asked, at := false, uint64(0)
	for {
		select {
		case <-tick.C:
			if !asked && after != nil && after() {
				asked = true
				go func() { quieted <- g.e.Quiet(ctx, v.goOn == nil) }()
			} else if len(g.snapshots) < 2 {
				g.begin()
			}
		case err := <-quieted:
			if err != nil {
				v.t.Error(err)
				return nil
			}
			g.epoch++
			at = g.epoch
			g.snapshots[at] = make([]*protocol.Snapshot, len(g.tasks))
			g.e.Barrier(protocol.Begun{Epoch: at, Savepoint: "s"})
			g.complete(at) // all may have ended
		case a, ok := <-g.e.Answers():
			if !ok {
				return made
			}
			g.answer(a)
		}
		if made == nil && at != 0 && g.latest != nil && g.latest.Epoch == at {
			m := *g.latest
			m.Savepoint = true
			if made = &m; v.goOn == nil {
				return made
			}
			v.goOn()
		}
	}
}

// wantQuiet checks that nothing was under way when a savepoint was taken.
func wantQuiet(t *testing.T, m *protocol.Manifest) {
	t.Helper()
	if m == nil {
		t.Fatal("no savepoint")
	}
	for _, task := range m.Tasks {
		for _, p := range task.Parts {
			switch p.Kind {
			case protocol.Outbox, protocol.Tables, protocol.Spool:
				t.Errorf("task %d of %q has %v", task.Index, task.Stage, p.Kind)
			}
		}
	}
}
