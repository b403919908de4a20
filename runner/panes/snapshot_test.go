package panes

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/statebackend"
)

// save takes a snapshot, of the store too, and returns what goes back to it.
func (r *rig) save() (goBack func()) {
	r.t.Helper()
	s, err := r.p.Snapshot()
	r.must(err)
	var image statebackend.Batch
	r.must(r.cfg.Store.Scan(nil, nil, func(key, value []byte) bool {
		image.Set(key, value)
		return true
	}))
	watermark, now := r.watermark, r.now
	pending := slices.Clone(s.Pending)
	for i := range pending {
		pending[i].Data = bytes.Clone(pending[i].Data)
	}
	return func() {
		r.t.Helper()
		for i := range pending {
			if !bytes.Equal(pending[i].Data, s.Pending[i].Data) {
				r.t.Fatal("panes that were to be read have changed")
			}
		}
		r.watermark, r.now = watermark, now
		cfg := r.cfg
		cfg.Store, cfg.Restore = newMemory(r.t), s
		r.must(cfg.Store.Commit(&image))
		r.p, err = New(cfg)
		r.must(err)
		r.cfg.Store = cfg.Store
	}
}

// restored goes on from a snapshot, if that is how the rig goes.
func (r *rig) restored() {
	r.t.Helper()
	if r.restoring {
		r.save()()
	}
}

// Panes that go back to a snapshot of any moment, that between two blocks of panes included, fire what
// they would have.
func TestCrashesChangeNothing(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		hot, cold := newRig(tt, ws, 0), newRig(tt, ws, rapid.SampledFrom([]int64{0, 1, 1500, 4000}).Draw(t, "memory"))
		cold.restoring = rapid.IntRange(0, 3).Draw(t, "always") == 0
		steps := drawSteps(t)
		var want [][]string
		for _, do := range steps {
			want = append(want, texts(do(hot)))
		}
		saved, goBack := 0, cold.save()
		crashes := rapid.IntRange(0, 4).Draw(t, "crashes")
		for i := 0; i < len(steps); i++ {
			if got := texts(steps[i](cold)); !slices.Equal(want[i], got) {
				t.Fatalf("step %d: %q, and %q after crashes", i, want[i], got)
			}
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0:
				saved, goBack = i+1, cold.save()
			case 1:
				if crashes--; crashes >= 0 {
					goBack()
					i = saved - 1
				}
			case 2:
				_, err := cold.p.FlushSome(rapid.IntRange(1, 300).Draw(t, "bytes"))
				cold.must(err)
			}
		}
		if a, b := hot.p.Hold(), cold.p.Hold(); a != b {
			t.Fatalf("holds %d, and %d after crashes", a, b)
		}
		cold.must(cold.p.Flush())
		cold.must(cold.cfg.Store.Scan(nil, nil, func(key, _ []byte) bool {
			t.Fatalf("%x is left", key)
			return false
		}))
	})
}

// Flushing in portions comes to an end, and has the same in the store then as flushing at once.
func TestFlushSome(t *testing.T) {
	records := func(some bool) (n, rounds int) {
		r := newRig(t, fixed(t, 10), 0)
		for i := range 200 {
			r.add(string(rune('a'+i)), 1, 2, 3)
		}
		for done := !some; !done; rounds++ {
			var err error
			done, err = r.p.FlushSome(500)
			r.must(err)
			if rounds == 3 { // what changes meanwhile is written too
				r.add("a", 4)
			}
		}
		r.must(r.p.Flush())
		if len(r.p.changed) > 0 {
			t.Errorf("%d units are to be written", len(r.p.changed))
		}
		r.must(r.cfg.Store.Scan(nil, nil, func(_, _ []byte) bool { n++; return true }))
		return n, rounds
	}
	n, rounds := records(true)
	if all, _ := records(false); n != all || rounds < 20 || rounds > 200 {
		t.Errorf("%d records in %d rounds, %d at once", n, rounds, all)
	}
}

// A unit that changes all the time does not keep others from being written.
func TestFlushSomeIsFair(t *testing.T) {
	r := newRig(t, fixed(t, 10), 0)
	for i := range 50 {
		r.add(string(rune('a'+i)), 1)
	}
	for range 60 {
		r.add("hot", 1)
		_, err := r.p.FlushSome(1)
		r.must(err)
	}
	if len(r.p.changed) > 1 {
		t.Errorf("%d units are still to be written", len(r.p.changed))
	}
}

// What is gone is not kept for the sake of those who flush.
func TestUnitsThatAreGoneAreForgotten(t *testing.T) {
	r := newRig(t, fixed(t, 10), 0)
	for i := range int64(1000) {
		r.add("k", 10*i)
		r.advance(10*i + 10)
	}
	if len(r.p.changed) > 0 || cap(r.p.changed) > 16 {
		t.Errorf("%d units to be written, room for %d", len(r.p.changed), cap(r.p.changed))
	}
}

// What is due at the moment of a snapshot, and has not been done, is done as it would have been: by the time it was,
// and late where it is.
func TestWhatIsDueSurvivesCrashes(t *testing.T) {
	for _, crash := range []bool{false, true} {
		ws := fixed(t, 10)
		ws.AllowedLateness = 1000
		ws.Trigger = repeat(afterDelay(10))
		r := newRig(t, ws, 0)
		r.advance(20)
		r.add("a", 1)
		r.add("b", 2)
		r.now = 10
		r.must(r.p.Advance(r.watermark, r.time()))
		if crash {
			r.save()()
		}
		r.expect("at its time", r.read(), "a [0 9] [1] @9 late first 0/0", "b [0 9] [2] @9 late first 0/0")
	}
}
