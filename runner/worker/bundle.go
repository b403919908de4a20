package worker

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/fnapi"
	"github.com/lintelrun/lintel/runner/engine"
	"github.com/lintelrun/lintel/runner/frame"
)

// plentyBytes of output in a bundle of unbounded work are worth a commit.
const plentyBytes = 4 << 20

// start runs an attempt, on a goroutine that has run others if there is one: its stack has grown.
func (x *execTask) start(ctx context.Context, b engine.Bundle, turn int, keyed *keyedAttempt) {
	x.bundles.Add(1)
	l := x.enter(b.ID) // at once: a split may be asked for before the attempt's goroutine runs
	run := func() { x.attempt(ctx, b, l, turn, keyed) }
	select {
	case x.attempts <- run:
	default:
		go func(run func()) { // which is not kept while it waits: it holds the bundle's input
			for ok := true; ok; run, ok = <-x.attempts {
				run()
			}
		}(run)
	}
}

// attempt runs one attempt of a bundle and reports its outcome. It owns nothing
// of the task but what it is given.
func (x *execTask) attempt(ctx context.Context, b engine.Bundle, l *live, turn int, keyed *keyedAttempt) {
	defer x.bundles.Done()
	began := time.Now()
	x.e.spans.began(x.stage, began)
	out := newStaging(x.routes, x.stage.Exec.Sinks, turn, x.e.spiller())
	r := outcome{bundle: b.ID, attempt: b.Attempt, out: out, keyed: keyed}
	r.err = x.process(ctx, &b, l, &r)
	if err := x.leave(b.ID, l); r.err == nil {
		r.err = err
	}
	if r.keyed != nil {
		r.err = errors.Join(r.err, r.keyed.end())
	}
	r.err = errors.Join(r.err, r.pins.end())
	out.spill.close()
	x.e.cfg.Hooks.BundleDone(r.err == nil, b.Elements, b.Bytes, out.bytes, time.Since(began))
	x.e.cfg.Hooks.Spilled(out.spill.spilled())
	x.e.spans.bundle(x, &b, began, out.bytes, r.err)
	x.results <- r
}

func (x *execTask) process(ctx context.Context, b *engine.Bundle, l *live, r *outcome) (err error) {
	h, err := x.pool.acquire(ctx)
	if err != nil {
		return err
	}
	defer func() { x.pool.release(h, err == nil) }()
	spec := x.stage.Exec
	if x.keyed != nil {
		if b.Frames, r.late, err = x.keyed.admit(x.stage.In[0].Coder, b.Frames); err != nil {
			return err
		}
	}
	r.pins = x.e.pinSides(spec)
	fb, err := h.NewBundle(fnapi.BundleSpec{
		Descriptor:  x.e.descriptorID(x.stage, variantOf(b)),
		Source:      spec.Source,
		Sinks:       spec.Sinks,
		Timers:      x.families(),
		State:       gated{&x.e.reads, &stateHandler{e: x.e, spec: spec, keyed: r.keyed, pins: r.pins}},
		CacheTokens: x.stateToken(h, x.sideTokens(r.pins)),
	})
	if err != nil {
		return h.explain(ctx, err)
	}
	// Whatever way this ends, nothing of the bundle stays behind.
	defer fb.Abort(context.Canceled)
	stop := context.AfterFunc(ctx, func() { fb.Abort(ctx.Err()) })
	defer stop()
	l.set(fb)
	output := func() {}
	if spec.Unbounded {
		l := x.watch(b.ID)
		defer l.end()
		output = l.hint
	}
	tracked := x.e.stats.begin(x.stage, fb, output)
	defer x.e.stats.end(tracked)

	fed := x.beginFeed(fb, b)
	err = drain(ctx, fb, r, output)
	if err != nil {
		fb.Abort(err)
	}
	if err = cmp.Or(err, fed()); err != nil {
		return h.explain(ctx, err)
	}
	return x.conclude(ctx, h, fb, b, r)
}

// beginFeed feeds a bundle: at once if its input goes out without waiting for the harness, as it does not take
// more before somebody reads its output. The result waits for the end.
func (x *execTask) beginFeed(fb *fnapi.Bundle, b *engine.Bundle) (wait func() error) {
	feed := func() error {
		err := x.feed(fb, b)
		if err != nil {
			fb.Abort(err) // it would wait for the rest of its input for ever
		}
		return err
	}
	if b.Bytes < fnapi.BatchBytes && len(b.Timers) == 0 {
		err := feed()
		return func() error { return err }
	}
	fed := make(chan error, 1)
	go func() { fed <- feed() }()
	return func() error { return <-fed }
}

func (x *execTask) feed(fb *fnapi.Bundle, b *engine.Bundle) error {
	for _, f := range b.Frames {
		if err := fb.Send(f.Data); err != nil {
			return err
		}
	}
	if len(b.Timers) > 0 {
		if err := x.keyed.sendTimers(fb, b.Timers); err != nil {
			return err
		}
	}
	return fb.CloseSend()
}

// drain reads the bundle's output to its end, and calls plenty when there is much of it.
func drain(ctx context.Context, fb *fnapi.Bundle, r *outcome, plenty func()) error {
	for {
		if r.out.bytes > plentyBytes {
			plenty()
		}
		o, err := fb.Recv(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return r.finish()
		case err != nil:
			return err
		case o.Timer != "":
			err = r.keyed.output.add(o.Timer, o.Data)
		default:
			err = r.out.add(o.Transform, o.Data)
		}
		if err != nil {
			return err
		}
	}
}

// finish checks that all output has come to its end.
func (r *outcome) finish() error {
	if r.keyed != nil {
		if err := r.keyed.output.finish(); err != nil {
			return err
		}
	}
	return r.out.finish()
}

// conclude reads what the response asks for. Metrics count once, at the commit.
func (x *execTask) conclude(ctx context.Context, h *harness, fb *fnapi.Bundle, b *engine.Bundle, r *outcome) error {
	resp := fb.Response()
	infos, err := fb.Metrics(ctx)
	if err != nil {
		return h.explain(ctx, err)
	}
	res, err := x.residuals(resp.GetResidualRoots())
	if err != nil {
		return err
	}
	if r.keyed != nil {
		if err := r.keyed.conclude(x.stage.In[0].Coder, b); err != nil {
			return err
		}
	}
	r.result.Residuals, r.result.OutputBytes = res, r.out.bytes
	r.commit = func() {
		x.e.stats.commit(x.task, infos)
		x.e.stats.lateDropped(x.task, r.late)
		switch c := x.e.checkpoints; {
		case !resp.GetRequiresFinalization():
		case c != nil:
			c.final.add(x.epoch+1, x, fb)
		default:
			x.bundles.Add(1)
			x.e.clock.begin(1)
			go func() {
				defer x.bundles.Done()
				defer x.e.clock.end(1)
				if err := finalize(ctx, fb); err != nil {
					x.log.Warn("bundle not finalised", "bundle", fb.ID(), "error", err)
				}
			}()
		}
	}
	return nil
}

// residuals turns the rest of elements, given back by the SDK, into input.
func (x *execTask) residuals(roots []*fnpb.DelayedBundleApplication) ([]engine.Residual, error) {
	var out []engine.Residual
	for _, root := range roots {
		app := root.GetApplication()
		f, err := x.root(app)
		if err != nil {
			return nil, err
		}
		wm := int64(frame.MaxTimestamp)
		for _, ts := range app.GetOutputWatermarks() {
			wm = min(wm, ts.AsTime().UnixMilli())
		}
		if len(app.GetOutputWatermarks()) == 0 {
			wm = frame.MinTimestamp
		}
		out = append(out, engine.Residual{
			Frame:           f,
			OutputWatermark: wm,
			Delay:           root.GetRequestedTimeDelay().AsDuration(),
			Bounded:         app.GetIsBounded() == pipepb.IsBounded_BOUNDED,
		})
	}
	return out, nil
}
