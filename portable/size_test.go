package portable_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// large are pipelines of n transforms, in the shapes that machines make.
var large = map[string]func(n int) *Pipeline{
	"chain": func(n int) *Pipeline {
		p := New()
		in := p.Impulse("impulse")
		for i := range n {
			in = p.ParDo(fmt.Sprintf("t%06d", i), Env, Opaque, in)
		}
		return p
	},
	"star": func(n int) *Pipeline {
		p := New()
		in := p.ParDo("read", Env, KV, p.Impulse("impulse"))
		for i := range n {
			p.ParDo(fmt.Sprintf("t%06d", i), Env, KV, in)
		}
		return p
	},
	// Each transform its own stage, and no two alike.
	"groups": func(n int) *Pipeline {
		p := New()
		in := p.ParDo("read", Env, KV, p.Impulse("impulse"))
		for i := range n / 3 {
			in = p.ParDo(fmt.Sprintf("p%06d", i), Env, KV, p.GroupByKey(fmt.Sprintf("g%06d", i), p.Combine(fmt.Sprintf("c%06d", i), Env, in)))
		}
		return p
	},
	"coders": func(n int) *Pipeline {
		p := New()
		in := p.Impulse("impulse")
		for i := range n {
			opaque := p.Coder(fmt.Sprintf("opaque%06d", i), fmt.Sprintf("test:coder:%d", i))
			env := Env
			if i%2 == 1 {
				env = Other
			}
			in = p.ParDo(fmt.Sprintf("t%06d", i), env, p.Coder(fmt.Sprintf("coder%06d", i), urns.CoderKV, Bytes, opaque), in)
		}
		return p
	},
	"sides": func(n int) *Pipeline {
		p := New()
		main := p.ParDo("main", Env, KV, p.Impulse("impulse"))
		side := p.ParDo("side", Env, KV, main)
		for i := range n {
			side = p.ParDo(fmt.Sprintf("t%06d", i), Env, KV, main, side)
		}
		return p
	},
	"flattens": func(n int) *Pipeline {
		p := New()
		in := p.Impulse("impulse")
		for i := range n / 4 {
			a := p.ParDo(fmt.Sprintf("a%06d", i), Env, Bytes, in)
			b := p.ParDo(fmt.Sprintf("b%06d", i), Other, Bytes, in)
			in = p.ParDo(fmt.Sprintf("c%06d", i), Env, Bytes, p.Flatten(fmt.Sprintf("f%06d", i), Bytes, a, b))
		}
		return p
	},
	"splittable": func(n int) *Pipeline {
		p := New()
		in := p.Impulse("impulse")
		for i := range n {
			in = p.ParDoWith(fmt.Sprintf("t%06d", i), Env, &pipepb.ParDoPayload{RestrictionCoderId: Opaque}, Bytes, in)
		}
		return p
	},
}

// TestManySideInputs pins what once took minutes: side inputs that each depend on the last.
func TestManySideInputs(t *testing.T) {
	p := large["sides"](3_000)
	pl := compile(t, p)
	if n := len(pl.Stages); n < 6_000 { // one for each and one to materialise it
		t.Errorf("%d stages: one of them waits for itself", n)
	}
}

// TestChainOfFlattens is what loops write that add to a PCollection: only the last is read.
func TestChainOfFlattens(t *testing.T) {
	p := New()
	all := p.Impulse("impulse")
	for i := range 1_000 {
		all = p.Flatten(fmt.Sprintf("f%d", i), Bytes, all, p.Impulse(fmt.Sprintf("i%d", i)))
	}
	p.ParDo("read", Env, Bytes, all)
	if n := len(compile(t, p).Edges); n != 1_001 {
		t.Errorf("%d edges, want one for each Impulse", n)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, shape := range slices.Sorted(maps.Keys(large)) {
		for _, n := range []int{1_000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", shape, n), func(b *testing.B) {
				p := large[shape](n).Proto
				b.ReportAllocs()
				for b.Loop() {
					if _, err := portable.Compile(context.Background(), p, portable.Options{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func TestInterruptedPlanning(t *testing.T) {
	p := large["chain"](10).Proto
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client is gone")
	cancel(gone)
	if _, err := portable.Compile(ctx, p, portable.Options{}); !errors.Is(err, gone) {
		t.Errorf("error %v, want what ended the context", err)
	}
}

func TestTooManyEdges(t *testing.T) {
	p := New()
	all := p.Impulse("impulse")
	for i := range 500 {
		all = p.Flatten(fmt.Sprintf("f%d", i), Bytes, all, p.Impulse(fmt.Sprintf("i%d", i)))
		p.ParDo(fmt.Sprintf("read%d", i), Env, Bytes, all)
	}
	_, err := portable.Compile(t.Context(), p.Proto, portable.Options{})
	if fault.ClassOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "edges") {
		t.Errorf("error %v, want one of too many edges", err)
	}
}
