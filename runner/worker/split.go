package worker

import (
	"context"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
)

// live is an attempt that runs. Its lock keeps the attempt from ending while a
// split is under way: what the split gave back must be known before the commit.
type live struct {
	mu     sync.Mutex
	bundle *fnapi.Bundle
	ended  bool
	// refused counts splits in a row that the harness answered with an error.
	refused int
	// err is set where the harness may have given work away that we know nothing of.
	err error
}

func (x *execTask) enter(id engine.BundleID) *live {
	l := &live{}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.live[id] = l
	return l
}

func (l *live) set(b *fnapi.Bundle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bundle = b
}

// leave ends the attempt once no split is under way. An error means that it must
// not be committed.
func (x *execTask) leave(id engine.BundleID, l *live) error {
	l.mu.Lock()
	l.ended = true
	err := l.err
	l.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.live, id)
	return err
}

// split asks for a split and reports the answer, "no split" included, unless the
// attempt has ended.
func (x *execTask) split(ctx context.Context, req engine.SplitRequest) {
	defer x.bundles.Done()
	x.mu.Lock()
	l := x.live[req.ID]
	x.mu.Unlock()
	if l == nil {
		x.e.clock.end(1)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		x.e.clock.end(1)
		return
	}
	s := &engine.Split{}
	if l.bundle != nil && l.err == nil {
		if s, l.err = x.askSplit(ctx, l, req); l.err != nil {
			s = &engine.Split{}
			l.bundle.Abort(l.err)
		}
	}
	x.results <- outcome{bundle: req.ID, split: s}
}

// maxRefused is how many splits in a row the harness may answer with an error. TypeScript's
// does for bundles that it has not begun or has just ended; more of them are of the user's
// restriction tracker.
const maxRefused = 3

// askSplit returns the zero split if there was none. After an error of ours, be it that
// the answer does not come or that it can't be understood, the harness may have
// given work away: then the bundle must not be committed, even if it has ended
// well meanwhile.
func (x *execTask) askSplit(ctx context.Context, l *live, req engine.SplitRequest) (*engine.Split, error) {
	ctx, cancel := context.WithTimeout(ctx, x.e.cfg.Splits.Timeout)
	defer cancel()
	resp, err := l.bundle.Split(ctx, req.Fraction, int64(req.Elements), nil)
	if err == nil {
		err = ctx.Err() // the bundle has ended, but whether it was split is not known
	}
	if fault.ClassOf(err) == fault.UserCode {
		if l.refused++; l.refused < maxRefused {
			return &engine.Split{Refused: true}, nil
		}
		return nil, fault.New(fault.UserCode, "split of a running bundle, refused %d times: %w", l.refused, err)
	}
	l.refused = 0
	if err != nil {
		return nil, fault.New(fault.Retryable, "split of a running bundle, to be answered within %v: %w", x.e.cfg.Splits.Timeout, err)
	}
	s, err := x.readSplit(resp)
	if err != nil {
		return nil, fault.New(fault.Retryable, "split of a running bundle: %w", err)
	}
	return s, nil
}

func (x *execTask) readSplit(resp *fnpb.ProcessBundleSplitResponse) (*engine.Split, error) {
	s := &engine.Split{}
	channels := resp.GetChannelSplits()
	if len(channels) == 0 {
		if len(resp.GetPrimaryRoots())+len(resp.GetResidualRoots()) > 0 {
			return nil, fault.New(fault.Invalid, "a split with roots and no position in the input")
		}
		return s, nil
	}
	// Java names no transform: a stage has one source.
	if id := channels[0].GetTransformId(); len(channels) > 1 || id != "" && id != x.stage.Exec.Source {
		return nil, fault.New(fault.Invalid, "a split of inputs that the stage does not have, %q", channels[0].GetTransformId())
	}
	s.LastPrimary = int(channels[0].GetLastPrimaryElement())
	s.FirstResidual = int(channels[0].GetFirstResidualElement())
	for _, app := range resp.GetPrimaryRoots() {
		f, err := x.root(app)
		if err != nil {
			return nil, err
		}
		s.Primaries = append(s.Primaries, f)
	}
	var err error
	s.Residuals, err = x.residuals(resp.GetResidualRoots())
	return s, err
}

// root reads an element, or a part of one, that the SDK gave back.
func (x *execTask) root(app *fnpb.BundleApplication) (frame.Frame, error) {
	var el coders.Element
	if err := x.stage.In[0].Coder.Next(app.GetElement(), &el); err != nil {
		return frame.Frame{}, fault.New(fault.Corruption, "root of %s: %w", app.GetTransformId(), err)
	}
	if el.Size != len(app.GetElement()) {
		return frame.Frame{}, fault.New(fault.Corruption, "root of %s: %d bytes follow its element", app.GetTransformId(), len(app.GetElement())-el.Size)
	}
	return frame.Frame{Data: app.GetElement(), Elements: 1, MinTimestamp: el.Timestamp}, nil
}
