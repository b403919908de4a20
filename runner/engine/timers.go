package engine

import (
	"container/heap"
	"slices"
	"time"

	"github.com/lintelrun/lintel/runner/frame"
)

// Timer is a user's timer, or the one by which a window expires.
type Timer struct {
	// Family is the number of the timer family in the stage's list.
	Family int
	// Tag, Key and Window (all encoded) are the rest of the timer's identity: a
	// timer set again replaces the one of the same identity.
	Tag, Key, Window string
	// Fire is when the timer fires, in ms of its time domain.
	Fire int64
	// Hold (ms of event time) keeps the output watermark back until the timer has fired.
	Hold int64
	// Pane is the encoded pane info that the timer was set with.
	Pane []byte
}

// TimerChange is what a bundle does to a timer.
type TimerChange struct {
	Timer
	// Clear takes the timer back; else it is set.
	Clear bool
}

type timerID struct {
	family           int
	tag, key, window string
}

func (t *Timer) id() timerID { return timerID{t.Family, t.Tag, t.Key, t.Window} }

// TimerDomain says when the timers of a family fire.
type TimerDomain int

const (
	// EventTime timers fire once the watermark has passed them.
	EventTime TimerDomain = iota
	// ProcessingTime timers fire by the clock.
	ProcessingTime
	// Expiration timers fire as those of event time, but after all other timers
	// that are due, at the end of time those of processing time included.
	Expiration
	timerDomains // how many there are
)

// TimerDomains are those of a stage's timer families.
type TimerDomains []TimerDomain

// Timers is what a stateful task has set and not yet fired. Timers that were
// handed out to a bundle stay until the bundle commits. One owner.
type Timers struct {
	domains TimerDomains
	set     map[timerID]*timerEntry
	heaps   [timerDomains]timerHeap
	holds   holds
	serial  uint64
}

type timerEntry struct {
	Timer
	serial uint64 // older first among timers of one time
	index  int    // in its heap, -1 while handed out
}

// NewTimers returns no timers.
func NewTimers(d TimerDomains) *Timers {
	return &Timers{domains: d, set: map[timerID]*timerEntry{}, holds: holds{count: map[int64]int{}}}
}

// Len is the number of timers that are set, those handed out included.
func (t *Timers) Len() int { return len(t.set) }

// Set sets a timer, or sets it anew.
func (t *Timers) Set(v Timer) {
	t.Clear(v)
	t.serial++
	e := &timerEntry{Timer: v, serial: t.serial}
	t.set[v.id()] = e
	t.holds.add(v.Hold)
	heap.Push(t.heapOf(v.Family), e)
}

// Clear takes a timer back; only its identity counts. One that isn't set is no error.
func (t *Timers) Clear(v Timer) {
	e := t.set[v.id()]
	if e == nil {
		return
	}
	delete(t.set, v.id())
	t.holds.remove(e.Hold)
	if e.index >= 0 {
		heap.Remove(t.heapOf(e.Family), e.index)
	}
}

// Apply makes a bundle's changes, in order: the last word on a timer counts.
func (t *Timers) Apply(changes []TimerChange) {
	for _, c := range changes {
		if c.Clear {
			t.Clear(c.Timer)
		} else {
			t.Set(c.Timer)
		}
	}
}

// Hold is the smallest hold of all timers, MaxTimestamp if there are none.
func (t *Timers) Hold() int64 { return t.holds.min() }

// NextClock is when the next processing-time timer fires.
func (t *Timers) NextClock() (time.Time, bool) {
	clock := t.heaps[ProcessingTime]
	if len(clock) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(clock[0].Fire), true
}

// Due hands out timers that may fire, at most limit: event-time timers that the
// watermark has passed, or else processing-time timers whose time has come, or
// else those by which windows expire. Per key they are all of one time, the
// key's earliest: firing one may set another that goes before the key's next.
// At the end of time all timers fire, those of processing time without waiting.
func (t *Timers) Due(watermark int64, now time.Time, limit int) []Timer {
	final := watermark >= frame.MaxTimestamp
	clock := now.UnixMilli()
	passed := func(fire int64) bool { return final || fire < watermark }
	for domain, ripe := range [timerDomains]func(fire int64) bool{
		EventTime:      passed,
		ProcessingTime: func(fire int64) bool { return final || fire <= clock },
		Expiration:     passed,
	} {
		if due := t.take(&t.heaps[domain], limit, ripe); len(due) > 0 {
			return due
		}
	}
	return nil
}

func (t *Timers) take(h *timerHeap, limit int, ripe func(fire int64) bool) []Timer {
	var out []Timer
	var later []*timerEntry
	first := map[string]int64{}
	for len(*h) > 0 && len(out) < limit && len(later) < limit && ripe((*h)[0].Fire) {
		e := heap.Pop(h).(*timerEntry)
		if fire, seen := first[e.Key]; seen && fire != e.Fire {
			later = append(later, e)
			continue
		}
		first[e.Key] = e.Fire
		e.index = -1
		out = append(out, e.Timer)
	}
	for _, e := range later {
		heap.Push(h, e)
	}
	return out
}

// Fired removes timers that a committed bundle has fired. A timer that was set
// again meanwhile is another one and stays.
func (t *Timers) Fired(fired []Timer) {
	for _, v := range fired {
		if e := t.set[v.id()]; e != nil && e.index < 0 {
			t.Clear(v)
		}
	}
}

func (t *Timers) heapOf(family int) *timerHeap { return &t.heaps[t.domains[family]] }

// timerHeap has the earliest timer first.
type timerHeap []*timerEntry

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if h[i].Fire != h[j].Fire {
		return h[i].Fire < h[j].Fire
	}
	return h[i].serial < h[j].serial
}
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *timerHeap) Push(x any) {
	e := x.(*timerEntry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *timerHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

// holds is a multiset of timestamps that knows its minimum.
type holds struct {
	count  map[int64]int
	sorted []int64 // distinct, ascending
}

func (h *holds) add(ts int64) {
	if h.count[ts]++; h.count[ts] == 1 {
		i, _ := slices.BinarySearch(h.sorted, ts)
		h.sorted = slices.Insert(h.sorted, i, ts)
	}
}

func (h *holds) remove(ts int64) {
	if h.count[ts]--; h.count[ts] == 0 {
		delete(h.count, ts)
		i, _ := slices.BinarySearch(h.sorted, ts)
		h.sorted = slices.Delete(h.sorted, i, i+1)
	}
}

func (h *holds) min() int64 {
	if len(h.sorted) == 0 {
		return frame.MaxTimestamp
	}
	return h.sorted[0]
}
