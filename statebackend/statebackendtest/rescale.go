package statebackendtest

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/statebackend"
)

// grouped is a cell of one of many groups.
func grouped(i int) (group int, key []byte) {
	c := cell(i)
	return int(c.Group), c.AppendKey(nil)
}

const groups = 1024

// testRescale: the state of one task goes to 8, and from these to 3.
func testRescale(t *testing.T, b statebackend.Backend) { Rescale(t, b, b, false) }

// Rescale takes the state of a task of one backend to 8 tasks of another, and on to 3 tasks of the first and to one. The
// images are such as any backend restores if they are to be whole, else those that cost each backend least, with changes.
func Rescale(t *testing.T, first, second statebackend.Backend, whole bool) {
	m := model{}
	d := newDepot()
	write := func(stores []statebackend.Store, from, to int, value string) {
		t.Helper()
		batches := make([]statebackend.Batch, len(stores))
		var for1 statebackend.Batch
		for i := from; i < to; i++ {
			group, key := grouped(i)
			b := &batches[group*len(stores)/groups]
			b.Append(key, fmt.Append(nil, value, i))
			for1.Append(key, fmt.Append(nil, value, i))
		}
		for i, s := range stores {
			commit(t, s, &batches[i])
		}
		m.commit(&for1)
	}
	check := func(stores []statebackend.Store) {
		t.Helper()
		for i, s := range stores {
			want := model{}
			from, to := groupRange(i, len(stores))
			for k, v := range m {
				if within(k, from, to) {
					want[k] = v
				}
			}
			expect(t, s, want)
		}
	}
	images := func(stores []statebackend.Store) []statebackend.Part {
		parts := make([]statebackend.Part, len(stores))
		for i, s := range stores {
			parts[i] = d.take(t, must(t)(d.image(s, whole)), nil)
			parts[i].From, parts[i].To = groupRange(i, len(stores))
		}
		return parts
	}
	rescale := func(b statebackend.Backend, parts []statebackend.Part, n int) (stores []statebackend.Store) {
		t.Helper()
		for i := range n {
			from, to := groupRange(i, n)
			var mine []statebackend.Part
			for _, p := range parts {
				if bytes.Compare(p.From, from) < 0 {
					p.From = from
				}
				if bytes.Compare(p.To, to) > 0 {
					p.To = to
				}
				if bytes.Compare(p.From, p.To) < 0 {
					mine = append(mine, p)
				}
			}
			s, _ := restore(t, b, fmt.Sprintf("%d of %d", i, n), mine...)
			stores = append(stores, s)
		}
		return stores
	}
	closeAll := func(stores []statebackend.Store) {
		for _, s := range stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	s, _ := openStore(t, first, "one")
	one := []statebackend.Store{s}
	write(one, 0, 2900, "of one ")
	images(one)
	write(one, 2900, 3000, "of one ")
	parts := images(one)
	write(one, 0, 100, "lost") // not in the image
	closeAll(one)
	m = model{}
	for i := range 3000 {
		_, key := grouped(i)
		m[string(key)] = fmt.Sprint("of one ", i)
	}
	eight := rescale(second, parts, 8)
	check(eight)
	write(eight, 1000, 3900, ", of eight ")
	images(eight)
	write(eight, 3900, 4000, ", of eight ")
	check(eight)
	parts = images(eight)
	closeAll(eight)
	three := rescale(first, parts, 3)
	check(three)
	write(three, 2000, 4900, ", of three ")
	images(three)
	write(three, 4900, 5000, ", of three ")
	check(three)
	parts = images(three)
	closeAll(three)
	again := rescale(first, parts, 1)
	check(again)
	closeAll(again)
}

func groupRange(task, tasks int) (from, to []byte) {
	first := func(task int) int { return (task*groups + tasks - 1) / tasks }
	return statebackend.GroupRange(first(task), first(task+1))
}
