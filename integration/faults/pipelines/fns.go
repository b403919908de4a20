package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
)

// mix scatters the bits of a number.
func mix(i int64) int64 {
	x := uint64(i) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return int64(x ^ x>>31)
}

// fill writes an element's value: its number, then noise that follows from it.
func fill(b []byte, i int64) {
	binary.LittleEndian.PutUint64(b, uint64(i))
	for at, x := 8, i; at < len(b); at += 8 {
		x = mix(x)
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], uint64(x))
		copy(b[at:], word[:])
	}
}

// digest is mix of the number of the element that has a value, or nonsense if the value was damaged.
func digest(b []byte) int64 {
	if len(b) < 8 {
		return 1
	}
	i := int64(binary.LittleEndian.Uint64(b))
	for at, x := 8, i; at+8 <= len(b); at += 8 {
		if x = mix(x); binary.LittleEndian.Uint64(b[at:]) != uint64(x) {
			return 1
		}
	}
	return mix(i)
}

type part struct{ Shards int64 }

func (f *part) ProcessElement(_ []byte, emit func(int64)) {
	for i := range f.Shards {
		emit(i)
	}
}

// partOf makes parts of ticks, one each ms.
type partOf struct{ Start, Shards int64 }

func (f *partOf) ProcessElement(at beam.EventTime, _ []byte, emit func(int64)) {
	if i := int64(at) - f.Start; i < f.Shards {
		emit(i)
	}
}

type generate struct{ N, Shards, Keys, Value int64 }

func (f *generate) ProcessElement(shard int64, emit func(int64, []byte)) {
	b := make([]byte, f.Value)
	for i := f.N * shard / f.Shards; i < f.N*(shard+1)/f.Shards; i++ {
		fill(b, i)
		emit(i%f.Keys, b)
	}
}

type digestGroup struct{}

func (*digestGroup) ProcessElement(_ int64, values func(*[]byte) bool, emit func(int64)) {
	emit(sum(values))
}

type digestIterable struct{}

func (*digestIterable) ProcessElement(_ []byte, values func(*[]byte) bool, emit func(int64)) {
	emit(sum(values))
}

type digestMultimap struct{ Keys int64 }

func (f *digestMultimap) ProcessElement(_ []byte, values func(int64) func(*[]byte) bool, emit func(int64)) {
	for k := range f.Keys {
		emit(sum(values(k)))
	}
}

type digestElement struct{}

func (*digestElement) ProcessElement(_ int64, b []byte, emit func(int64)) { emit(digest(b)) }

// digestState keeps all values.
type digestState struct{ Bag state.Bag[[]byte] }

func (f *digestState) ProcessElement(p state.Provider, _ int64, b []byte, emit func(int64)) error {
	emit(digest(b))
	return f.Bag.Add(p, b)
}

// fail does not survive its element: How is error, crash or exhaust.
type fail struct{ How string }

func (f *fail) ProcessElement(_ int64, _ []byte, _ func(int64)) error {
	switch f.How {
	case "crash":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSEGV); err != nil {
			return err
		}
		select {}
	case "exhaust":
		for all := [][]byte{}; ; {
			all = append(all, make([]byte, 256<<20))
		}
	}
	return errors.New("as it was told")
}

// talk has much to say of each element.
type talk struct{}

func (*talk) ProcessElement(ctx context.Context, _ int64, b []byte, emit func(int64)) {
	for i := range 1000 {
		log.Infof(ctx, "%d %s", i, strings.Repeat("blah ", 200))
	}
	emit(digest(b))
}

// slow takes Each for an element.
type slow struct{ Each time.Duration }

func (f *slow) ProcessElement(_ int64, b []byte, emit func(int64)) {
	time.Sleep(f.Each)
	emit(digest(b))
}

type hang struct{}

func (*hang) ProcessElement(_ int64, _ []byte, _ func(int64)) { select {} }

func sum(values func(*[]byte) bool) (s int64) {
	var b []byte
	for values(&b) {
		s += digest(b)
	}
	return s
}

type check struct{ Want int64 }

func (f *check) ProcessElement(_ int, sums func(*int64) bool) error {
	var got, s int64
	for sums(&s) {
		got += s
	}
	if got != f.Want {
		return fmt.Errorf("the sum of digests is %d, want %d", got, f.Want)
	}
	return nil
}

type call2[A, B any] func(A, B)

func (c call2[A, B]) Name() string       { return "call2" }
func (c call2[A, B]) Type() reflect.Type { return reflect.TypeFor[func(A, B)]() }
func (c call2[A, B]) Call(a []any) []any { c(a[0].(A), a[1].(B)); return nil }
func (c call2[A, B]) Call2x0(a, b any)   { c(a.(A), b.(B)) }

func typeOf(f any) reflect.Type { return reflect.TypeOf(f) }
