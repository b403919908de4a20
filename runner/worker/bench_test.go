package worker

import (
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/portable/plan"
)

// BenchmarkStaging cuts and routes KVs of 100 bytes, as they come from harnesses in messages of 64 KiB.
// An operation is one element.
func BenchmarkStaging(b *testing.B) {
	layout := kvLayout(b)
	var chunk []byte
	elements := 0
	for len(chunk) < 64<<10 {
		chunk = append(chunk, windowed(int64(elements), kvOf(fmt.Sprintf("key%07d", elements*7919%1000), fmt.Sprintf("%074d", elements)))...)
		elements++
	}
	const chunks = 64 // in a bundle
	for _, c := range []struct {
		name  string
		kinds []plan.EdgeKind
		tasks []int
	}{
		{"forward", []plan.EdgeKind{plan.Forward}, []int{4}},
		{"keyed to 1", []plan.EdgeKind{plan.Keyed}, []int{1}},
		{"keyed to 4", []plan.EdgeKind{plan.Keyed}, []int{4}},
		{"keyed to 64", []plan.EdgeKind{plan.Keyed}, []int{64}},
		{"rebalance to 4", []plan.EdgeKind{plan.Rebalance}, []int{4}},
		{"keyed and forward", []plan.EdgeKind{plan.Keyed, plan.Forward}, []int{4, 4}},
	} {
		b.Run(c.name, func(b *testing.B) {
			routes := routesTo(layout, c.kinds, c.tasks)
			b.ReportAllocs()
			b.SetBytes(int64(len(chunk) / elements))
			for done := 0; done < b.N; {
				s := newStaging(routes, []string{"out"}, 0, spiller{})
				for range chunks {
					if err := s.add("out", chunk); err != nil {
						b.Fatal(err)
					}
					done += elements
				}
				if err := s.finish(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
