package main

import (
	"encoding/binary"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
)

// A Nexmark-like generator: of every 50 events 1 is a person, 3 are auctions, 46 are bids,
// as in Nexmark; ids, hot items and hot sellers in Nexmark's manner; event time advances
// 1 ms per 10 events (10,000 events/s of event time).
//
// Wire form, little endian: kind u8, then
//
//	person:  id i64, state u8, name/email/city filler
//	auction: id i64, seller i64, category i64, filler
//	bid:     auction i64, bidder i64, price i64, filler
const (
	kPerson = iota
	kAuction
	kBid
)

type event struct {
	kind    byte
	id      int64 // person id, auction id; bid: auction
	b       int64 // person: state; auction: seller; bid: bidder
	c       int64 // auction: category; bid: price
	ts      int64
	fillLen int
}

const firstId = 1000

func lastPerson(i int64) int64 { return i / 50 }
func lastAuction(i int64) int64 {
	e, o := i/50, i%50
	switch {
	case o < 1:
		return e*3 - 1
	case o < 4:
		return e*3 + o - 1
	}
	return e*3 + 2
}

func gen(i int64) (e event) {
	e.ts = baseMs + i/10
	r := mix(uint64(i) * 3)
	r2 := mix(r)
	switch o := i % 50; {
	case o == 0:
		e.kind = kPerson
		e.id = firstId + lastPerson(i)
		e.b = int64(r % 6) // AZ CA ID OR WA WY
		e.fillLen = 150
	case o < 4:
		e.kind = kAuction
		e.id = firstId + lastAuction(i)
		lp := lastPerson(i)
		if r%4 != 0 { // hot seller
			e.b = firstId + lp/100*100
		} else {
			n := min(lp+1, 1000)
			e.b = firstId + lp - int64(r2%uint64(n))
		}
		e.c = 10 + int64((r>>20)%5)
		e.fillLen = 300
	default:
		e.kind = kBid
		la := max(lastAuction(i), 0)
		if r%2 != 0 {
			e.id = firstId + la/100*100
		} else {
			n := min(la+1, 100)
			e.id = firstId + la - int64(r2%uint64(n))
		}
		e.b = firstId + int64((r>>20)%uint64(lastPerson(i)+1))
		e.c = 100 + int64((r2>>8)%10_000_000)
		e.fillLen = 70
	}
	return
}

func (e *event) enc(buf []byte, i int64) []byte {
	buf = append(buf[:0], e.kind)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.id))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.b))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.c))
	return append(buf, value(i, e.fillLen)...)
}

func eKind(b []byte) byte     { return b[0] }
func eID(b []byte) int64      { return int64(binary.LittleEndian.Uint64(b[1:])) }
func eB(b []byte) int64       { return int64(binary.LittleEndian.Uint64(b[9:])) }
func eC(b []byte) int64       { return int64(binary.LittleEndian.Uint64(b[17:])) }
func encHash(b []byte) uint64 { return hashBytes(b) }

type nexGen struct{ N, S int64 }

func (f *nexGen) ProcessElement(sh int64, emit func(beam.EventTime, []byte)) {
	lo, hi := rng(sh, f.S, f.N)
	for i := lo; i < hi; i++ {
		e := gen(i)
		emit(mtime.FromMilliseconds(e.ts), e.enc(make([]byte, 0, 25+e.fillLen), i))
	}
}

type passSink struct{ r result }

func (f *passSink) ProcessElement(b []byte) { f.r.add(encHash(b)) }
func (f *passSink) FinishBundle()           { sinkFlush(&f.r) }

// q1: bids with the price in euro
type q1Fn struct{}

func (f *q1Fn) ProcessElement(b []byte, emit func([]byte)) {
	if eKind(b) == kBid {
		o := append([]byte(nil), b...)
		binary.LittleEndian.PutUint64(o[17:], uint64(eC(b)*89/100))
		emit(o)
	}
}

// q2: bids on some auctions -> (auction, price)
type q2Fn struct{}

func (f *q2Fn) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kBid && eID(b)%123 == 0 {
		emit(eID(b), eC(b))
	}
}

// q3: who is selling in OR, ID, CA in category 10
type q3Person struct{}

func q3State(s int64) bool { return s >= 1 && s <= 3 }

func (f *q3Person) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kPerson && q3State(eB(b)) {
		emit(eID(b), eB(b))
	}
}

type q3Auction struct{}

func (f *q3Auction) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kAuction && eC(b) == 10 {
		emit(eB(b), eID(b))
	}
}

type joinFn struct{}

func (f *joinFn) ProcessElement(k int64, ps, as func(*int64) bool, emit func(int64, int64)) {
	var p, a int64
	if !ps(&p) {
		return
	}
	for as(&a) {
		emit(a, k*10+p)
	}
}

// q5: bids per auction
type bidAuction struct{}

func (f *bidAuction) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kBid {
		emit(eID(b), 1)
	}
}

// one key for the window's maximum: count<<32 | auction in one int64, max keeps the greatest
type q5Pack struct{}

func (f *q5Pack) ProcessElement(a, n int64, emit func(int64, int64)) { emit(0, n<<32|a) }

func maxInt64(a, b int64) int64 { return max(a, b) }

// q7: highest bids: bids whose price is the window's maximum (a side input)
type bidPrice struct{}

func (f *bidPrice) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kBid {
		emit(0, eC(b))
	}
}

type dropKey struct{}

func (f *dropKey) ProcessElement(_, v int64, emit func(int64)) { emit(v) }

type bidOnly struct{}

func (f *bidOnly) ProcessElement(b []byte, emit func([]byte)) {
	if eKind(b) == kBid {
		emit(b)
	}
}

type q7Sel struct{}

func (f *q7Sel) ProcessElement(b []byte, mx func(*int64) bool, emit func(int64, int64)) {
	var m int64
	if mx(&m) && eC(b) == m {
		emit(eID(b), m)
	}
}

// q8: persons who opened auctions in the window of their registration
type q8Person struct{}

func (f *q8Person) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kPerson {
		emit(eID(b), eB(b))
	}
}

type q8Auction struct{}

func (f *q8Auction) ProcessElement(b []byte, emit func(int64, int64)) {
	if eKind(b) == kAuction {
		emit(eB(b), eID(b))
	}
}

func init() {
	reg2[int64, func(beam.EventTime, []byte)](&nexGen{})
	reg1[[]byte](&passSink{})
	reg2[[]byte, func([]byte)](&q1Fn{})
	reg2[[]byte, func([]byte)](&bidOnly{})
	reg2[[]byte, func(int64, int64)](&q2Fn{})
	reg2[[]byte, func(int64, int64)](&q3Person{})
	reg2[[]byte, func(int64, int64)](&q3Auction{})
	reg2[[]byte, func(int64, int64)](&bidAuction{})
	reg2[[]byte, func(int64, int64)](&bidPrice{})
	reg2[[]byte, func(int64, int64)](&q8Person{})
	reg2[[]byte, func(int64, int64)](&q8Auction{})
	reg3[int64, int64, func(int64, int64)](&q5Pack{})
	reg3[int64, int64, func(int64)](&dropKey{})
	reg4[int64, func(*int64) bool, func(*int64) bool, func(int64, int64)](&joinFn{})
	reg3[[]byte, func(*int64) bool, func(int64, int64)](&q7Sel{})
	regFn(maxInt64)
}

func nexmarkBenches() map[string]bench {
	N, S := *fN, int64(*fShards)
	n := func() int64 { return N }
	in := func(s beam.Scope) beam.PCollection { return beam.ParDo(s, &nexGen{N, S}, shards(s)) }
	each := func(f func(e event, i int64)) {
		for i := int64(0); i < N; i++ {
			f(gen(i), i)
		}
	}
	type wk struct{ w, k int64 }
	b := map[string]bench{}
	b["nexmark-q0"] = bench{
		build: func(s beam.Scope) { beam.ParDo0(s, &passSink{}, beam.Reshuffle(s, in(s))) },
		plain: func() (r result) {
			var buf []byte
			each(func(e event, i int64) { buf = e.enc(buf, i); r.add(encHash(buf)) })
			return
		}, n: n}
	b["nexmark-q1"] = bench{
		build: func(s beam.Scope) {
			beam.ParDo0(s, &passSink{}, beam.ParDo(s, &q1Fn{}, beam.Reshuffle(s, in(s))))
		},
		plain: func() (r result) {
			var buf []byte
			each(func(e event, i int64) {
				if e.kind == kBid {
					e.c = e.c * 89 / 100
					buf = e.enc(buf, i)
					r.add(encHash(buf))
				}
			})
			return
		}, n: n}
	b["nexmark-q2"] = bench{
		build: func(s beam.Scope) {
			beam.ParDo0(s, &kiSink{}, beam.ParDo(s, &q2Fn{}, beam.Reshuffle(s, in(s))))
		},
		plain: func() (r result) {
			each(func(e event, i int64) {
				if e.kind == kBid && e.id%123 == 0 {
					r.add(hash2(uint64(e.id), uint64(e.c)))
				}
			})
			return
		}, n: n}
	b["nexmark-q3"] = bench{
		build: func(s beam.Scope) {
			ev := in(s)
			p := beam.ParDo(s, &q3Person{}, ev)
			a := beam.ParDo(s, &q3Auction{}, ev)
			beam.ParDo0(s, &kiSink{}, beam.ParDo(s, &joinFn{}, beam.CoGroupByKey(s, p, a)))
		},
		plain: func() (r result) {
			ps := map[int64]int64{}
			each(func(e event, i int64) {
				if e.kind == kPerson && q3State(e.b) {
					ps[e.id] = e.b
				}
			})
			each(func(e event, i int64) {
				if e.kind == kAuction && e.c == 10 {
					if st, ok := ps[e.b]; ok {
						r.add(hash2(uint64(e.id), uint64(e.b*10+st)))
					}
				}
			})
			return
		}, n: n}
	b["nexmark-q5"] = bench{ // hot items: sliding 10 s every 5 s
		build: func(s beam.Scope) {
			c := beam.ParDo(s, &bidAuction{}, in(s))
			c = beam.WindowInto(s, window.NewSlidingWindows(5*time.Second, 10*time.Second), c)
			c = beam.CombinePerKey(s, sumInt64, c)
			c = beam.ParDo(s, &q5Pack{}, c)
			c = beam.CombinePerKey(s, maxInt64, c)
			beam.ParDo0(s, &wkiSink{}, c)
		},
		plain: func() (r result) {
			m := map[wk]int64{}
			each(func(e event, i int64) {
				if e.kind == kBid {
					st := e.ts - e.ts%5000
					m[wk{st + 9999, e.id}]++
					m[wk{st + 4999, e.id}]++
				}
			})
			mx := map[int64]int64{}
			for x, c := range m {
				mx[x.w] = max(mx[x.w], c<<32|x.k)
			}
			for w, v := range mx {
				r.add(hash3(uint64(w), 0, uint64(v)))
			}
			return
		}, n: n}
	b["nexmark-q7"] = bench{ // highest bid per 10 s
		build: func(s beam.Scope) {
			bids := beam.ParDo(s, &bidOnly{}, in(s))
			bids = beam.WindowInto(s, window.NewFixedWindows(10*time.Second), bids)
			mx := beam.ParDo(s, &dropKey{}, beam.CombinePerKey(s, maxInt64, beam.ParDo(s, &bidPrice{}, bids)))
			beam.ParDo0(s, &wkiSink{}, beam.ParDo(s, &q7Sel{}, bids, beam.SideInput{Input: mx}))
		},
		plain: func() (r result) {
			mx := map[int64]int64{}
			each(func(e event, i int64) {
				if e.kind == kBid {
					w := e.ts - e.ts%10_000 + 9999
					mx[w] = max(mx[w], e.c)
				}
			})
			each(func(e event, i int64) {
				if e.kind == kBid {
					w := e.ts - e.ts%10_000 + 9999
					if mx[w] == e.c {
						r.add(hash3(uint64(w), uint64(e.id), uint64(e.c)))
					}
				}
			})
			return
		}, n: n}
	b["nexmark-q8"] = bench{ // new users who sell, 10 s
		build: func(s beam.Scope) {
			ev := beam.WindowInto(s, window.NewFixedWindows(10*time.Second), in(s))
			p := beam.ParDo(s, &q8Person{}, ev)
			a := beam.ParDo(s, &q8Auction{}, ev)
			beam.ParDo0(s, &kiSink{}, beam.ParDo(s, &joinFn{}, beam.CoGroupByKey(s, p, a)))
		},
		plain: func() (r result) {
			ps := map[wk]int64{}
			each(func(e event, i int64) {
				if e.kind == kPerson {
					ps[wk{e.ts / 10_000, e.id}] = e.b
				}
			})
			each(func(e event, i int64) {
				if e.kind == kAuction {
					if st, ok := ps[wk{e.ts / 10_000, e.b}]; ok {
						r.add(hash2(uint64(e.id), uint64(e.b*10+st)))
					}
				}
			})
			return
		}, n: n}
	return b
}
