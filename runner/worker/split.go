package worker

import (
	"context"
	"sync"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
)

// splitTimeout is how long a harness may take to answer a split request. One
// that comes too late would be lost work, so the harness is given up then.
const splitTimeout = 30 * time.Second

// live is an attempt that runs. Its lock keeps the attempt from ending while a
// split is under way: what the split gave back must be known before the commit.
type live struct {
	mu     sync.Mutex
	bundle *fnapi.Bundle
	ended  bool
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

func (x *execTask) leave(id engine.BundleID, l *live) {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.live, id)
}

// split asks for a split and reports the answer, "no split" included, unless the
// attempt has ended.
func (x *execTask) split(ctx context.Context, req engine.SplitRequest) {
	defer x.bundles.Done()
	x.mu.Lock()
	l := x.live[req.ID]
	x.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	s := &engine.Split{}
	if l.bundle != nil {
		s = x.askSplit(ctx, l.bundle, req)
	}
	x.results <- outcome{bundle: req.ID, split: s}
}

// askSplit returns the zero split if there was none. A bundle whose split can't
// be understood is given up: its harness may have given work away.
func (x *execTask) askSplit(ctx context.Context, b *fnapi.Bundle, req engine.SplitRequest) *engine.Split {
	ctx, cancel := context.WithTimeout(ctx, splitTimeout)
	defer cancel()
	resp, err := b.Split(ctx, req.Fraction, int64(req.Elements), nil)
	if err == nil {
		var s *engine.Split
		if s, err = x.readSplit(resp); err == nil {
			return s
		}
	}
	b.Abort(fault.New(fault.Retryable, "split of a running bundle: %w", err))
	return &engine.Split{}
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
	if len(channels) > 1 || channels[0].GetTransformId() != x.stage.Exec.Source {
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
