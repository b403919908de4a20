package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

func TestPendingIsAQueueThatKnowsItsMinimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pending
		var slow []held
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(t, "elements")
				f := frame.Frame{Data: rapid.SliceOfN(rapid.Byte(), n, 3*n).Draw(t, "data"), Elements: n, MinTimestamp: timestamps().Draw(t, "ts")}
				hold := timestamps().Draw(t, "hold")
				p.push(f, hold)
				slow = append(slow, held{f, hold})
			},
			"pop": func(t *rapid.T) {
				if len(slow) == 0 {
					t.Skip("empty")
				}
				if diff := cmp.Diff(slow[0], p.pop(), cmp.AllowUnexported(held{})); diff != "" {
					t.Fatal(diff)
				}
				slow = slow[1:]
			},
			"shrink": func(t *rapid.T) {
				if len(slow) == 0 || slow[0].Elements == 1 {
					t.Skip("nothing to cut")
				}
				k := rapid.IntRange(1, slow[0].Elements-1).Draw(t, "cut")
				tail := frame.Frame{Data: slow[0].Data[k:], Elements: slow[0].Elements - k}
				p.shrink(tail)
				tail.MinTimestamp = slow[0].MinTimestamp
				slow[0].Frame = tail
			},
			"": func(t *rapid.T) {
				elements, bytes, low := 0, 0, int64(frame.MaxTimestamp)
				for _, f := range slow {
					elements += f.Elements
					bytes += f.Bytes()
					low = min(low, f.hold)
				}
				if p.len() != len(slow) || p.elements != elements || p.bytes != bytes || p.hold() != low {
					t.Fatalf("%d frames, %d elements, %d bytes from %d; want %d, %d, %d from %d",
						p.len(), p.elements, p.bytes, p.hold(), len(slow), elements, bytes, low)
				}
				if len(slow) > 0 {
					if diff := cmp.Diff(slow[0], *p.front(), cmp.AllowUnexported(held{})); diff != "" {
						t.Fatal(diff)
					}
				}
			},
		})
	})
}

// A queue that never runs empty must not remember all that went through it.
func TestPendingForgetsWhatWasTaken(t *testing.T) {
	var p pending
	p.push(frame.Frame{Elements: 1}, 0)
	for i := range 100_000 {
		p.push(frame.Frame{Elements: 1}, int64(i))
		p.pop()
	}
	if cap(p.frames) > 16 || cap(p.mins.entries) > 16 {
		t.Errorf("room for %d frames and %d minima, to hold one", cap(p.frames), cap(p.mins.entries))
	}
}
