package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/sideinput"
)

// liveSide is a side input whose contents change.
type liveSide struct {
	*sideinput.Live
	// readers are the tasks that read it, by the index of their stage and their own.
	readers map[int][]*sideinput.Reader
}

func (t *task) sideConfig() sideinput.Config {
	return sideinput.Config{
		Input:       t.stage.Side.Input,
		Multimap:    t.stage.Side.Multimap,
		MemoryBytes: t.e.tableBytes(t.e.share(tablesShare)),
		Dir:         t.e.dir,
	}
}

// makeLives makes what the tasks of a job share of side inputs whose contents change.
func (e *execution) makeLives() error {
	for _, s := range e.d.Plan.Stages {
		if s.Kind != plan.SideInput || s.Side.Group == nil {
			continue
		}
		t := &task{e: e, stage: s}
		live, err := sideinput.NewLive(t.sideConfig(), s.Side.Panes, s.Side.Group.Windowing)
		if err != nil {
			return fmt.Errorf("stage %s: %w", s.ID, err)
		}
		l := &liveSide{Live: live, readers: map[int][]*sideinput.Reader{}}
		for _, out := range s.Out {
			for range e.parallelism(out.To) {
				l.readers[out.To.Index] = append(l.readers[out.To.Index], live.NewReader())
			}
		}
		e.lives[s.Index] = l
	}
	return nil
}

// runSide materialises a PCollection and lets its readers begin.
func (t *task) runSide(ctx context.Context, from *restored) error {
	if t.stage.Side.Group != nil {
		return t.runLiveSide(ctx, from)
	}
	b, err := sideinput.NewBuilder(t.sideConfig())
	if err != nil {
		return err
	}
	defer b.Close()
	if err := t.collect(ctx, func(f frame.Frame) error { return b.Add(f.Data) }); err != nil {
		return err
	}
	v, err := b.Build()
	if err != nil {
		return err
	}
	t.e.cfg.Hooks.Spilled(b.SpilledBytes() + v.Stats().OnDisk)
	t.e.sides[t.stage.Index].Store(v)
	return t.end(ctx)
}

// runLiveSide groups a PCollection by window and shows its readers the latest pane of each.
// They hear of panes as of watermarks: by a message on the edge, which says again how far
// the side input is.
func (t *task) runLiveSide(ctx context.Context, from *restored) error {
	live := t.e.lives[t.stage.Index]
	return t.runGrouping(ctx, from, grouped{
		spec:    t.stage.Side.Group,
		prepare: func(block []byte) ([]byte, error) { return underNoKey(t.stage.Side.Input, block) },
		panes: func(f frame.Frame) error {
			before := live.SpilledBytes()
			err := live.Replace(f.Data)
			t.e.cfg.Hooks.Spilled(live.SpilledBytes() - before)
			return err
		},
		reached: live.Advance,
	})
}

// underNoKey puts windowed elements under the empty key.
func underNoKey(layout *coders.Windowed, block []byte) ([]byte, error) {
	out := make([]byte, 0, len(block)+len(block)/16)
	var el coders.Element
	for at := 0; at < len(block); at += el.Size {
		if err := layout.Next(block[at:], &el); err != nil {
			return nil, fmt.Errorf("at byte %d: %w", at, err)
		}
		header := at + el.Size - len(el.Key) - len(el.Value)
		out = append(out, block[at:header]...)
		out = append(out, 0)
		out = append(out, block[header:at+el.Size]...)
	}
	return out, nil
}

// pins are the versions of side inputs that one attempt of a bundle reads, from its
// beginning to its end.
type pins struct {
	mu   sync.RWMutex           // held while one is read
	live map[int]*sideinput.Pin // by stage index; nil once the attempt has ended
}

// pinSides pins the side inputs that change, if the stage reads any.
func (e *execution) pinSides(spec *plan.ExecutableSpec) *pins {
	var p pins
	for _, ref := range spec.SideInputs {
		if l := e.lives[ref.Stage.Index]; l != nil && p.live[ref.Stage.Index] == nil {
			if p.live == nil {
				p.live = map[int]*sideinput.Pin{}
			}
			p.live[ref.Stage.Index] = l.Pin()
		}
	}
	if p.live == nil {
		return nil
	}
	return &p
}

// end lets go of them. A state request may still be under way if the attempt has failed.
func (p *pins) end() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, pin := range p.live {
		errs = append(errs, pin.Close())
	}
	p.live = nil
	return errors.Join(errs...)
}

// readSide hands look what a side input has in a window.
func (s *stateHandler) readSide(transform, name string, window []byte, look func(*sideinput.View) error) error {
	at := slices.IndexFunc(s.spec.SideInputs, func(ref plan.SideInputRef) bool { return ref.Transform == transform && ref.Name == name })
	if at < 0 {
		return fault.New(fault.Invalid, "transform %q has no side input %q in this stage", transform, name)
	}
	stage := s.spec.SideInputs[at].Stage
	if s.e.lives[stage.Index] == nil {
		v := s.e.sides[stage.Index].Load()
		if v == nil {
			return fault.New(fault.Internal, "side input %s of %s is not ready", name, transform)
		}
		return look(v)
	}
	s.pins.mu.RLock()
	defer s.pins.mu.RUnlock()
	pin := s.pins.live[stage.Index]
	if pin == nil {
		return errAttemptEnded
	}
	return look(pin.View(window))
}

// sideTokens are the tokens under which a harness may keep what it has read of side inputs. What
// doesn't change has one for the job. For what changes there is one a version, for SDKs
// that declare to cache by token: Go's takes the token that came last for that of all bundles.
func (x *execTask) sideTokens(p *pins) []*fnpb.ProcessBundleRequest_CacheToken {
	spec := x.stage.Exec
	caches := slices.Contains(x.e.d.Plan.Environments[spec.Environment].GetCapabilities(), urns.CapabilityStateCaching)
	var tokens []*fnpb.ProcessBundleRequest_CacheToken
	for _, ref := range spec.SideInputs {
		token := fmt.Sprintf("%s/%d/%s", x.e.d.JobID, x.e.d.Generation, ref.Stage.ID)
		if x.e.lives[ref.Stage.Index] != nil {
			if !caches {
				continue
			}
			token = fmt.Sprintf("%s/%d", token, p.live[ref.Stage.Index].Version())
		}
		tokens = append(tokens, &fnpb.ProcessBundleRequest_CacheToken{
			Type: &fnpb.ProcessBundleRequest_CacheToken_SideInput_{SideInput: &fnpb.ProcessBundleRequest_CacheToken_SideInput{
				TransformId: ref.Transform, SideInputId: ref.Name,
			}},
			Token: []byte(token),
		})
	}
	return tokens
}

func (e *execution) closeSides() {
	e.reads.close()
	for i := range e.large {
		e.closeLarge(&e.large[i])
	}
	for i := range e.sides {
		var err error
		if v := e.sides[i].Swap(nil); v != nil {
			err = v.Close()
		}
		if l := e.lives[i]; l != nil {
			err = errors.Join(err, l.Close())
		}
		if err != nil {
			e.log.Warn("side input not closed", "error", err)
		}
	}
}
