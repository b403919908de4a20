package panes

import (
	"errors"
	"slices"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/portable/coders"
)

// adder merges accumulators of a sum, which are varints as the values of rigs are.
type adder struct {
	calls, merged int
	most          int64 // that one window had
}

func (a *adder) merge(all []Accumulators) ([][]byte, error) {
	a.calls++
	out := make([][]byte, len(all))
	for i, acc := range all {
		a.most = max(a.most, acc.Count)
		n, sum := int64(0), int64(0)
		for rest := acc.Values; len(rest) > 0; n++ {
			v, size, err := coders.Varint(rest)
			if err != nil {
				return nil, err
			}
			sum += v
			rest = rest[size:]
		}
		if n != acc.Count || n < 2 || len(acc.Key) == 0 {
			return nil, errors.New("accumulators that don't come to their number")
		}
		a.merged += int(n)
		out[i] = coders.AppendVarint(nil, sum)
	}
	return out, nil
}

// combining makes a rig's values accumulators.
func (r *rig) combining() *adder {
	a := &adder{}
	r.cfg.Combine = a.merge
	r.reopen()
	return a
}

func sum(values []int64) int64 {
	s := int64(0)
	for _, v := range values {
		s += v
	}
	return s
}

// A window that lasts, of few keys and many elements, keeps a few accumulators, in memory and in
// the store; and what comes of a hot key that fires for each element grows as the elements do.
func TestAccumulatorsStayFew(t *testing.T) {
	for name, memory := range map[string]int64{"in memory": 0, "evicting": 1} {
		t.Run(name, func(t *testing.T) {
			ws := global(t)
			ws.Trigger, ws.AccumulationMode = repeat(count(1)), pipepb.AccumulationMode_ACCUMULATING
			r := newRig(t, ws, memory)
			a := r.combining()
			const blocks, perBlock = 50, 1000
			times := slices.Repeat([]int64{1}, perBlock)
			values, panes, early := 0, 0, int64(0)
			for i := range int64(blocks) {
				for _, p := range r.add("hot", times...) {
					values += len(p.Values)
					panes++
					if got := sum(p.Values); got != int64(panes) {
						t.Fatalf("pane %d sums to %d", panes, got)
					}
				}
				size := r.p.Stats().MemoryBytes + stored(r)
				if i == 0 {
					early = size
				}
				if size > 2*early+1000 {
					t.Fatalf("%d bytes after %d elements, %d after %d", size, (i+1)*perBlock, early, perBlock)
				}
			}
			if panes != blocks*perBlock || values > panes*(looseValues+1) {
				t.Errorf("%d values in %d panes of %d elements", values, panes, blocks*perBlock)
			}
			if a.calls > panes/looseValues+blocks || a.most > looseValues+1 {
				t.Errorf("%d calls with up to %d accumulators each for %d elements", a.calls, a.most, panes)
			}
		})
	}
}

func stored(r *rig) int64 {
	n := int64(0)
	r.must(r.cfg.Store.Scan(nil, nil, func(key, value []byte) bool {
		n += int64(len(key) + len(value))
		return true
	}))
	return n
}

// What accumulates until a distant count is merged many windows at a time.
func TestAccumulatorsOfManyKeysAreMergedAtOnce(t *testing.T) {
	ws := fixed(t, 10)
	ws.Trigger = repeat(count(10_000))
	r := newRig(t, ws, 0)
	a := r.combining()
	var block []byte
	for range looseValues + 1 {
		for key := range 100 {
			block = r.element(block, string(rune('a'+key)), 1)
		}
	}
	r.must(r.p.Add(block, r.time()))
	if got := r.read(); len(got) > 0 || a.calls != 1 || a.merged != 100*(looseValues+1) {
		t.Errorf("%v, and %d accumulators merged in %d calls", got, a.merged, a.calls)
	}
	for _, p := range r.advance(10) {
		if len(p.Values) != 1 || p.Values[0] != looseValues+1 {
			t.Errorf("%v", p)
		}
	}
	if got := r.p.Stats().Combined; got != 100*looseValues {
		t.Errorf("%d accumulators have gone into others", got)
	}
}

// Accumulators that grow with what is in them are not merged again for each few that come.
func TestGrowingAccumulatorsAreMergedSeldom(t *testing.T) {
	ws := global(t)
	ws.Trigger = count(1 << 20)
	r := newRig(t, ws, 0)
	components["kv"].ComponentCoderIds[1] = "bytes"
	defer func() { components["kv"].ComponentCoderIds[1] = "varint" }()
	in, err := coders.NewWindowed(compile(t, "kv"), r.strategy.WindowCoder)
	r.must(err)
	bytes := 0
	r.cfg.Input = in
	r.cfg.Combine = func(all []Accumulators) ([][]byte, error) {
		var out [][]byte
		for _, acc := range all {
			var list []byte
			for rest := acc.Values; len(rest) > 0; {
				n, size, err := coders.Varint(rest)
				if err != nil {
					return nil, err
				}
				list = append(list, rest[size:size+int(n)]...)
				rest = rest[size+int(n):]
			}
			bytes += len(list)
			out = append(out, coders.AppendBytes(nil, list))
		}
		return out, nil
	}
	r.reopen()
	var element []byte
	element = coders.AppendHeader(element, 1, 1, nil, []byte{coders.PaneNoFiring})
	element = coders.AppendBytes(element, []byte("k"))
	element = coders.AppendBytes(element, make([]byte, 10))
	const n = 100_000
	for range n / 100 {
		r.must(r.p.Add(slices.Repeat(element, 100), r.time()))
	}
	if bytes > 3*n*10 {
		t.Errorf("%d bytes merged, of elements with %d", bytes, n*10)
	}
}

// Whatever the windows and triggers, and wherever state is, merging accumulators changes nothing
// but how many there are.
func TestMergingAccumulatorsChangesNoSum(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		ws := drawStrategy(tt, t)
		plain := newRig(tt, ws, 0)
		combined := newRig(tt, ws, rapid.SampledFrom([]int64{0, 1, 4000}).Draw(t, "memory"))
		combined.combining()
		many := rapid.IntRange(1, 70).Draw(t, "many")
		watermark := int64(0)
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			ts := rapid.Int64Range(max(0, watermark-20), watermark+20).Draw(t, "time")
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
			times := slices.Repeat([]int64{ts}, many)
			times[len(times)-1]++
			same(t, i, plain.add(key, times...), combined.add(key, times...))
			if rapid.Bool().Draw(t, "advance") {
				watermark += rapid.Int64Range(0, 15).Draw(t, "watermark")
				same(t, i, plain.clock(plain.now+5), combined.clock(combined.now+5))
				same(t, i, plain.advance(watermark), combined.advance(watermark))
			}
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0:
				combined.must(combined.p.Flush())
			case 1:
				combined.save()()
			}
		}
		same(t, -1, plain.advance(coders.MaxTimestamp), combined.advance(coders.MaxTimestamp))
		if n := combined.p.Stats().MemoryBytes; n != 0 {
			t.Fatalf("%d bytes left", n)
		}
	})
}

// same compares panes but for what their values add up from.
func same(t *rapid.T, step int, plain, combined []pane) {
	t.Helper()
	for _, panes := range [][]pane{plain, combined} {
		for i := range panes {
			if len(panes[i].Values) > 0 {
				panes[i].Values = []int64{sum(panes[i].Values)}
			}
		}
	}
	if want, got := texts(plain), texts(combined); !slices.Equal(want, got) {
		t.Fatalf("step %d: %q of elements, %q of accumulators", step, want, got)
	}
}

// An error of the CombineFn is the user's to see.
func TestFailingCombineFn(t *testing.T) {
	ws := global(t)
	ws.Trigger = count(1000)
	r := newRig(t, ws, 0)
	failed := errors.New("the user's own")
	r.cfg.Combine = func([]Accumulators) ([][]byte, error) { return nil, failed }
	r.reopen()
	var block []byte
	for range looseValues + 1 {
		block = r.element(block, "k", 1)
	}
	if err := r.p.Add(block, r.time()); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}
