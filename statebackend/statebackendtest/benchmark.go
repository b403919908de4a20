package statebackendtest

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/lintelrun/lintel/statebackend"
)

const benchmarkKeys = 100_000

// Benchmark measures a backend with 100,000 cells as pipelines have them. An operation is one
// key, but for Commit100 (a batch of 100 changes) and Snapshot.
func Benchmark(b *testing.B, open func(b *testing.B) statebackend.Backend) {
	for _, c := range []struct {
		name string
		run  func(*testing.B, statebackend.Store)
	}{
		{"Get", benchmarkGet},
		{"GetAbsent", benchmarkGetAbsent},
		{"Set", func(b *testing.B, s statebackend.Store) { benchmarkCommit(b, s, 1, (*statebackend.Batch).Set) }},
		{"Append", func(b *testing.B, s statebackend.Store) { benchmarkCommit(b, s, 1, (*statebackend.Batch).Append) }},
		{"Commit100", func(b *testing.B, s statebackend.Store) { benchmarkCommit(b, s, 100, (*statebackend.Batch).Set) }},
		{"Scan", benchmarkScan},
		{"Snapshot", benchmarkSnapshot},
		{"Bundle/1", func(b *testing.B, s statebackend.Store) { benchmarkBundle(b, s, 1) }},
		{"Bundle/100", func(b *testing.B, s statebackend.Store) { benchmarkBundle(b, s, 100) }},
		{"Bundle/10000", func(b *testing.B, s statebackend.Store) { benchmarkBundle(b, s, 10_000) }},
		{"RemoveWindow", benchmarkRemoveWindow},
	} {
		b.Run(c.name, func(b *testing.B) {
			backend := open(b)
			s, closeStore := openStore(b, backend, "benchmark")
			var batch statebackend.Batch
			for i := range benchmarkKeys {
				batch.Set(cellKey(nil, i), []byte("8 bytes."))
				if batch.Len() == 1000 {
					commit(b, s, &batch)
					batch.Reset()
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			c.run(b, s)
			b.StopTimer()
			closeStore()
			if err := backend.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// cellKey appends the key of the i-th cell, of keys that are in no order.
func cellKey(dst []byte, i int) []byte {
	c := cell(i)
	return c.AppendKey(dst)
}

func cell(i int) statebackend.Cell {
	hash := uint64(i) * 0x9e3779b97f4a7c15
	c := statebackend.Cell{Key: binary.LittleEndian.AppendUint64([]byte{8}, hash), State: "count"}
	c.Group, c.Transform = uint16(hash>>54), "Count words/Combine per key/ParDo(Count)"
	return c
}

func benchmarkGet(b *testing.B, s statebackend.Store) {
	var key []byte
	for i := range b.N {
		key = cellKey(key[:0], i*31%benchmarkKeys)
		if v, err := s.Get(key); err != nil || v == nil {
			b.Fatalf("%x: %v", v, err)
		}
	}
}

func benchmarkGetAbsent(b *testing.B, s statebackend.Store) {
	var key []byte
	for i := range b.N {
		key = cellKey(key[:0], benchmarkKeys+i)
		if v, err := s.Get(key); err != nil || v != nil {
			b.Fatalf("%x: %v", v, err)
		}
	}
}

func benchmarkCommit(b *testing.B, s statebackend.Store, n int, change func(b *statebackend.Batch, key, value []byte)) {
	var key []byte
	var batch statebackend.Batch
	for i := range b.N {
		batch.Reset()
		for j := range n {
			key = cellKey(key[:0], (i*n+j)*31%benchmarkKeys)
			change(&batch, key, []byte("8 bytes!"))
		}
		commit(b, s, &batch)
	}
}

func benchmarkScan(b *testing.B, s statebackend.Store) {
	for n := 0; n < b.N; {
		err := s.Scan(nil, nil, func(_, _ []byte) bool {
			n++
			return n < b.N
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkSnapshot(b *testing.B, s statebackend.Store) {
	for range b.N {
		closeSnapshot(b, snapshot(b, s))
	}
}

// benchmarkBundle is stateful ParDo: bundles of n elements, each a get and an append of a
// cell of its own in an overlay over a snapshot, then a commit.
func benchmarkBundle(b *testing.B, s statebackend.Store, n int) {
	var key []byte
	o := statebackend.NewOverlay(nil)
	for i := 0; i < b.N; {
		pinned := snapshot(b, s)
		o.Reset(pinned)
		for range n {
			key = cellKey(key[:0], i*31%benchmarkKeys)
			if _, err := o.Get(key); err != nil {
				b.Fatal(err)
			}
			o.Set(key, []byte("8 bytes!"))
			i++
		}
		batch := o.Batch()
		closeSnapshot(b, pinned)
		commit(b, s, batch)
	}
}

// benchmarkRemoveWindow ends the window of one key a bundle of 100, as they follow each
// other in a stream: cells are made, their timers set, and both removed.
func benchmarkRemoveWindow(b *testing.B, s statebackend.Store) {
	o := statebackend.NewOverlay(nil)
	bundle := func(do func()) {
		pinned := snapshot(b, s)
		o.Reset(pinned)
		do()
		batch := o.Batch()
		closeSnapshot(b, pinned)
		commit(b, s, batch)
	}
	const n = 100
	for i := 0; i < b.N; i += n {
		bundle(func() {
			for j := range n {
				c := cell(i + j)
				c.Window = fmt.Append(nil, i)
				o.Append(c.AppendKey(nil), []byte("8 bytes!"))
				if _, _, err := statebackend.SetTimer(o, c.Scope, statebackend.Timer{Key: c.Key, Window: c.Window, Family: "f", Domain: statebackend.EventTime}); err != nil {
					b.Fatal(err)
				}
			}
		})
		bundle(func() {
			for j := range n {
				c := cell(i + j)
				e := statebackend.Expiry{Scope: c.Scope, Window: fmt.Append(nil, i), Key: c.Key}
				if err := statebackend.RemoveWindow(o, e, func(statebackend.Timer) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
