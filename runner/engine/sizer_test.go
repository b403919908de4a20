package engine

import (
	"testing"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// Bundles come to take the target, whatever elements and bundles cost: of bounded input they are longer.
func TestBundlesTakeTheTarget(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		bounded            bool
		first, bundle, per time.Duration // what the first bundle costs above, each bundle, each element
		want               time.Duration
	}{
		"cheap":             {per: ms / 100, want: 200 * ms},
		"expensive":         {per: 5 * ms, want: 200 * ms},
		"dear bundles":      {bundle: 90 * ms, per: ms / 100, want: 200 * ms},
		"bounded":           {bounded: true, per: ms / 100, want: time.Second},
		"bounded, dear":     {bounded: true, per: 30 * ms, want: time.Second},
		"cold harness":      {bounded: true, first: 3 * time.Second, per: ms / 100, want: time.Second},
		"an element is all": {per: time.Second, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			task := NewTask(Config{Main: 1, InFlight: 1, Bounded: c.bounded, Cut: cutElements})
			now := time.Unix(0, 0)
			task.Frame(frame.Frame{Data: make([]byte, 5_000_000*elementSize), Elements: 5_000_000}, 0)
			var took time.Duration
			for i := range 20 {
				r, err := task.Ready(now)
				if err != nil || len(r.Start) != 1 {
					t.Fatalf("bundle %d: %d start, %v", i, len(r.Start), err)
				}
				took = c.bundle + time.Duration(r.Start[0].Elements)*c.per
				if i == 0 {
					took += c.first
				}
				now = now.Add(took)
				task.Succeeded(r.Start[0].ID, Result{}, now)
			}
			if took < c.want*9/10 || took > c.want*11/10 {
				t.Errorf("the last bundle took %v, want %v", took, c.want)
			}
		})
	}
}

// One bundle that took long, as on a busy machine, makes the next half as large and no smaller; the one after it may be
// four times as large.
func TestOneSlowBundle(t *testing.T) {
	s := newSizer(Limits{First: 1000}, false)
	s.observe(&Bundle{Elements: 1000}, time.Minute, 0)
	if s.elements != 500 {
		t.Errorf("%d elements after a slow bundle of 1000, want 500", s.elements)
	}
	s.observe(&Bundle{Elements: 500}, time.Millisecond, 0)
	if s.elements != 2000 {
		t.Errorf("%d elements after a quick bundle of 500, want 2000", s.elements)
	}
	s.observe(&Bundle{Elements: 10}, time.Millisecond, 0)
	if s.elements != 2000 {
		t.Errorf("%d elements after a quick bundle that was not full, want 2000", s.elements)
	}
}
