package statebackendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// testImages takes images of a store at random moments, writes them later, and restores them: wholly or a
// range of their keys, which then goes on.
func testImages(t *testing.T, b statebackend.Backend) {
	rounds := 0
	rapid.Check(t, func(t *rapid.T) {
		rounds++
		name := strconv.Itoa(rounds)
		s, closeStore := openStore(t, b, name)
		type taken struct {
			statebackend.Image
			model
		}
		d, m := newDepot(), model{}
		var open []taken
		var batch statebackend.Batch
		write := func(t *rapid.T) {
			if len(open) == 0 {
				return
			}
			i := rapid.IntRange(0, len(open)-1).Draw(t, "image")
			p := d.take(t, open[i].Image, nil)
			p.From, p.To = drawRange(t, drawKey)
			if p.To != nil && bytes.Compare(p.From, p.To) > 0 || rapid.Bool().Draw(t, "all") {
				p.From, p.To = nil, nil
			}
			want := model{}
			for k, v := range open[i].model {
				if within(k, p.From, p.To) {
					want[k] = v
				}
			}
			open = slices.Delete(open, i, i+1)
			r, closeRestored := restore(t, b, name+" restored", p)
			expect(t, r, want)
			if rapid.IntRange(0, 3).Draw(t, "go on") > 0 {
				closeRestored()
				return
			}
			commitChanges(t, r, want, &batch, 10, drawKey)
			expect(t, r, want)
			p = d.take(t, must(t)(r.Image(d.held)), nil)
			closeRestored()
			r, closeRestored = restore(t, b, name+" again", p)
			expect(t, r, want)
			closeRestored()
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				commitChanges(t, s, m, &batch, rapid.IntRange(0, 30).Draw(t, "changes"), drawKey)
			},
			"fill": func(t *rapid.T) {
				batch.Reset()
				first, step := rapid.IntRange(0, 3000).Draw(t, "first"), rapid.IntRange(-7, 7).Draw(t, "step")
				value := bytes.Repeat([]byte("fill"), rapid.IntRange(0, 500).Draw(t, "value"))
				for i := range rapid.IntRange(0, 300).Draw(t, "keys") {
					n := first + i*step
					batch.Set([]byte{'k', byte(n >> 8), byte(n)}, value)
				}
				commit(t, s, &batch)
				m.commit(&batch)
			},
			"image": func(t *rapid.T) {
				if len(open) < 3 {
					open = append(open, taken{must(t)(d.image(s, rapid.Bool().Draw(t, "whole"))), m.clone()})
				}
			},
			"write": write,
		})
		for len(open) > 0 {
			write(t)
		}
		expect(t, s, m)
		closeStore()
	})
}

func must(t fataler) func(statebackend.Image, error) statebackend.Image {
	return func(i statebackend.Image, err error) statebackend.Image {
		t.Helper()
		if err != nil {
			t.Fatalf("image: %v", err)
		}
		return i
	}
}

// testImageWhileCommitting: images are written while the owner commits, and each has the commits before it. Some
// follow after little, when the last one is written, and have the changes since.
func testImageWhileCommitting(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "going on")
	d := newDepot()
	const images, keys = 12, 200
	parts := make([]statebackend.Part, images)
	models := make([]model, images)
	m := model{}
	var wg sync.WaitGroup
	for n := range images {
		commits := 40
		if n%3 > 0 {
			commits = 3
			wg.Wait()
		}
		i := must(t)(d.image(s, n%4 == 3))
		models[n] = m.clone()
		wg.Go(func() {
			var err error
			if parts[n], err = d.write(i); err != nil {
				t.Errorf("writing image %d: %v", n, err)
			}
		})
		for c := range commits {
			var batch statebackend.Batch
			for k := range keys {
				batch.Set(fmt.Appendf(nil, "%04d", (k*7+c*n)%1000), fmt.Appendf(nil, "value %d of commit %d after image %d", k, c, n))
			}
			if c == commits/2 {
				batch.DeleteRange([]byte("0300"), []byte("0350"))
			}
			commit(t, s, &batch)
			m.commit(&batch)
		}
	}
	wg.Wait()
	expect(t, s, m)
	closeStore()
	for n, p := range parts {
		r, closeRestored := restore(t, b, "restored", p)
		if diff := models[n].difference(r, nil, nil, all); diff != "" {
			t.Errorf("image %d: %s", n, diff)
		}
		closeRestored()
	}
}

// testImagesFollowChanges: what is put of an image is about what has changed since the one before.
func testImagesFollowChanges(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "changes")
	defer closeStore()
	d, m := newDepot(), model{}
	change := func(from, to int, value string) {
		var batch statebackend.Batch
		for i := from; i < to; i++ {
			batch.Set(fmt.Appendf(nil, "key %06d", i*7919%100_000), fmt.Appendf(nil, "%s%d", value, i*i))
		}
		commit(t, s, &batch)
		m.commit(&batch)
	}
	for i := range 50 {
		change(i*2000, (i+1)*2000, "a value that is not so short, ")
	}
	d.take(t, must(t)(s.Image(d.held)), nil)
	all := d.fresh()
	for i := range 4 {
		change(i*200, (i+1)*200, "changed ")
		p := d.take(t, must(t)(s.Image(d.held)), nil)
		if fresh := d.fresh(); fresh > all/4 {
			t.Errorf("image %d: %d bytes after 200 changes, and %d of all", i, fresh, all)
		}
		r, closeRestored := restore(t, b, "restored", p)
		expect(t, r, m)
		closeRestored()
	}
	// Who has lost the files gets them again.
	lost := newDepot()
	r, closeRestored := restore(t, b, "restored", lost.take(t, must(t)(s.Image(lost.held)), nil))
	defer closeRestored()
	expect(t, r, m)
}

// testDamagedImages: what is not as it was is found before it is used.
func testDamagedImages(t *testing.T, b statebackend.Backend) {
	s, closeStore := openStore(t, b, "sound")
	d, m := newDepot(), model{}
	for i := range 20 {
		var batch statebackend.Batch
		for k := range 500 {
			batch.Set(fmt.Appendf(nil, "key %d", (i*500+k)*7919%10_000), fmt.Appendf(nil, "%080d", k*k*i))
		}
		commit(t, s, &batch)
		m.commit(&batch)
	}
	parts := []statebackend.Part{d.take(t, must(t)(statebackend.RecordsImage(s)), nil)}
	d.take(t, must(t)(s.Image(d.held)), nil)
	var batch statebackend.Batch
	batch.Set([]byte("one"), []byte("more"))
	batch.DeleteRange([]byte("key 1"), []byte("key 10"))
	commit(t, s, &batch)
	m.commit(&batch)
	parts = append(parts, d.take(t, must(t)(s.Image(d.held)), nil))
	closeStore()
	refused := func(what string, p statebackend.Part) {
		t.Helper()
		r, err := b.Restore(t.Context(), "damaged", []statebackend.Part{p})
		if err == nil {
			t.Errorf("%s: restored", what)
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		} else if fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v of class %v, want a corruption", what, err, fault.ClassOf(err))
		}
	}
	for _, p := range parts {
		for i, f := range p.Files {
			if len(p.Files) > 8 && i%(len(p.Files)/8) != 0 && i < len(p.Files)-2 {
				continue
			}
			sound := d.files[f.Name]
			for _, at := range []int{0, 7, 20, len(sound) / 3, len(sound) - 1} {
				flipped := bytes.Clone(sound)
				flipped[at] ^= 0x10
				d.files[f.Name] = flipped
				refused(fmt.Sprintf("byte %d of %d of %s flipped", at, len(sound), f.Name), p)
			}
			for _, n := range []int{0, 5, len(sound) / 2, len(sound) - 1} {
				d.files[f.Name] = append([]byte{}, sound[:n]...)
				refused(fmt.Sprintf("%s cut after %d of %d bytes", f.Name, n, len(sound)), p)
			}
			d.files[f.Name] = append(bytes.Clone(sound), 0)
			refused(f.Name+" with a byte behind it", p)
			d.files[f.Name] = nil
			refused(f.Name+" missing", p)
			d.files[f.Name] = sound
		}
	}
	r, closeRestored := restore(t, b, "damaged", parts[1])
	expect(t, r, m)
	closeRestored()
}

// testImageErrors: images end as they should when something else doesn't.
func testImageErrors(t *testing.T, b statebackend.Backend) {
	invalid := func(what string, err error, want fault.Class) {
		t.Helper()
		if fault.ClassOf(err) != want || err == nil {
			t.Errorf("%s: %v, want an error of class %v", what, err, want)
		}
	}
	s, _ := openStore(t, b, "errors")
	var batch statebackend.Batch
	batch.Set([]byte("k"), []byte("v"))
	commit(t, s, &batch)
	i := must(t)(s.Image(nil))
	invalid("closing a store with an open image", s.Close(), fault.Invalid)
	full := errors.New("the depot is full")
	if err := i.Write(t.Context(), func(statebackend.File, io.ReadSeeker) error { return full }); !errors.Is(err, full) {
		t.Errorf("writing to what fails: %v", err)
	}
	d := newDepot()
	p := d.take(t, i, nil) // and again
	invalid("closing an image twice", i.Close(), fault.Invalid)
	invalid("writing a closed image", i.Write(t.Context(), d.put), fault.Invalid)
	i = must(t)(s.Image(d.held)) // is not written at all
	if err := i.Close(); err != nil {
		t.Error(err)
	}
	_, err := b.Restore(t.Context(), "errors", []statebackend.Part{p})
	invalid("restoring an open store", err, fault.Invalid)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Image(nil)
	invalid("image of a closed store", err, fault.Invalid)
	twice, unknown, turned := p, p, p
	unknown.Form = 77
	turned.From, turned.To = []byte("b"), []byte("a")
	_, err = b.Restore(t.Context(), "errors", []statebackend.Part{p, twice})
	invalid("restoring the same keys twice", err, fault.Invalid)
	_, err = b.Restore(t.Context(), "errors", []statebackend.Part{unknown})
	invalid("restoring what is unknown", err, fault.Invalid)
	_, err = b.Restore(t.Context(), "errors", []statebackend.Part{turned})
	invalid("restoring a range that is none", err, fault.Invalid)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = b.Restore(cancelled, "errors", []statebackend.Part{p}); !errors.Is(err, context.Canceled) {
		t.Errorf("restoring when nobody wants it any more: %v", err)
	}
	r, closeRestored := restore(t, b, "errors")
	expect(t, r, model{})
	closeRestored()
	r, closeRestored = restore(t, b, "errors", p)
	expect(t, r, model{"k": "v"})
	closeRestored()
}
