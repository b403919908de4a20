package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable/plan"
)

// prompt is how soon a cancelled job ends; the longest that harnesses are given
// is longer, and nothing in these tests needs it.
const prompt = 5 * time.Second

// cancelled cancels a job when its harness calls the function that it is given,
// and checks how it ends. The rig checks that nothing is left.
func cancelled(t *testing.T, p *program, prepare func(r *rig, cancel func())) {
	t.Helper()
	r := newRig(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	at := make(chan time.Time, 1)
	prepare(r, func() {
		select {
		case at <- time.Now():
		default:
		}
		cancel()
	})
	err := r.wait(r.deploy(ctx, p.plan))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the job ends with %v", err)
	}
	select {
	case began := <-at:
		if took := time.Since(began); took > prompt {
			t.Errorf("it took %v", took)
		}
	default:
		t.Error("nobody cancelled")
	}
}

func TestCancel(t *testing.T) {
	// in cancels when a bundle of a transform is at some point.
	in := func(transform string, then func(*program, *process, *fnapitest.Bundle) error) func(*testing.T) {
		return func(t *testing.T) {
			p := shuffle(t, 100, 5, nil)
			cancelled(t, p, func(r *rig, cancel func()) {
				r.launcher.script = func(me *process) fnapitest.Script {
					return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
						if p.stage(b).Transforms[0] != transform {
							return p.process(b)
						}
						cancel()
						return then(p, me, b)
					}}
				}
			})
		}
	}
	never := func(_ *program, me *process, _ *fnapitest.Bundle) error {
		<-me.stop
		return nil
	}
	t.Run("while a harness is launched", func(t *testing.T) {
		cancelled(t, shuffle(t, 1, 1, nil), func(r *rig, cancel func()) {
			r.launcher.born = func(*process) { cancel() }
		})
	})
	t.Run("while harnesses connect", func(t *testing.T) {
		cancelled(t, shuffle(t, 1, 1, nil), func(_ *rig, cancel func()) {
			time.AfterFunc(20*time.Millisecond, cancel)
		})
	})
	t.Run("while harnesses are replaced", func(t *testing.T) {
		p := shuffle(t, 1, 1, nil)
		cancelled(t, p, func(r *rig, cancel func()) {
			r.cfg.Attempts = 100
			r.launcher.born = func(me *process) {
				if me.n > r.deployment.Harnesses {
					cancel()
				}
			}
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
					me.die(errCrash)
					return errCrash // not a success that arrives before the connection breaks
				}}
			}
		})
	})
	t.Run("in the first bundle", in("split", never))
	t.Run("in a bundle after a shuffle", in("ungroup", never))
	t.Run("in a bundle that fails", in("kv", func(*program, *process, *fnapitest.Bundle) error { return errors.New("out of luck") }))
	t.Run("in a bundle that succeeds", in("kv", func(p *program, _ *process, b *fnapitest.Bundle) error { return p.process(b) }))
	t.Run("in a bundle that goes on sending", in("split", func(p *program, me *process, b *fnapitest.Bundle) error {
		chunk := make([]byte, 1<<20)
		for {
			select {
			case <-me.stop:
				return nil
			default:
				if err := b.Emit(p.stage(b).Exec.Sinks[0], chunk); err != nil {
					return err
				}
			}
		}
	}))
	t.Run("while output that was spilled waits", func(t *testing.T) {
		p := shuffle(t, 6, 5, nil)
		p.fns["split"] = func(c *call) error {
			for range 8 {
				c.emit(bytesOf(string(make([]byte, 3<<20))))
			}
			return nil
		}
		cancelled(t, p, func(r *rig, cancel func()) {
			r.cfg.MemoryBytes = 16 << 20
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: func(b *fnapitest.Bundle) error {
					if p.stage(b).Transforms[0] == "split" {
						return p.process(b)
					}
					cancel()
					return never(p, me, b)
				}}
			}
		})
	})
	t.Run("in a bundle whose harness dies", in("kv", func(_ *program, me *process, _ *fnapitest.Bundle) error {
		me.die(errCrash)
		return nil
	}))
	t.Run("in a finalisation that hangs", func(t *testing.T) {
		p := shuffle(t, 100, 5, nil)
		finalizing(p)
		cancelled(t, p, func(r *rig, cancel func()) {
			r.cfg.Attempts = 100
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{Process: p.process, Finalize: func(string) error {
					cancel()
					<-me.stop
					return nil
				}}
			}
		})
	})
	t.Run("in a request for progress that hangs", func(t *testing.T) {
		p := shuffle(t, 100, 5, nil)
		cancelled(t, p, func(r *rig, cancel func()) {
			r.launcher.script = func(me *process) fnapitest.Script {
				return fnapitest.Script{
					Process: func(b *fnapitest.Bundle) error { return never(p, me, b) },
					Progress: func(*fnapitest.Bundle) *fnpb.ProcessBundleProgressResponse {
						cancel()
						<-me.stop
						return nil
					},
				}
			}
		})
	})
	t.Run("while residuals wait", func(t *testing.T) {
		p, _ := countdown(t, "3", time.Hour)
		cancelled(t, p, func(r *rig, cancel func()) {
			after := p.after
			p.after = func(b *fnapitest.Bundle, s *plan.Stage) error {
				if s.Transforms[0] == "count" {
					time.AfterFunc(20*time.Millisecond, cancel)
				}
				return after(b, s)
			}
			r.launcher.script = p.script
		})
	})
}

// A job with all kinds of work is cancelled after the nth attempt of a bundle, for all n.
func TestCancelAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		var over bool
		t.Run(fmt.Sprint("after ", n, " bundles"), func(t *testing.T) {
			p := shuffle(t, 60, 3, nil)
			finalizing(p)
			r := newRig(t, p.script)
			r.cfg.Attempts = 100
			r.cfg.MemoryBytes = 16 << 20
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var bundles atomic.Int64
			r.cfg.Hooks.BundleDone = func(bool, int, int, int, time.Duration) {
				if bundles.Add(1) == int64(n) {
					cancel()
				}
			}
			err := r.wait(r.deploy(ctx, p.plan))
			if err == nil {
				wantShuffled(t, p, 60, 3)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			over = bundles.Load() < int64(n) || n == 40
		})
		if over {
			return
		}
	}
}
